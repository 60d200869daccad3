import { constants, createHash, generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { PublicKeySource } from "../../agent/broker/index.ts";
import { concatBytes, DIGESTS } from "../../policy/index.ts";
import { type BrokerFixture, INTRUDER_PEER, SIGNER_PEER, startBroker } from "../support/broker-fixture.ts";
import { openSession, PRIVATE, PUBLIC, plain } from "../support/broker-session.ts";
import { byteArray, type RawClient, u32, ulongs } from "../support/rpc-client.ts";

const ec = generateKeyPairSync("ec", { namedCurve: "P-256" });
const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 });
const vault = generateKeyPairSync("rsa", { modulusLength: 2048 });
const source = (pair: { readonly publicKey: KeyObject }, id: number, label: string): [string, PublicKeySource] => [
  label,
  { spki: Uint8Array.from(pair.publicKey.export({ format: "der", type: "spki" })), id: Uint8Array.of(id), label },
];

const message = new TextEncoder().encode("release 1.2.3\n");
const digest = Uint8Array.from(createHash("sha256").update(message).digest());
const digestInfo = concatBytes(Uint8Array.from(DIGESTS.sha256.digestInfoPrefix), digest);
const signatures = {
  ec: Uint8Array.from(sign("sha256", message, { key: ec.privateKey, dsaEncoding: "ieee-p1363" })),
  pkcs1: Uint8Array.from(sign("sha256", message, rsa.privateKey)),
  pss: Uint8Array.from(
    sign("sha256", message, { key: rsa.privateKey, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: 32 }),
  ),
};
const pss = (version: number, type: number, hash = 0x250n) =>
  concatBytes(u32(type), version >= 2 ? Uint8Array.of(1) : new Uint8Array(), ulongs(hash, 2n, 32n));

let broker: BrokerFixture;
beforeAll(async () => {
  const publicKeys = new Map([source(ec, 1, "release-ec"), source(rsa, 2, "release-rsa"), source(vault, 3, "vault")]);
  broker = await startBroker({ publicKeys });
});
afterAll(() => broker.close());

const init = async (client: RawClient, mechanism: Uint8Array, key = PUBLIC) =>
  (await client.call("C_VerifyInit", ulongs(1n), mechanism, ulongs(key))).rv;
const finish = async (client: RawClient, data: Uint8Array, signature: Uint8Array) =>
  (await client.call("C_Verify", ulongs(1n), byteArray(data), byteArray(signature))).rv;
const inParts = async (client: RawClient, parts: readonly Uint8Array[], signature: Uint8Array) => {
  for (const part of parts) {
    const { rv } = await client.call("C_VerifyUpdate", ulongs(1n), byteArray(part));
    if (rv !== 0n) return rv;
  }
  return (await client.call("C_VerifyFinal", ulongs(1n), byteArray(signature))).rv;
};

describe("C_Verify with the public key, in the agent", () => {
  const cases = (version: number): [string, string, Uint8Array, Uint8Array, Uint8Array, boolean][] => [
    ["CKM_ECDSA", "release-signing", plain(version, 0x1041), digest, signatures.ec, false],
    ["CKM_ECDSA_SHA256", "release-signing", plain(version, 0x1044), message, signatures.ec, true],
    ["CKM_RSA_PKCS", "rsa-signing", plain(version, 1), digestInfo, signatures.pkcs1, false],
    ["CKM_SHA256_RSA_PKCS", "rsa-signing", plain(version, 0x40), message, signatures.pkcs1, true],
    ["CKM_RSA_PKCS_PSS", "rsa-signing", pss(version, 0xd), digest, signatures.pss, false],
    ["CKM_SHA256_RSA_PKCS_PSS", "rsa-signing", pss(version, 0x43), message, signatures.pss, true],
  ];

  it.each([0, 1, 2])(
    "I6: a client of version %i verifies by each mechanism that its scope signs with",
    async (version) => {
      for (const [name, scope, mechanism, data, signature, hashes] of cases(version)) {
        const client = await openSession(broker, scope, version);
        const bad = signature.map((byte, at) => (at === 40 ? byte ^ 1 : byte));
        expect([name, await init(client, mechanism), await finish(client, data, signature)]).toEqual([name, 0n, 0n]);
        expect([name, await init(client, mechanism), await finish(client, data, bad)]).toEqual([name, 0n, 0xc0n]);
        expect([name, await init(client, mechanism), await finish(client, data, signature.slice(1))]).toEqual([
          name,
          0n,
          0xc1n,
        ]);
        await init(client, mechanism);
        const parts = [data.subarray(0, 5), data.subarray(5)];
        expect([name, await inParts(client, parts, signature)]).toEqual([name, hashes ? 0n : 0x54n]);
        expect(await finish(client, data, signature), "the operation is over").toBe(0x91n);
      }
    },
  );

  it("I8: verification asks no token, spends no rate and writes no record", () => {
    expect([broker.requests, broker.records()]).toEqual([[], []]);
  });

  it("I6: what the scope does not sign with, and what cannot verify, is refused with plain codes", async () => {
    const [ecClient, rsaClient] = [await openSession(broker), await openSession(broker, "rsa-signing")];
    const decrypting = await openSession(broker, "legacy");
    expect(await init(ecClient, plain(0, 0x1041), PRIVATE)).toBe(0x68n);
    expect(await init(ecClient, plain(0, 0x1041), 9n)).toBe(0x60n);
    expect(await init(ecClient, plain(0, 1))).toBe(0x70n);
    expect(await init(ecClient, plain(0, 0x1042))).toBe(0x70n);
    expect(await init(rsaClient, pss(0, 0xd, 0x260n))).toBe(0x71n);
    expect(await init(decrypting, plain(0, 1))).toBe(0x68n);
    expect(await init(ecClient, plain(0, 0x1041))).toBe(0n);
    expect(await init(ecClient, plain(0, 0x1041)), "one at a time").toBe(0x90n);
    expect(await finish(ecClient, digest.slice(1), signatures.ec)).toBe(0x21n);
    const { rv } = await ecClient.call("C_Verify", ulongs(9n), byteArray(digest), byteArray(digest));
    expect(rv).toBe(0xb3n);
  });

  it("I6: CKA_VERIFY and the mechanism's flags say so", async () => {
    const verifies = async (scope: string) => {
      const client = await openSession(broker, scope);
      return (await client.call("C_GetAttributeValue", ulongs(1n, PUBLIC), u32(1), u32(0x10a), u32(1))).values[13];
    };
    expect([await verifies("rsa-signing"), await verifies("vault")]).toEqual([1, 0]);
  });
});

describe("C_Digest in the agent", () => {
  const begin = async (client: RawClient, mechanism: Uint8Array) =>
    (await client.call("C_DigestInit", ulongs(1n), mechanism)).rv;

  it.each([
    [0, 0x250, "sha256"],
    [1, 0x260, "sha384"],
    [2, 0x270, "sha512"],
  ])("I6: a client of version %i hashes with mechanism %i, whole and in parts", async (version, type, name) => {
    const expected = byteArray(Uint8Array.from(createHash(name).update(message).digest()));
    const client = await openSession(broker, "vault", version);
    expect(await begin(client, plain(version, type))).toBe(0n);
    for (const room of [0, 0xffff_ffff, 31]) {
      const { values } = await client.call("C_Digest", ulongs(1n), byteArray(message), u32(room));
      expect(values).toEqual(concatBytes(Uint8Array.of(0), u32(expected.length - 5)));
    }
    expect((await client.call("C_Digest", ulongs(1n), byteArray(message), u32(64))).values).toEqual(expected);
    expect(await begin(client, plain(version, type))).toBe(0n);
    for (const part of [message.subarray(0, 3), message.subarray(3)])
      await client.call("C_DigestUpdate", ulongs(1n), byteArray(part));
    expect((await client.call("C_Digest", ulongs(1n), byteArray(message), u32(64))).rv).toBe(0x90n);
    expect((await client.call("C_DigestFinal", ulongs(1n), u32(0))).values[0]).toBe(0);
    expect((await client.call("C_DigestFinal", ulongs(1n), u32(64))).values).toEqual(expected);
    expect((await client.call("C_DigestFinal", ulongs(1n), u32(64))).rv).toBe(0x91n);
  });

  it("I7: no other hash function, no parameters, and no key as input", async () => {
    const client = await openSession(broker);
    for (const type of [0x220, 0x210, 0x255]) expect(await begin(client, plain(0, type))).toBe(0x70n);
    expect(await begin(client, concatBytes(u32(0x250), ulongs(1n)))).toBe(0x71n);
    expect(await begin(client, plain(0, 0x250))).toBe(0n);
    expect((await client.call("C_DigestKey", ulongs(1n, PRIVATE))).rv).toBe(0x67n);
    expect((await client.call("C_DigestFinal", ulongs(1n), u32(64))).rv).toBe(0x91n);
  });
});

describe("the lists and the small calls", () => {
  it.each([0, 1, 2])(
    "I6: for version %i the mechanisms' number and list agree, and each has its flags",
    async (version) => {
      const [dropped, EC, bits] = [version === 0, 0x0190_0000n, [256n, 2048n]];
      for (const [scope, expected] of [
        ["release-signing", [[0x1041n, 0x2800n | EC], ...(dropped ? [] : [[0x1044n, 0x2800n | EC]])]],
        ["rsa-signing", [[1n, 0x2800n], [0x40n, 0x2800n], [0xdn, 0x2800n], ...(dropped ? [] : [[0x43n, 0x2800n]])]],
        ["vault", [[9n, 0x200n]]],
      ] as const) {
        const client = await openSession(broker, scope, version);
        const counted = (await client.call("C_GetMechanismList", ulongs(1n), u32(0))).values;
        const { values } = await client.call("C_GetMechanismList", ulongs(1n), u32(40));
        const view = new DataView(values.buffer, values.byteOffset);
        const listed = Array.from({ length: view.getUint32(1) }, (_, index) => view.getBigUint64(5 + 8 * index));
        expect(listed).toEqual([...expected.map(([type]) => type), 0x250n, 0x260n, 0x270n]);
        expect(counted).toEqual(concatBytes(Uint8Array.of(0), u32(listed.length)));
        for (const [type, flags] of [...expected, [0x250n, 0x400n], [0x270n, 0x400n]] as const) {
          const info = (await client.call("C_GetMechanismInfo", ulongs(1n, type))).values;
          const size = flags === 0x400n ? 0n : (bits[scope === "release-signing" ? 0 : 1] ?? 0n);
          expect(info).toEqual(ulongs(size, size, flags));
        }
        expect((await client.call("C_GetMechanismInfo", ulongs(1n, 0x1087n))).rv).toBe(0x70n);
      }
    },
  );

  it("I6: waiting for a slot, seeding the generator, a user's name, and cancelling", async () => {
    const client = await openSession(broker, "release-signing", 1);
    expect((await client.call("C_WaitForSlotEvent", ulongs(1n))).rv).toBe(8n);
    expect((await client.call("C_WaitForSlotEvent", ulongs(0n))).rv).toBe(0x54n);
    expect((await client.call("C_SeedRandom", ulongs(1n), byteArray(digest))).rv).toBe(0x120n);
    expect((await client.call("C_SeedRandom", ulongs(9n), byteArray(digest))).rv).toBe(0xb3n);
    expect((await client.call("C_LoginUser", ulongs(1n, 1n), byteArray(digest), byteArray(message))).rv).toBe(0n);
    expect((await client.call("C_GetSessionInfo", ulongs(1n))).values).toEqual(ulongs(1n, 1n, 4n, 0n));
    await client.call("C_VerifyInit", ulongs(1n), plain(1, 0x1041), ulongs(PUBLIC));
    await client.call("C_SignInit", ulongs(1n), plain(1, 0x1041), ulongs(PRIVATE));
    await client.call("C_DigestInit", ulongs(1n), plain(1, 0x250));
    expect((await client.call("C_SessionCancel", ulongs(1n, 0x2400n))).rv).toBe(0n);
    expect(await finish(client, digest, signatures.ec)).toBe(0x91n);
    expect((await client.call("C_DigestFinal", ulongs(1n), u32(64))).rv).toBe(0x91n);
    expect((await client.call("C_Sign", ulongs(1n), byteArray(digest), u32(0))).rv, "was not named").toBe(0n);
    expect((await client.call("C_SessionCancel", ulongs(1n, 0x800n))).rv).toBe(0n);
    expect((await client.call("C_Sign", ulongs(1n), byteArray(digest), u32(64))).rv).toBe(0x91n);
    expect((await client.call("C_SessionCancel", ulongs(9n, 0x800n))).rv).toBe(0xb3n);
    for (const [name, tail] of [
      ["C_VerifyInit", ulongs(PUBLIC)],
      ["C_DigestInit", new Uint8Array()],
    ] as const) {
      const mechanism = plain(1, name === "C_DigestInit" ? 0x250 : 0x1041);
      await client.call(name, ulongs(1n), mechanism, tail);
      expect((await client.call(name, ulongs(1n), u32(0xffff_ffff), tail)).rv, "NULL mechanism").toBe(0n);
      expect((await client.call(name, ulongs(1n), mechanism, tail)).rv, "begun again").toBe(0n);
    }
  });

  it("I6: a stranger verifies nothing and hashes nothing", async () => {
    broker.peer = INTRUDER_PEER;
    const client = await openSession(broker);
    expect(await init(client, plain(0, 0x1041))).toBe(0x200n);
    expect((await client.call("C_DigestInit", ulongs(1n), plain(0, 0x250))).rv).toBe(0x200n);
    broker.peer = SIGNER_PEER;
  });
});
