import { constants, createPublicKey, publicEncrypt } from "node:crypto";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { AuditLog } from "../../agent/audit/log.ts";
import type { Token } from "../../agent/broker/index.ts";
import { AgentError } from "../../agent/errors.ts";
import { encodeSecretReply } from "../../agent/p11kit/frame.ts";
import { SocketChannel } from "../../agent/scopes/channel.ts";
import { ByteReader, concatBytes, sha256Hex, utf8 } from "../../policy/index.ts";
import { type BrokerFixture, INTRUDER_PEER, softwareKeys, startBroker } from "../support/broker-fixture.ts";
import {
  decrypt,
  decryptInit,
  decryptingStream,
  decryptOnce,
  oaep,
  openClient,
  openSession,
  PUBLIC,
  plain,
  replay,
} from "../support/broker-session.ts";
import { byteArray, INITIALIZE_VALUES, u32, ulongs } from "../support/rpc-client.ts";

const keys = softwareKeys();
const { publicKeys } = keys;
const publicKey = createPublicKey({
  key: Buffer.from(publicKeys.get("vault")?.spki ?? []),
  format: "der",
  type: "spki",
});
const SECRET = utf8("0123456789abcdef");
const EMPTY = new Uint8Array();
/** Bytes of a C_Decrypt reply in front of the plaintext: header, call, signature `ay`, and the array's flag and length. */
const REPLY_HEAD = 12 + 4 + 6 + 5;
const RSA_PKCS = 1;
const X_509 = 3;

const sealed = (data: Uint8Array, oaepHash = "sha256") =>
  Uint8Array.from(publicEncrypt({ key: publicKey, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash }, data));
const padded = (data: Uint8Array) =>
  Uint8Array.from(publicEncrypt({ key: publicKey, padding: constants.RSA_PKCS1_PADDING }, data));

let broker: BrokerFixture;
const start = async (token: Partial<Token> = keys, audit?: AuditLog): Promise<void> => {
  broker = await startBroker({ publicKeys, token, ...(audit === undefined ? {} : { audit }) });
};
const restart = async (token: Partial<Token>, audit?: AuditLog): Promise<void> => {
  await broker.close();
  await start(token, audit);
};
beforeEach(() => start());
afterEach(() => broker.close());

const lengthOf = (values: Uint8Array) => {
  const reader = new ByteReader(values, "ay");
  return { valid: reader.u8("valid"), length: reader.u32("length") };
};

describe("decryption", () => {
  it.each([0, 1, 2])("I6: a client of version %i decrypts by each mechanism that its scope names", async (version) => {
    const ask = async (scope: string, mechanism: Uint8Array, data: Uint8Array) =>
      decryptOnce(await openSession(broker, scope, version), mechanism, data);
    expect(await ask("vault", oaep(version), sealed(SECRET))).toEqual(SECRET);
    expect(await ask("vault", oaep(version, { source: 0n, label: EMPTY }), sealed(SECRET))).toEqual(SECRET);
    expect(await ask("legacy", plain(version, RSA_PKCS), padded(SECRET))).toEqual(SECRET);
    const block = await ask("raw", plain(version, X_509), padded(SECRET));
    expect([block.constructor, Buffer.from(block as Uint8Array).subarray(-17)]).toEqual([
      Uint8Array,
      Buffer.from([0, ...SECRET]),
    ]);
    expect(broker.decryptions.map(({ key, mechanism }) => [key, mechanism.type, mechanism.oaep?.hash])).toEqual([
      ["vault", "CKM_RSA_PKCS_OAEP", 0x250n],
      ["vault", "CKM_RSA_PKCS_OAEP", 0x250n],
      ["vault", "CKM_RSA_PKCS", undefined],
      ["vault", "CKM_RSA_X_509", undefined],
    ]);
  });

  it("I6: the objects, the mechanism list and its flags say what the scope's key is for, and nothing more", async () => {
    const flags = async (scope: string, types: readonly number[]) => {
      const client = await openSession(broker, scope);
      const found: number[] = [];
      for (const type of types) {
        const { values } = await client.call("C_GetAttributeValue", ulongs(1n, 1n), u32(1), u32(type), u32(1));
        found.push(values[13] ?? -1);
      }
      return found;
    };
    const uses = [0x105, 0x107, 0x108, 0x109, 0x10c];
    expect(await flags("vault", uses)).toEqual([1, 0, 0, 0, 0]);
    expect(await flags("rsa-signing", uses)).toEqual([0, 0, 1, 0, 0]);
    const info = async (scope: string, mechanism: bigint) => {
      const { rv, values } = await (await openSession(broker, scope)).call("C_GetMechanismInfo", ulongs(1n, mechanism));
      return rv === 0n ? new ByteReader(values.slice(16), "info").u64("flags") : rv;
    };
    expect([await info("legacy", 1n), await info("rsa-signing", 1n), await info("vault", 1n)]).toEqual([
      0x200n,
      0x2800n,
      0x70n,
    ]);
  });

  it.each([
    ["vault", oaep(0), 256 - 66],
    ["legacy", plain(0, RSA_PKCS), 256 - 11],
    ["raw", plain(0, X_509), 256],
  ])(
    "I7: in scope %s a length query is answered from the key's size, asks nobody, and is no guess",
    async (scope, mechanism, longest) => {
      const client = await openSession(broker, scope);
      const data = scope === "vault" ? sealed(SECRET) : padded(SECRET);
      await decryptInit(client, mechanism);
      for (const room of [0, 0xffff_ffff])
        for (const bytes of [data, EMPTY, new Uint8Array(256).fill(0xff)])
          expect(lengthOf((await decrypt(client, bytes, room)).values)).toEqual({ valid: 0, length: longest });
      expect([broker.decryptions, broker.records()]).toEqual([[], []]);
      expect((await decrypt(client, data, longest)).rv).toBe(0n);
      expect(await decrypt(client, data, longest)).toMatchObject({ rv: 0x91n });
      expect(broker.decryptions).toHaveLength(1);
    },
  );

  it("I7: a buffer of the plaintext's own size is enough; one that is too small learns the length, and the operation is over", async () => {
    const client = await openSession(broker, "vault");
    await decryptInit(client, oaep(0));
    const reply = await decrypt(client, sealed(SECRET), SECRET.length);
    expect(reply.values).toEqual(byteArray(SECRET));
    await decryptInit(client, oaep(0));
    const short = await decrypt(client, sealed(SECRET), SECRET.length - 1);
    expect([lengthOf(short.values), short.values.length]).toEqual([{ valid: 0, length: SECRET.length }, 5]);
    expect(await decrypt(client, sealed(SECRET))).toMatchObject({ rv: 0x91n });
    expect(broker.decryptions).toHaveLength(2);
  });

  it("I7: an empty message is a plaintext, and a NULL ciphertext is a mistake", async () => {
    const client = await openSession(broker, "vault");
    expect(await decryptOnce(client, oaep(0), sealed(EMPTY))).toEqual(EMPTY);
    await decryptInit(client, oaep(0));
    const nothing = concatBytes(Uint8Array.of(0), u32(256));
    expect(await client.call("C_Decrypt", ulongs(1n), nothing, u32(512))).toMatchObject({ rv: 0x7n });
  });

  it.each<[string, string, Uint8Array, (good: Uint8Array) => Uint8Array]>([
    ["longer than the padding leaves room for", "vault", oaep(0), () => new Uint8Array(191).fill(0x5a)],
    ["longer than the padding leaves room for", "legacy", plain(0, RSA_PKCS), () => new Uint8Array(246).fill(0x5a)],
    ["longer than the modulus", "raw", plain(0, X_509), (good) => concatBytes(Uint8Array.of(0), good)],
    ["shorter than a block", "raw", plain(0, X_509), (good) => good.slice(1)],
    ["empty where there is no padding", "raw", plain(0, X_509), () => EMPTY],
    [
      "a block that the public key does not turn back",
      "raw",
      plain(0, X_509),
      (good) => good.map((byte, at) => (at === 255 ? byte ^ 1 : byte)),
    ],
  ])("I7: a result that is %s (scope %s) is not released, and is wiped", async (_what, scope, mechanism, spoil) => {
    let given: Uint8Array = EMPTY;
    await restart({
      decrypt: async (request) => {
        given = spoil(await keys.decrypt({ ...request, mechanism: { type: "CKM_RSA_X_509", value: 3n, oaep: null } }));
        return given;
      },
    });
    expect(await decryptOnce(await openSession(broker, scope), mechanism, padded(SECRET))).toBe(0x40n);
    expect(given.every((byte) => byte === 0)).toBe(true);
  });

  it("I4: a plaintext is wiped where the token's answer lay, and moved into the one reply", async () => {
    const given: Uint8Array[] = [];
    await restart({
      decrypt: async (request) => {
        const plaintext = await keys.decrypt(request);
        given.push(plaintext);
        return plaintext;
      },
    });
    const client = await openSession(broker, "vault");
    expect(await decryptOnce(client, oaep(0), sealed(SECRET))).toEqual(SECRET);
    await decryptInit(client, oaep(0));
    await decrypt(client, sealed(SECRET), 3);
    expect(given).toEqual([new Uint8Array(SECRET.length), new Uint8Array(SECRET.length)]);
    const written = vi.spyOn(SocketChannel.prototype, "write");
    expect(await decryptOnce(client, oaep(0), sealed(SECRET))).toEqual(SECRET);
    const chunks = written.mock.calls.map(([chunk]) => Uint8Array.from(chunk));
    written.mockRestore();
    const replies = chunks.filter((chunk) => chunk.length === REPLY_HEAD + SECRET.length);
    expect(replies).toEqual([new Uint8Array(REPLY_HEAD + SECRET.length)]);
    const secret = Uint8Array.from(SECRET);
    const reply = encodeSecretReply(7, 34, "ay", secret);
    expect(reply.slice(-21)).toEqual(byteArray(SECRET));
    expect(secret).toEqual(new Uint8Array(SECRET.length));
  });

  it("I8: the record is in the log before the token is asked, with the ciphertext's digest, and says nothing of the outcome", async () => {
    const seen: number[] = [];
    await restart({
      decrypt: (request) => {
        seen.push(broker.records().length);
        return keys.decrypt(request);
      },
    });
    const client = await openSession(broker, "vault");
    const [good, bad] = [sealed(SECRET), new Uint8Array(256).fill(1)];
    await decryptOnce(client, oaep(0), good);
    await decryptOnce(client, oaep(0), bad);
    expect(seen).toEqual([1, 2]);
    const record = {
      ...{ decision: "allow", step: null, operation: "decrypt", key: "vault", scope: "vault" },
      ...{ reason: "vault/CKM_RSA_PKCS_OAEP", mechanism: "CKM_RSA_PKCS_OAEP", caller: { uid: 2001, pid: 77 } },
    };
    expect(broker.records()).toMatchObject([
      { ...record, inputDigest: `sha256:${sha256Hex(good)}` },
      { ...record, inputDigest: `sha256:${sha256Hex(bad)}` },
    ]);
  });

  it("I8: when the audit write fails nothing is decrypted, and no failure is spent", async () => {
    const head = { seq: 0, hash: "0".repeat(64) };
    const failing: AuditLog = {
      append: () => Promise.reject(new AgentError("ERR_AUDIT_WRITE", "audit log: full")),
      ...{ head: () => head, durableHead: () => head, latest: () => 0, close: () => {} },
    };
    await restart(keys, failing);
    const client = await openSession(broker, "vault");
    for (let index = 0; index < 20; index += 1) expect(await decryptOnce(client, oaep(0), sealed(SECRET))).toBe(0x6n);
    expect(broker.decryptions).toEqual([]);
  });

  it("I8: a shim that is gone is a failed device, which is no answer about the ciphertext", async () => {
    await restart({ decrypt: () => Promise.reject(new AgentError("ERR_SHIM_GONE", "shim connection: closed")) });
    expect(await decryptOnce(await openSession(broker, "vault"), oaep(0), sealed(SECRET))).toBe(0x30n);
    await restart({ decrypt: () => Promise.reject(new AgentError("ERR_SHIM_TIMEOUT", "shim decrypt")) });
    expect(await decryptOnce(await openSession(broker, "vault"), oaep(0), sealed(SECRET))).toBe(0x30n);
  });

  it("I6: a stranger's attempts are refused and recorded as what they are", async () => {
    broker.peer = INTRUDER_PEER;
    const client = await openClient(broker, "vault");
    await client.call("C_Initialize", INITIALIZE_VALUES);
    expect(await decryptInit(client, oaep(0))).toMatchObject({ rv: 0x200n });
    expect(await decrypt(client, sealed(SECRET))).toMatchObject({ rv: 0x200n });
    expect(broker.records().map(({ operation, step }) => [operation, step])).toEqual([
      ["connect", "caller"],
      ["decrypt", "caller"],
      ["decrypt", "caller"],
    ]);
    expect(broker.decryptions).toEqual([]);
  });

  it("I6: each refusal has its step and its plain code, and reaches no token", async () => {
    const client = await openSession(broker, "vault");
    expect(await decryptInit(client, oaep(0), PUBLIC)).toMatchObject({ rv: 0x68n });
    expect(await decryptInit(client, oaep(0), 3n)).toMatchObject({ rv: 0x60n });
    expect(await decryptInit(client, plain(0, RSA_PKCS))).toMatchObject({ rv: 0x70n });
    expect(await decryptInit(client, plain(0, 0x1087))).toMatchObject({ rv: 0x70n });
    expect(await decryptInit(client, oaep(0, { digest: "sha1" }))).toMatchObject({ rv: 0x71n });
    expect(await decryptInit(client, oaep(0, { label: utf8("x") }))).toMatchObject({ rv: 0x71n });
    expect(await decryptOnce(client, oaep(0), sealed(SECRET).slice(1))).toBe(0x41n);
    expect(await decryptOnce(client, oaep(0), new Uint8Array(256).fill(0xff))).toBe(0x41n);
    expect(broker.records().map(({ step, operation }) => `${operation} ${step}`)).toEqual(
      ["operation", "key", "mechanism", "mechanism", "parameters", "parameters", "parameters", "parameters"].map(
        (step) => `decrypt ${step}`,
      ),
    );
    expect(broker.decryptions).toEqual([]);
  });

  it("I6: an operation belongs to its session, is begun once, and ends with an attempt at parts", async () => {
    const client = await openSession(broker, "vault", 2);
    await client.call("C_OpenSession", ulongs(1n, 4n));
    expect((await decryptInit(client, oaep(2))).rv).toBe(0n);
    expect(await decryptInit(client, oaep(2))).toMatchObject({ rv: 0x90n });
    expect(await client.call("C_Decrypt", ulongs(2n), byteArray(sealed(SECRET)), u32(512))).toMatchObject({
      rv: 0x91n,
    });
    expect((await decryptInit(client, u32(0xffff_ffff), 0n)).rv).toBe(0n);
    expect(await decrypt(client, sealed(SECRET))).toMatchObject({ rv: 0x91n });
    const part = concatBytes(ulongs(1n), byteArray(sealed(SECRET)), u32(512));
    expect(await client.call("C_DecryptUpdate", part)).toMatchObject({ rv: 0x91n });
    for (const [name, values] of [
      ["C_DecryptUpdate", part],
      ["C_DecryptFinal", concatBytes(ulongs(1n), u32(512))],
    ] as const) {
      expect((await decryptInit(client, oaep(2))).rv).toBe(0n);
      expect(await client.call(name, values)).toMatchObject({ rv: 0x54n });
      expect(await decrypt(client, sealed(SECRET))).toMatchObject({ rv: 0x91n });
    }
    expect(broker.decryptions).toEqual([]);
  });

  it.each([0, 1, 2])(
    "I10: mutated streams of version %i reach the token as what the scope allows, or not at all",
    async (version) => {
      const stream = decryptingStream(version, oaep(version), sealed(SECRET));
      const position = fc.nat(stream.length - 1);
      await fc.assert(
        fc.asyncProperty(
          fc.array(fc.tuple(position, fc.nat(255)), { minLength: 1, maxLength: 4 }),
          fc.nat(40),
          async (changes, cut) => {
            const mutated = stream.slice(0, stream.length - cut);
            for (const [at, byte] of changes) if (at < mutated.length) mutated[at] = byte;
            broker.time += 60_000 * 60;
            await replay(broker, mutated, "vault");
          },
        ),
        { numRuns: 120 },
      );
      for (const { key, mechanism, data } of broker.decryptions)
        expect([key, mechanism.value, mechanism.oaep, data.length]).toEqual([
          ...["vault", 9n],
          { hash: 0x250n, mgf: 2n, label: EMPTY },
          256,
        ]);
      expect(await decryptOnce(await openSession(broker, "vault", version), oaep(version), sealed(SECRET))).toEqual(
        SECRET,
      );
    },
  );

  it("I10: OAEP parameters that are cut, too long, or say more than they have end that connection only", async () => {
    const whole = oaep(2, { label: utf8("label") });
    const spoiled = [
      whole.slice(0, -1),
      concatBytes(whole, Uint8Array.of(0)),
      whole.slice(0, 9),
      whole.map((byte, at) => (at === 4 ? 2 : byte)),
    ];
    for (const mechanism of spoiled) {
      const client = await openSession(broker, "vault", 2);
      client.send(decryptingStream(2, mechanism, EMPTY).slice(1));
      expect((await client.reply()).rv).toBe(0x191n);
      expect((await client.reply()).rv).toBe(0n);
      expect(await client.closed()).toEqual(EMPTY);
    }
    expect(broker.decryptions).toEqual([]);
  });
});
