import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { AgentError } from "../../agent/errors.ts";
import { type BrokerFixture, softwareKeys, startBroker } from "../support/broker-fixture.ts";
import { DIGEST, decryptOnce, oaep, openSession, sign, signInit } from "../support/broker-session.ts";

const CKR_DEVICE_ERROR = 0x30n;
const CKR_DEVICE_MEMORY = 0x31n;
const keys = softwareKeys();
const CIPHERTEXT = new Uint8Array(256).fill(1);

let broker: BrokerFixture;
let free: number;
let answer: () => Promise<void>;
beforeEach(async () => {
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
    },
  });
});
afterEach(() => broker.close());

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

  test("I10: has room again whatever became of the request that had it", async () => {
    const client = await signing();
    answer = () => Promise.reject(new AgentError("ERR_SHIM_GONE", "shim connection: closed"));
    expect((await sign(client, DIGEST)).rv).toBe(CKR_DEVICE_ERROR);
    expect((await signInit(client)).rv).toBe(0n);
    expect((await sign(client, DIGEST.slice(1))).rv).toBe(0x21n); // refused by the policy
    expect(free).toBe(1);
  });
});
