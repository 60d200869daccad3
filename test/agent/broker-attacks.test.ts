import { constants, createPublicKey, publicEncrypt } from "node:crypto";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { CALLS } from "../../agent/p11kit/calls.ts";
import { concatBytes, sha256Hex, utf8 } from "../../policy/index.ts";
import { type BrokerFixture, softwareKeys, startBroker } from "../support/broker-fixture.ts";
import {
  DIGEST_INFO,
  decrypt,
  decryptInit,
  decryptOnce,
  oaep,
  openSession,
  PRIVATE,
  plain,
  sign,
  signInit,
} from "../support/broker-session.ts";
import { byteArray, type RawClient, u32, ulongs } from "../support/rpc-client.ts";

// Attacks that are known against PKCS #11 interfaces (Clulow 2003; Delaune, Kremer and Steel 2008; Bortolozzo et al. 2010; Bardou et al. 2012),
// as a caller of the scope would make them. The token behind the broker really decrypts, and tells more than it should.
const keys = softwareKeys();
const { publicKeys } = keys;
const RSA_PKCS = 1;
const X_509 = 3;
const SECRET = utf8("0123456789abcdef");

const publicKeyOf = (name: string) =>
  createPublicKey({ key: Buffer.from(publicKeys.get(name)?.spki ?? []), format: "der", type: "spki" });
const encrypted = (padding: number, data: Uint8Array) =>
  Uint8Array.from(publicEncrypt({ key: publicKeyOf("vault"), padding, oaepHash: "sha256" }, data));
const sealed = () => encrypted(constants.RSA_PKCS1_OAEP_PADDING, SECRET);
/** The ciphertext of a block of the attacker's choice. */
const blockOf = (...head: readonly number[]) =>
  encrypted(
    constants.RSA_NO_PADDING,
    Uint8Array.from({ length: 256 }, (_, index) => head[index] ?? 0x77),
  );
const withZero = (block: readonly number[], at: number) =>
  Array.from({ length: 256 }, (_, index) => (index === at ? 0 : (block[index] ?? 0x77)));

let broker: BrokerFixture;
beforeEach(async () => {
  broker = await startBroker({ publicKeys, token: keys });
});
afterEach(() => broker.close());

const SERVED =
  `Initialize Finalize GetInfo GetSlotList GetSlotInfo GetTokenInfo GetMechanismList GetMechanismInfo GenerateRandom OpenSession
CloseSession CloseAllSessions GetSessionInfo Login Logout FindObjectsInit FindObjects FindObjectsFinal GetAttributeValue SignInit Sign SignUpdate
SignFinal DecryptInit Decrypt DecryptUpdate DecryptFinal VerifyInit Verify VerifyUpdate VerifyFinal DigestInit Digest DigestUpdate DigestKey
DigestFinal SeedRandom WaitForSlotEvent LoginUser SessionCancel UnwrapKey`
    .split(/\s+/)
    .map((name) => `C_${name}`);

describe("calls that could make, move or change a key", () => {
  it("I7: the calls of the door are these, and all others of every version are not supported, before and during an operation", async () => {
    const others = [...CALLS.values()].map(({ name }) => name).filter((name) => !SERVED.includes(name));
    expect(others).toHaveLength(CALLS.size - SERVED.length);
    for (const [scope, version] of [
      ["vault", 0],
      ["release-signing", 1],
      ["raw", 2],
    ] as const) {
      const client = await openSession(broker, scope, version);
      if (scope !== "release-signing")
        await decryptInit(client, scope === "vault" ? oaep(version) : plain(version, X_509));
      for (const name of others)
        expect([name, (await client.call(name, ulongs(1n, PRIVATE, PRIVATE))).rv]).toEqual([name, 0x54n]);
    }
    expect([broker.requests, broker.decryptions]).toEqual([[], []]);
  });

  /** Each attack with the arguments that would make it work on a token. */
  const mechanism = plain(0, RSA_PKCS);
  const extractable = concatBytes(u32(1), u32(0x162), Uint8Array.of(1), u32(1), Uint8Array.of(1));
  const session = ulongs(1n);
  it.each<[string, [string, Uint8Array][]]>([
    ["wrap and decrypt", [["C_WrapKey", concatBytes(session, mechanism, ulongs(PRIVATE, PRIVATE), u32(512))]]],
    [
      "encrypt and unwrap",
      [
        ["C_EncryptInit", concatBytes(session, mechanism, ulongs(2n))],
        ["C_Encrypt", concatBytes(session, byteArray(SECRET), u32(512))],
        ["C_UnwrapKey", concatBytes(session, mechanism, ulongs(PRIVATE), byteArray(sealed()), extractable)],
      ],
    ],
    [
      "double unwrap, once for each use",
      [
        ["C_UnwrapKey", concatBytes(session, mechanism, ulongs(PRIVATE), byteArray(sealed()), extractable)],
        ["C_UnwrapKey", concatBytes(session, mechanism, ulongs(PRIVATE), byteArray(sealed()), u32(0))],
      ],
    ],
    [
      "sticky attributes",
      [
        ["C_SetAttributeValue", concatBytes(ulongs(1n, PRIVATE), extractable)],
        ["C_CopyObject", concatBytes(ulongs(1n, PRIVATE), extractable)],
      ],
    ],
    [
      "a known key as trusted",
      [
        ["C_CreateObject", concatBytes(session, extractable)],
        ["C_GenerateKey", concatBytes(session, mechanism, extractable)],
        ["C_GenerateKeyPair", concatBytes(session, mechanism, extractable, extractable)],
        ["C_DeriveKey", concatBytes(session, mechanism, ulongs(PRIVATE), extractable)],
      ],
    ],
    [
      "another PIN, another token, another generator",
      [
        ["C_InitToken", concatBytes(session, byteArray(SECRET), byteArray(SECRET))],
        ["C_SetPIN", concatBytes(session, byteArray(SECRET), byteArray(SECRET))],
        ["C_InitPIN", concatBytes(session, byteArray(SECRET))],
        ["C_SeedRandom", concatBytes(session, byteArray(SECRET))],
      ],
    ],
    [
      "the key by way of a state or a digest",
      [
        ["C_GetOperationState", concatBytes(session, u32(512))],
        ["C_SetOperationState", concatBytes(session, byteArray(SECRET), ulongs(PRIVATE, PRIVATE))],
        ["C_DigestKey", ulongs(1n, PRIVATE)],
        ["C_SignRecoverInit", concatBytes(session, mechanism, ulongs(PRIVATE))],
        ["C_SignRecover", concatBytes(session, byteArray(DIGEST_INFO), u32(512))],
      ],
    ],
  ])("I7: %s ends at the door, and the key is as it was", async (_what, calls) => {
    const client = await openSession(broker, "vault");
    // A key that decrypts does not unwrap, and that is said: the call is one of the door's.
    const ends: Record<string, bigint> = { C_SeedRandom: 0x120n, C_DigestKey: 0x91n, C_UnwrapKey: 0x68n };
    for (const [name, values] of calls)
      expect(await client.call(name, values)).toMatchObject({ rv: ends[name] ?? 0x54n });
    expect(await attributes(client)).toEqual({ sensitive: 1, extractable: 0, sign: 0, decrypt: 1, unwrap: 0 });
    expect([broker.requests, broker.decryptions]).toEqual([[], []]);
    expect(await decryptOnce(client, oaep(0), sealed())).toEqual(SECRET);
  });

  it("I7: no secret attribute has a value, a length or a match", async () => {
    const client = await openSession(broker, "vault");
    for (const type of [0x11, 0x123, 0x124, 0x125, 0x126, 0x127, 0x128])
      for (const room of [0, 4096]) {
        const { values } = await client.call("C_GetAttributeValue", ulongs(1n, PRIVATE), u32(1), u32(type), u32(room));
        expect(values).toEqual(concatBytes(u32(1), u32(type), Uint8Array.of(0), ulongs(0x11n)));
        const template = concatBytes(u32(1), u32(type), Uint8Array.of(1), u32(0), u32(0));
        await client.call("C_FindObjectsInit", ulongs(1n), template);
        expect((await client.call("C_FindObjects", ulongs(1n), u32(9))).values).toEqual(
          concatBytes(Uint8Array.of(1), u32(0)),
        );
        await client.call("C_FindObjectsFinal", ulongs(1n));
      }
  });
});

async function attributes(client: RawClient): Promise<Record<string, number>> {
  const types = { sensitive: 0x103, extractable: 0x162, sign: 0x108, decrypt: 0x105, unwrap: 0x107 };
  const read = async (type: number) =>
    (await client.call("C_GetAttributeValue", ulongs(1n, PRIVATE), u32(1), u32(type), u32(1))).values[13] ?? -1;
  const found: [string, number][] = [];
  for (const [name, type] of Object.entries(types)) found.push([name, await read(type)]);
  return Object.fromEntries(found);
}

describe("padding oracles", () => {
  /** What a token tells apart: by its codes, by the length of what it gives, or by giving anything at all. */
  const spoiled: Readonly<Record<"vault" | "legacy", readonly (readonly [string, Uint8Array])[]>> = {
    legacy: [
      ["a first byte that is not zero", blockOf(1, 2)],
      ["another block type", blockOf(0, 1)],
      ["no separator", blockOf(0, 2)],
      ["a separator too early", blockOf(...withZero([0, 2], 5).slice(0, 256))],
      ["a block of zeros", blockOf(...new Uint8Array(256))],
    ],
    vault: [
      ["a number too large (Manger)", blockOf(1)],
      ["no OAEP block", blockOf(0)],
      [
        "another hash",
        Uint8Array.from(publicEncrypt({ key: publicKeyOf("vault"), padding: 4, oaepHash: "sha1" }, SECRET)),
      ],
      [
        "another label",
        Uint8Array.from(
          publicEncrypt(
            { key: publicKeyOf("vault"), padding: 4, oaepHash: "sha256", oaepLabel: Buffer.from("x") },
            SECRET,
          ),
        ),
      ],
      ["the padding of another mechanism", encrypted(constants.RSA_PKCS1_PADDING, SECRET)],
      ["a number of the attacker's", new Uint8Array(256).fill(3)],
    ],
  };
  const mechanisms = { vault: oaep(0), legacy: plain(0, RSA_PKCS) };

  it.each(["vault", "legacy"] as const)(
    "I7: in scope %s every way to fail is one code, one reply and one record",
    async (scope) => {
      const client = await openSession(broker, scope);
      const replies: Uint8Array[] = [];
      for (const [, ciphertext] of spoiled[scope]) {
        await decryptInit(client, mechanisms[scope]);
        const { rv, values } = await decrypt(client, ciphertext);
        expect(rv).toBe(0x40n);
        replies.push(values);
      }
      const good = scope === "vault" ? sealed() : encrypted(constants.RSA_PKCS1_PADDING, SECRET);
      expect(await decryptOnce(client, mechanisms[scope], good)).toEqual(SECRET);
      expect(new Set(replies.map((reply) => sha256Hex(reply))).size).toBe(1);
      const texts = broker
        .records()
        .map(({ seq: _s, time: _t, inputDigest: _i, prev: _p, hash: _h, ...text }) => JSON.stringify(text));
      expect([texts.length, new Set(texts).size]).toEqual([spoiled[scope].length + 1, 1]);
      expect(broker.decryptions).toHaveLength(spoiled[scope].length + 1);
    },
  );

  it("I7: the budget of a key ends a search after its burst, over all its scopes, callers' connections and sessions", async () => {
    const clients = await Promise.all([
      ...["vault", "vault", "legacy", "legacy", "raw"].map((scope) => openSession(broker, scope)),
    ]);
    const asked = [mechanisms.vault, mechanisms.vault, mechanisms.legacy, mechanisms.legacy, plain(0, X_509)];
    const codes: (bigint | Uint8Array)[] = [];
    for (let round = 0; round < 10; round += 1)
      for (const [index, client] of clients.slice(0, 4).entries())
        codes.push(await decryptOnce(client, asked[index] ?? mechanisms.vault, blockOf(1, round)));
    expect(codes).toEqual([...Array(16).fill(0x40n), ...Array(24).fill(0x200n)]);
    for (const [index, client] of clients.entries())
      expect(await decryptInit(client, asked[index] ?? mechanisms.vault)).toMatchObject({ rv: 0x200n });
    expect(broker.decryptions).toHaveLength(16);
    expect(broker.records().at(-1)).toMatchObject({
      ...{ decision: "deny", step: "budget", operation: "decrypt", scope: "raw" },
      reason: "too many failed decryptions with key vault",
    });
    // A key that signs has nothing to do with it.
    const signer = await openSession(broker);
    await signInit(signer);
    expect((await sign(signer)).rv).toBe(0n);
    // 60 an hour: a minute is one more question.
    broker.time += 60_000;
    const [first, second] = clients;
    if (first === undefined || second === undefined) throw new Error("two clients");
    expect(await decryptOnce(first, mechanisms.vault, sealed())).toEqual(SECRET);
    expect(await decryptOnce(first, mechanisms.vault, blockOf(1))).toBe(0x40n);
    expect(await decryptOnce(second, mechanisms.vault, sealed())).toBe(0x200n);
  });

  it("I7: questions that are asked all at once get no more answers, and good ciphertexts all get theirs", async () => {
    await broker.close();
    // Slow enough for all of them to be asked before the first is answered.
    const decryptSlowly: typeof keys.decrypt = async (request) => {
      await new Promise((resolve) => setTimeout(resolve, 50));
      return keys.decrypt(request);
    };
    broker = await startBroker({ publicKeys, token: { ...keys, decrypt: decryptSlowly } });
    const honest = await Promise.all(Array.from({ length: 40 }, () => openSession(broker, "vault")));
    const plaintexts = await Promise.all(honest.map((client) => decryptOnce(client, mechanisms.vault, sealed())));
    expect(plaintexts).toEqual(Array(40).fill(SECRET));
    const hostile = await Promise.all(honest.map((client) => decryptOnce(client, mechanisms.vault, blockOf(1))));
    expect(hostile.filter((code) => code === 0x40n)).toHaveLength(16);
    expect(hostile.filter((code) => code === 0x200n)).toHaveLength(24);
    expect(broker.decryptions).toHaveLength(56);
  });

  it("I7: what is refused before the token is asked costs no failure", async () => {
    const client = await openSession(broker, "vault");
    for (let index = 0; index < 40; index += 1)
      expect(await decryptOnce(client, mechanisms.vault, sealed().slice(index % 2))).toEqual(
        index % 2 === 0 ? SECRET : 0x41n,
      );
    expect(await decryptOnce(client, mechanisms.vault, blockOf(1))).toBe(0x40n);
  });
});

describe("raw signatures", () => {
  const block = Uint8Array.from({ length: 256 }, (_, index) => (index === 0 ? 0 : 0x42));
  const startRaw = (spoil: (signature: Uint8Array) => Uint8Array) =>
    startBroker({
      publicKeys,
      token: { sign: async (request) => spoil(await keys.sign(request)) },
      change: ({ scopes }) =>
        void Object.assign(scopes[1] ?? {}, { mechanisms: [{ type: "CKM_RSA_X_509", accepts: ["raw-rsa"] }] }),
    });

  it("I6: a whole block below the modulus is signed as it is, once its result is verified", async () => {
    await broker.close();
    broker = await startRaw((signature) => signature);
    const client = await openSession(broker, "rsa-signing");
    const ask = async (data: Uint8Array) => {
      await signInit(client, plain(0, X_509));
      return sign(client, data);
    };
    const { rv, values } = await ask(block);
    const opened = encryptedBy("release-rsa", values.slice(5));
    expect([rv, opened]).toEqual([0n, block]);
    for (const data of [block.slice(1), concatBytes(block, block), new Uint8Array(256).fill(0xff), DIGEST_INFO])
      expect(await ask(data)).toMatchObject({ rv: 0x21n });
    expect(broker.requests.map(({ mechanism, data }) => [mechanism.type, mechanism.value, data])).toEqual([
      ["CKM_RSA_X_509", 3n, block],
    ]);
  });

  it("I6: a raw signature that does not give the block back is not released", async () => {
    for (const spoil of [
      (signature: Uint8Array) => signature.map((byte, at) => (at === 255 ? byte ^ 1 : byte)),
      (signature: Uint8Array) => signature.slice(1),
      () => new Uint8Array(),
    ]) {
      await broker.close();
      broker = await startRaw(spoil);
      const client = await openSession(broker, "rsa-signing");
      await signInit(client, plain(0, X_509));
      expect(await sign(client, block)).toMatchObject({ rv: 0x30n });
    }
  });
});

function encryptedBy(name: string, data: Uint8Array): Uint8Array {
  return Uint8Array.from(publicEncrypt({ key: publicKeyOf(name), padding: constants.RSA_NO_PADDING }, data));
}
