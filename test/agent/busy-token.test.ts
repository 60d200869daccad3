import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { AgentError } from "../../agent/errors.ts";
import { type BrokerFixture, softwareKeys, startBroker } from "../support/broker-fixture.ts";
import { DIGEST, decryptOnce, oaep, openSession, sign, signInit } from "../support/broker-session.ts";
import type { PolicyDocument } from "../support/policy-document.ts";

const CKR_DEVICE_ERROR = 0x30n;
const CKR_DEVICE_MEMORY = 0x31n;
const CKR_REJECTED = 0x200n;
const keys = softwareKeys();
const CIPHERTEXT = new Uint8Array(256).fill(1);

let broker: BrokerFixture;
let free: number;
let answer: () => Promise<void>;
beforeEach(() => start());
afterEach(() => broker.close());

async function start(change?: (document: PolicyDocument) => void): Promise<void> {
  free = 1;
  answer = async () => undefined;
  // A token with room for one request, which answers when the test says so.
  const reserve = () => {
    if (free === 0) return null;
    free -= 1;
    return {
      [Symbol.dispose]: () => {
        free += 1;
      },
    };
  };
  broker = await startBroker({
    publicKeys: keys.publicKeys,
    token: {
      reserve,
      sign: async (request) => {
        await answer();
        return keys.sign(request);
      },
      decrypt: async (request) => {
        await answer();
        return keys.decrypt(request);
      },
    },
    ...(change !== undefined && { change }),
  });
}

async function signing() {
  const client = await openSession(broker);
  expect((await signInit(client)).rv).toBe(0n);
  return client;
}

const steps = () => broker.records().map(({ operation, decision, step }) => `${operation} ${decision} ${step}`);

describe("a token with too many requests", () => {
  test("I8 I10: refuses the next as having no room, before any record says that it was allowed", async () => {
    const gate = Promise.withResolvers<void>();
    answer = () => gate.promise;
    const [first, second] = [await signing(), await signing()];
    const signature = sign(first, DIGEST);
    await expect.poll(() => broker.requests.length).toBe(1);
    expect((await sign(second, DIGEST)).rv).toBe(CKR_DEVICE_MEMORY);
    expect(await decryptOnce(await openSession(broker, "vault"), oaep(0), CIPHERTEXT)).toBe(CKR_DEVICE_MEMORY);
    expect([broker.requests.length, broker.decryptions.length]).toEqual([1, 0]);
    expect(steps()).toEqual(["sign allow null", "sign deny busy", "decrypt deny busy"]);
    gate.resolve();
    expect((await signature).rv).toBe(0n);
    expect((await signInit(second)).rv).toBe(0n);
    expect((await sign(second, DIGEST)).rv).toBe(0n);
  });

  test("I10: costs no place of a decryption's failure budget", async () => {
    free = 0;
    const client = await openSession(broker, "vault");
    for (let at = 0; at < 20; at++) expect(await decryptOnce(client, oaep(0), CIPHERTEXT)).toBe(CKR_DEVICE_MEMORY);
    free = 1;
    expect(await decryptOnce(client, oaep(0), CIPHERTEXT)).toBe(0x40n); // asked: it is no ciphertext
  });

  test("I6 I10: what waits for a key's failure budget is among the operations of its scope, and holds no place that others want", async () => {
    await broker.close();
    await start(({ scopes }) => {
      for (const scope of scopes.filter(({ key }) => key === "vault"))
        Object.assign(scope, { inFlight: 2, failures: { perHour: 60, burst: 1 } });
    });
    free = 5;
    const gate = Promise.withResolvers<void>();
    answer = () => gate.promise;
    const open = () => openSession(broker, "vault");
    const [first, second, third] = [await open(), await open(), await open()];
    const one = decryptOnce(first, oaep(0), CIPHERTEXT);
    await expect.poll(() => broker.decryptions.length).toBe(1);
    const two = decryptOnce(second, oaep(0), CIPHERTEXT);
    await expect.poll(() => broker.broker.usage.inFlight("vault")).toBe(2);
    expect(free).toBe(4);
    expect(await decryptOnce(third, oaep(0), CIPHERTEXT)).toBe(CKR_DEVICE_MEMORY);
    gate.resolve();
    expect([await one, await two]).toEqual([0x40n, CKR_REJECTED]); // the one failure that there was is spent
    broker.time += 60_000;
    expect(await decryptOnce(third, oaep(0), CIPHERTEXT)).toBe(0x40n);
    expect([free, broker.broker.usage.inFlight("vault"), broker.decryptions.length]).toEqual([5, 0, 2]);
    expect(steps().map((step) => step.slice(8))).toEqual(["allow null", "deny busy", "deny budget", "allow null"]);
  });

  test("I10: has room again whatever became of the request that had it", async () => {
    const client = await signing();
    answer = () => Promise.reject(new AgentError("ERR_SHIM_GONE", "shim connection: closed"));
    expect((await sign(client, DIGEST)).rv).toBe(CKR_DEVICE_ERROR);
    expect((await signInit(client)).rv).toBe(0n);
    expect((await sign(client, DIGEST.slice(1))).rv).toBe(0x21n); // refused by the policy
    expect(free).toBe(1);
  });
});
