import { afterEach, beforeEach, expect, it } from "vitest";
import { parsePolicy, sha256Hex } from "../../policy/index.ts";
import { type BrokerFixture, softwareKeys, startBroker } from "../support/broker-fixture.ts";
import { openSession, PUBLIC } from "../support/broker-session.ts";
import { documentBytes, type PolicyDocument, policyDocument } from "../support/policy-document.ts";
import { byteArray, type RawClient, type Reply, u32, ulongs } from "../support/rpc-client.ts";

const CKR_FUNCTION_REJECTED = 0x200n;
const CKM_SHA256 = 0x250;
const NO_PARAMETERS = u32(0xffff_ffff);
const keys = softwareKeys();

function documentOf(change: (document: PolicyDocument) => void = () => {}): PolicyDocument {
  const document = policyDocument();
  for (const [name, { spki }] of keys.publicKeys)
    document.keys[name] = { spki: `sha256:${sha256Hex(spki)}`, does: name === "vault" ? "decrypt" : "sign" };
  change(document);
  return document;
}

let broker: BrokerFixture;
beforeEach(async () => {
  broker = await startBroker({
    publicKeys: keys.publicKeys,
    change: (document) => void Object.assign(document, documentOf()),
  });
});
afterEach(() => broker.close());

/** What needs no decision of the policy's: a connection that is no caller's any more gets none of it either. */
const CALLS: Readonly<Record<string, (client: RawClient) => Promise<Reply>>> = {
  C_GetTokenInfo: (client) => client.call("C_GetTokenInfo", ulongs(1n)),
  C_FindObjectsInit: (client) => client.call("C_FindObjectsInit", ulongs(1n), u32(0)),
  C_GetAttributeValue: (client) => client.call("C_GetAttributeValue", ulongs(1n, PUBLIC), u32(1), u32(0x3), u32(64)),
  C_GenerateRandom: (client) => client.call("C_GenerateRandom", ulongs(1n), u32(32)),
  C_DigestInit: (client) => client.call("C_DigestInit", ulongs(1n), u32(CKM_SHA256), NO_PARAMETERS),
  C_Login: (client) => client.call("C_Login", ulongs(1n, 1n), byteArray(new Uint8Array(4))),
  C_OpenSession: (client) => client.call("C_OpenSession", ulongs(1n, 4n)),
};

it.each(Object.keys(CALLS))("I6: %s is rejected on a connection whose caller a narrowing took away", async (name) => {
  const call = CALLS[name] ?? (() => Promise.reject(new TypeError(name)));
  const [kept, narrowed] = [await openSession(broker), await openSession(broker)];
  expect((await call(kept)).rv).toBe(0n);
  const another = documentOf((document) => {
    Object.assign(document.callers["release-signer"] ?? {}, { exe: [`sha256:${"6e".repeat(32)}`] });
  });
  broker.broker.live.narrow(parsePolicy(documentBytes({ ...another, serial: 8 })));
  expect((await call(narrowed)).rv).toBe(CKR_FUNCTION_REJECTED);
  for (const client of [kept, narrowed]) client.end();
});

it("I6: a narrowing that leaves the caller leaves its connection, and what it has begun", async () => {
  const client = await openSession(broker);
  const digest = () => client.call("C_Digest", ulongs(1n), byteArray(Uint8Array.of(1)), u32(32));
  expect((await CALLS["C_DigestInit"]?.(client))?.rv).toBe(0n);
  const fewer = documentOf((document) => {
    document.scopes = document.scopes.filter(({ name }) => name === "release-signing");
  });
  broker.broker.live.narrow(parsePolicy(documentBytes({ ...fewer, serial: 8 })));
  expect((await digest()).rv).toBe(0n);
  client.end();
});
