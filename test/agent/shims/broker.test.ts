import { createHash, createPublicKey, verify } from "node:crypto";
import { afterEach, beforeEach, expect, test } from "vitest";
import type { LivePolicy } from "../../../agent/broker/index.ts";
import { domainToken } from "../../../agent/scopes/all-scopes.ts";
import { type Policy, utf8 } from "../../../policy/index.ts";
import { type BrokerFixture, startBroker } from "../../support/broker-fixture.ts";
import { openSession, sign, signInit } from "../../support/broker-session.ts";
import { makeCountingToken } from "../../support/counting-token.ts";
import { type DomainBench, openDomainBench, type TestDomain } from "../../support/domain-fixture.ts";
import { TEST_PIN, writeHostProfile } from "../../support/shim-fixture.ts";

const MESSAGE = utf8("a message to sign");
const DIGEST = Uint8Array.from(createHash("sha256").update(MESSAGE).digest());
const CKR_DEVICE_ERROR = 0x30n;
const CKR_FUNCTION_REJECTED = 0x200n;
const SCOPE = "release-signing";
const CLIENTS = 8;

let bench: DomainBench;
let opened: TestDomain;
let broker: BrokerFixture;
/** Before a takeover is in the TPM: until then its spare serves nobody. */
let measured: Promise<void> = Promise.resolve();
let spki: Uint8Array;
beforeEach(async () => {
  bench = await openDomainBench({ beforeExtend: () => measured });
  const token = makeCountingToken(bench.bench, { pin: TEST_PIN });
  const { environment, directory, library } = token;
  ({ spki } = token);
  const profile = writeHostProfile(bench.bench, { environment, tokens: directory });
  opened = await bench.open({ library, environment, profile, pin: TEST_PIN }, { spares: 1 });
  broker = await startBroker({
    token: domainToken(opened.domain),
    publicKeys: new Map([["release-ec", { spki, id: Uint8Array.of(1), label: "release-ec" }]]),
    change: (document) => {
      document.scopes = document.scopes
        .filter(({ key }) => key === "release-ec")
        .map(({ rate: _, ...scope }) => scope as (typeof document.scopes)[number]);
      document.keys = Object.fromEntries(Object.entries(document.keys).filter(([name]) => name === "release-ec"));
    },
  });
});
afterEach(async () => {
  measured = Promise.resolve();
  await broker.close();
  opened.domain.close();
  await bench.close();
});

function isGood(signature: Uint8Array): boolean {
  const publicKey = createPublicKey({ key: Buffer.from(spki), format: "der", type: "spki" });
  return verify("sha256", MESSAGE, { key: publicKey, dsaEncoding: "ieee-p1363" }, signature);
}

test("I8: callers' sessions outlive a shim that is killed under load; each call ends, and no record stands for two signatures", async () => {
  const clients = await Promise.all(Array.from({ length: CLIENTS }, () => openSession(broker)));
  let calls = 0;
  const answers = { good: 0, failed: 0 };
  const load = clients.map(async (client) => {
    for (let at = 0; at < 20; at++) {
      calls += 1;
      if (calls === 40) opened.processes[0]?.kill("SIGKILL");
      expect((await signInit(client)).rv).toBe(0n); // the session that was opened before the kill
      const reply = await sign(client, DIGEST);
      if (reply.rv === 0n) {
        expect(isGood(reply.values.slice(5, 5 + 64))).toBe(true);
        answers.good += 1;
      } else {
        expect(reply.rv).toBe(CKR_DEVICE_ERROR);
        answers.failed += 1;
      }
    }
  });
  await Promise.all(load);
  expect(answers.good + answers.failed).toBe(CLIENTS * 20);
  expect(answers.failed).toBeLessThanOrEqual(CLIENTS);
  const allowed = broker.records().filter(({ operation, decision }) => operation === "sign" && decision === "allow");
  expect(allowed).toHaveLength(CLIENTS * 20);
  // Whatever the first shim did with what it was asked last, the spare was asked for none of it.
  expect(Number(await opened.shims[1]?.status())).toBeLessThanOrEqual(answers.good);
  expect(opened.domain.shims.map(({ role }) => role)).toEqual(["ended", "active"]);
  for (const client of clients) client.end();
});

test.each([
  [
    "its scope is frozen",
    "frozen meanwhile",
    (live: LivePolicy) => live.freeze({ all: false, scopes: new Set([SCOPE]) }),
  ],
  ["its scope is narrowed away", "narrowed meanwhile", (live: LivePolicy) => live.narrow(withoutScope(live.current))],
])("I6 I8: what waits for a spare is not asked of it when %s by then, and the log says so", async (_, why, take) => {
  const client = await openSession(broker);
  expect((await signInit(client)).rv).toBe(0n);
  const gate = Promise.withResolvers<void>();
  measured = gate.promise;
  opened.processes[0]?.kill("SIGKILL");
  await opened.shims[0]?.closed;
  const waiting = sign(client, DIGEST);
  await expect.poll(() => broker.records().map(({ decision }) => decision)).toEqual(["allow"]);
  take(broker.broker.live);
  gate.resolve();
  expect((await waiting).rv).toBe(CKR_FUNCTION_REJECTED);
  expect(await opened.shims[1]?.status()).toBe(0n);
  expect(broker.records().map(({ decision, reason }) => [decision, reason])).toEqual([
    ["allow", "release-signing/CKM_ECDSA"],
    ["deny", `${why}: record 1 was withheld from the token`],
  ]);
  client.end();
});

function withoutScope(policy: Policy): Policy {
  return { ...policy, serial: policy.serial + 1, scopes: policy.scopes.filter(({ name }) => name !== SCOPE) };
}
