import { createHash, createPublicKey, type KeyObject, verify } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { domainToken } from "../../agent/scopes/all-scopes.ts";
import { utf8 } from "../../policy/index.ts";
import { type BrokerFixture, startBroker } from "../support/broker-fixture.ts";
import { openSession, plain, sign, signInit } from "../support/broker-session.ts";
import { type DomainBench, type DomainToken, openDomainBench, type TestDomain } from "../support/domain-fixture.ts";
import type { RawClient } from "../support/rpc-client.ts";
import {
  type Bench,
  keyNamed,
  makeToken,
  native,
  openBench,
  publicKeyOf,
  SOFTHSM,
  TEST_PIN,
  writeHostProfile,
} from "../support/shim-fixture.ts";
import { casesOf, endsInTime } from "./extent.ts";
import { caseName, type Damage, damagesOf, only } from "./shim-damage.ts";
import { openWiredShim, type ShimWire, type WireFrame } from "./shim-wire.ts";

/** CKM_SHA256_RSA_PKCS, whose signatures the agent verifies, and CKM_ECDSA, whose it does not. */
const KINDS = { rsa: { scope: "rsa-signing", type: 0x40 }, ec: { scope: "release-signing", type: 0x1041 } } as const;
type Kind = keyof typeof KINDS;
/** What the token's failure, and the log's, is to a caller. */
const REFUSALS = [0x30n, 0x6n];

/** How many shims one boot replaces (`ROOM`): before that another begins. */
const REPLACED = 12;

let place: Bench;
let bench: DomainBench;
let replaced = 0;
let token: DomainToken;
let broker: BrokerFixture;
let opened: TestDomain;
let wire: ShimWire;
let publicKeys: Readonly<Record<Kind, KeyObject>>;
beforeAll(async () => {
  bench = await openDomainBench();
  place = openBench();
  const made = makeToken(place);
  const profile = writeHostProfile(place, made);
  token = { library: SOFTHSM, environment: made.environment, profile, pin: TEST_PIN, label: "bench" };
  await openDomain();
  const keys = await opened.domain.use("ec", (shim, { slotId }) => shim.keys(slotId));
  publicKeys = { rsa: publicKeyOf(keyNamed(keys, "rsa")), ec: publicKeyOf(keyNamed(keys, "ec")) };
  const source = (kind: Kind, id: number) => ({
    spki: Uint8Array.from(publicKeys[kind].export({ format: "der", type: "spki" })),
    ...{ id: Uint8Array.of(id), label: kind },
  });
  broker = await startBroker({
    token: {
      reserve: (key) => domainToken(opened.domain).reserve(key),
      sign: (request, asked) =>
        domainToken(opened.domain).sign({ ...request, key: request.key.replace("release-", "") }, asked),
    },
    publicKeys: new Map([
      ["release-ec", source("ec", 1)],
      ["release-rsa", source("rsa", 2)],
    ]),
    change: (document) => {
      for (const scope of document.scopes) delete scope["rate"];
      delete document.keys["vault"];
    },
  });
});
afterAll(async () => {
  await broker?.close();
  opened?.domain.close();
  await bench?.close();
  place?.remove();
});

/** A shim behind a wire, and its spare. */
async function openDomain(): Promise<void> {
  opened = await bench.open(token, {
    ...{ spares: 1, timeoutMs: 1_500 },
    openShim: async (id, fd, options) => {
      const wired = await openWiredShim(fd, native(), options);
      if (id === 0) wire = wired;
      return wired.shim;
    },
  });
}

/** Once the first shim has gone, and its spare serves. */
async function renewIfGone(): Promise<void> {
  if (opened.domain.shims[0]?.role === "active") return;
  opened.domain.close();
  if (++replaced % REPLACED === 0) {
    await bench.close();
    bench = await openDomainBench();
  }
  await openDomain();
}

const messageOf = (caller: number) => utf8(`message ${caller}`);

/** One signature by a caller: right, or a plain refusal. What else it is. */
async function callOnce(client: RawClient, kind: Kind, caller: number): Promise<"good" | "refused" | string> {
  const message = messageOf(caller);
  const init = await signInit(client, plain(0, KINDS[kind].type));
  if (init.rv !== 0n) return `C_SignInit 0x${init.rv.toString(16)}`;
  const data = kind === "ec" ? Uint8Array.from(createHash("sha256").update(message).digest()) : message;
  const { rv, values } = await sign(client, data);
  if (rv !== 0n) return REFUSALS.includes(rv) ? "refused" : `C_Sign 0x${rv.toString(16)}`;
  const length = kind === "ec" ? 64 : 256;
  const key = {
    key: createPublicKey(publicKeys[kind].export({ format: "pem", type: "spki" })),
    dsaEncoding: "ieee-p1363" as const,
  };
  return verify("sha256", message, key, values.slice(5, 5 + length)) ? "good" : "a signature that is not one";
}

/** Three callers at once over one shim, one message of which is damaged; then one more. */
async function brokenLaws(kind: Kind, frame: WireFrame, damage: Damage): Promise<readonly string[]> {
  await renewIfGone();
  const clients = await Promise.all([1, 2, 3].map(() => openSession(broker, KINDS[kind].scope)));
  const recorded = () =>
    broker.records().filter(({ operation, decision }) => operation === "sign" && decision === "allow");
  const before = recorded().length;
  wire.arm(only(frame, damage));
  const outcomes = await Promise.all(clients.map((client, caller) => callOnce(client, kind, caller)));
  wire.arm(() => null);
  const found = outcomes.filter((outcome) => !/^(good|refused)$/.test(outcome));
  await opened.domain.settled();
  const [again] = clients;
  const next = again === undefined ? "no client" : await callOnce(again, kind, 9);
  if (next !== "good") found.push(`the next call: ${next}`);
  if (recorded().length !== before + 4) found.push(`${recorded().length - before} records of 4 operations`);
  if (opened.ends.length > 0) found.push("the token was stopped");
  for (const client of clients) client.end();
  return found.map((what) => `${caseName(frame, damage)}: ${what}`);
}

describe.each(Object.keys(KINDS) as Kind[])("a signature by %s", (kind) => {
  test("I8 I10: whatever becomes of one message, each caller has its own signature or a refusal, a record stands for each, and the next call is served", {
    timeout: 3_600_000,
  }, async () => {
    await renewIfGone();
    const client = await openSession(broker, KINDS[kind].scope);
    wire.arm(() => null);
    expect(await callOnce(client, kind, 0)).toBe("good");
    client.end();
    const frames = wire.frames.filter(({ op }) => op === "sign");
    expect(frames.map(({ way }) => way)).toEqual(["request", "reply"]);
    const cases = frames.flatMap((frame) =>
      damagesOf(frame)
        // An ECDSA signature is the library's word (SHIM.md, "Not established"): nobody sees that it, or what it is of, was changed.
        .filter(({ silent }) => kind === "rsa" || silent !== true)
        .map((damage) => ({ frame, damage })),
    );
    const found: string[] = [];
    for (const { frame, damage } of casesOf(cases, 12))
      found.push(...(await endsInTime(caseName(frame, damage), brokenLaws(kind, frame, damage))));
    expect(found).toEqual([]);
  });
});
