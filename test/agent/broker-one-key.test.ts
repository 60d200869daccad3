import { constants, createPublicKey, generateKeyPairSync, publicEncrypt, verify } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { openAudit } from "../../agent/audit/open.ts";
import type { PublicKeySource } from "../../agent/broker/index.ts";
import { serveScope } from "../../agent/scopes/index.ts";
import { concatBytes, DIGESTS, parsePolicy, sha256, sha256Hex, utf8 } from "../../policy/index.ts";
import { type BrokerFixture, openBroker, SIGNER_PEER, softwareKeys, startBroker } from "../support/broker-fixture.ts";
import {
  DIGEST_INFO,
  decrypt,
  decryptInit,
  decryptOnce,
  oaep,
  openSession,
  plain,
  sign,
  signInit,
} from "../support/broker-session.ts";
import { documentBytes, twoTokenDocument } from "../support/policy-document.ts";
import { native } from "../support/shim-fixture.ts";

// The attacks of broker-attacks.test.ts that need one key twice: for two uses, or under two names.
const keys = softwareKeys();
const { publicKeys } = keys;
const RSA_PKCS = 1;
const X_509 = 3;

const publicKeyOf = (name: string) =>
  createPublicKey({ key: Buffer.from(publicKeys.get(name)?.spki ?? []), format: "der", type: "spki" });
const sealed = () =>
  Uint8Array.from(
    publicEncrypt(
      { key: publicKeyOf("vault"), padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha256" },
      utf8("0123456789abcdef"),
    ),
  );

let broker: BrokerFixture;
beforeEach(async () => {
  broker = await startBroker({ publicKeys, token: keys });
});
afterEach(() => broker.close());

describe("one key for two uses", () => {
  it("I7: a signing key asked to decrypt and a decryption key asked to sign are refused, at the key", async () => {
    const rsa = await openSession(broker, "rsa-signing");
    expect(await decryptInit(rsa, plain(0, RSA_PKCS))).toMatchObject({ rv: 0x68n });
    expect(await decryptInit(rsa, oaep(0))).toMatchObject({ rv: 0x68n });
    for (const [scope, mechanism] of [
      ["vault", plain(0, 0x40)],
      ["legacy", plain(0, RSA_PKCS)],
      ["raw", plain(0, X_509)],
    ] as const)
      expect(await signInit(await openSession(broker, scope), mechanism)).toMatchObject({ rv: 0x68n });
    expect(broker.records().map(({ step, operation }) => `${operation} ${step}`)).toEqual([
      ...["decrypt operation", "decrypt operation"],
      ...["sign operation", "sign operation", "sign operation"],
    ]);
    expect([broker.requests, broker.decryptions]).toEqual([[], []]);
  });

  it("I7: an operation that was begun is of its own kind", async () => {
    const vault = await openSession(broker, "vault");
    await decryptInit(vault, oaep(0));
    expect(await sign(vault, DIGEST_INFO)).toMatchObject({ rv: 0x91n });
    const rsa = await openSession(broker, "rsa-signing");
    await signInit(rsa, plain(0, RSA_PKCS));
    expect(await decrypt(rsa, sealed())).toMatchObject({ rv: 0x91n });
    expect([broker.requests, broker.decryptions]).toEqual([[], []]);
  });

  it("I7: the decryption of an encoded digest is a signature, and only raw-rsa, which says so, gives it", async () => {
    const message = utf8("pay everything to the attacker");
    const info = Uint8Array.from([...DIGESTS.sha256.digestInfoPrefix, ...sha256(message)]);
    const encoded = Uint8Array.from([0, 1, ...Array(256 - 3 - info.length).fill(0xff), 0, ...info]);
    expect(await decryptOnce(await openSession(broker, "vault"), oaep(0), encoded)).toBe(0x40n);
    expect(await decryptOnce(await openSession(broker, "legacy"), plain(0, RSA_PKCS), encoded)).toBe(0x40n);
    const signature = await decryptOnce(await openSession(broker, "raw"), plain(0, X_509), encoded);
    expect(verify("sha256", message, publicKeyOf("vault"), signature as Uint8Array)).toBe(true);
    expect(await signInit(await openSession(broker, "raw"), plain(0, RSA_PKCS))).toMatchObject({ rv: 0x68n });
  });
});

describe("one key under two names", () => {
  let directory: string;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), "names-"));
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  const vault = publicKeyOf("vault");
  const source = (spki: Uint8Array): PublicKeySource => ({ spki, id: Uint8Array.of(1), label: "x" });
  const spkiOf = (jwk: object) =>
    Uint8Array.from(
      createPublicKey({ key: { ...vault.export({ format: "jwk" }), ...jwk }, format: "jwk" }).export({
        format: "der",
        type: "spki",
      }),
    );
  const ours = Uint8Array.from(vault.export({ format: "der", type: "spki" }));
  const ec = generateKeyPairSync("ec", { namedCurve: "P-256" }).publicKey;
  const point = Uint8Array.from(ec.export({ format: "der", type: "spki" }));

  /** Serves a scope of `first`; `second` is another entry, on the other token, that may do something else. */
  const serve = async (first: Uint8Array, second: Uint8Array, does: "sign" | "decrypt") => {
    const document = twoTokenDocument();
    document.keys["release-rsa"] = { spki: `sha256:${sha256Hex(first)}`, does: "sign", token: "signing" };
    document.keys["vault"] = { spki: `sha256:${sha256Hex(second)}`, does, token: "payments" };
    const publicKeys = new Map([
      ["release-rsa", source(first)],
      ["vault", source(second)],
    ]);
    const audit = openAudit({ directory: join(directory, "audit.log"), now: Date.now, anchor: null });
    document.scopes = document.scopes.filter(({ name }) => name === "rsa-signing");
    const broker = openBroker(parsePolicy(documentBytes(document)), publicKeys, { token: keys, audit });
    const socketPath = join(directory, "s.sock");
    return serveScope({
      broker,
      scope: "rsa-signing",
      socketPath,
      native: native(),
      identify: async () => SIGNER_PEER,
    });
  };

  it("I7: one key on two tokens for one use is served; the same numbers in another encoding or with another exponent are not", async () => {
    await (await serve(ours, ours, "sign")).close();
    const otherExponent = spkiOf({ e: "AQAD" });
    for (const does of ["sign", "decrypt"] as const)
      await expect(serve(ours, otherExponent, does)).rejects.toMatchObject({ code: "ERR_LAUNCH" });
  });

  it.each<[string, Uint8Array]>([
    ["an RSA key without the NULL of its algorithm", withoutNull(ours)],
    ["a compressed point", compressed(point)],
    ["bytes after the key", concatBytes(ours, Uint8Array.of(0))],
    ["something that is no key", ours.slice(0, 100)],
  ])("I7: %s is not the one encoding of its key", async (_what, spki) => {
    await expect(serve(spki, ours, "sign")).rejects.toMatchObject({ code: "ERR_LAUNCH" });
    await expect(serve(ours, spki, "decrypt")).rejects.toMatchObject({ code: "ERR_LAUNCH" });
  });
});

/** rsaEncryption whose parameters are absent: RFC 3279 wants NULL, and many parsers take both. */
function withoutNull(spki: Uint8Array): Uint8Array {
  const at = spki.findIndex((byte, index) => byte === 5 && spki[index + 1] === 0);
  const shorter = Uint8Array.from([...spki.slice(0, at), ...spki.slice(at + 2)]);
  const outer = ((spki[2] ?? 0) << 8) + (spki[3] ?? 0) - 2;
  shorter.set([outer >> 8, outer & 0xff], 2);
  shorter[5] = (shorter[5] ?? 0) - 2;
  return shorter;
}

/** The same point in 33 bytes. */
function compressed(spki: Uint8Array): Uint8Array {
  const point = spki.slice(-65);
  const algorithm = spki.slice(2, -65 - 3);
  const short = Uint8Array.from([2 + ((point[64] ?? 0) & 1), ...point.slice(1, 33)]);
  const body = Uint8Array.from([...algorithm, 3, short.length + 1, 0, ...short]);
  return Uint8Array.from([0x30, body.length, ...body]);
}
