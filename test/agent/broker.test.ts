import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import type { AuditLog } from "../../agent/audit/log.ts";
import { openAudit } from "../../agent/audit/open.ts";
import { AgentError } from "../../agent/errors.ts";
import { ByteReader, ByteWriter, concatBytes, sha256Hex, utf8 } from "../../policy/index.ts";
import {
  type BrokerFixture,
  INTRUDER_PEER,
  SIGNER_PEER,
  softwareKeys,
  startBroker,
} from "../support/broker-fixture.ts";
import {
  DIGEST,
  DIGEST_INFO,
  ECDSA,
  openClient,
  openSession,
  PRIVATE,
  PUBLIC,
  replay,
  SIGNING_STREAM,
  sign,
  signInit,
} from "../support/broker-session.ts";
import { byteArray, INITIALIZE_VALUES, rawFrame, u32, ulongs } from "../support/rpc-client.ts";

let broker: BrokerFixture;
beforeEach(async () => {
  broker = await startBroker();
});
afterEach(() => broker.close());

const length = (values: Uint8Array) => {
  const reader = new ByteReader(values, "ay");
  return { valid: reader.u8("valid"), length: reader.u32("length") };
};

describe("identity", () => {
  it("I6: a caller with another uid is refused and the refusal is in the audit log", async () => {
    broker.peer = INTRUDER_PEER;
    const client = await openClient(broker);
    for (const [name, values] of [
      ["C_Initialize", INITIALIZE_VALUES],
      ["C_GetInfo", new Uint8Array()],
      ["C_OpenSession", ulongs(1n, 4n)],
      ["C_SignInit", concatBytes(ulongs(1n), ECDSA, ulongs(PRIVATE))],
      ["C_Sign", concatBytes(ulongs(1n), byteArray(DIGEST), u32(512))],
    ] as const) {
      expect(await client.call(name, values)).toMatchObject({ call: null, rv: 0x200n });
    }
    expect(broker.requests).toEqual([]);
    const denial = {
      decision: "deny",
      step: "caller",
      caller: { uid: 2002, pid: 78 },
      key: null,
      scope: "release-signing",
    };
    const records = broker.records();
    expect(records).toMatchObject([denial, denial, denial]);
    expect(records.map(({ operation }) => operation)).toEqual(["connect", "sign", "sign"]);
  });

  it("I6: the same bytes from a scoped caller succeed", async () => {
    const good = await replay(broker, SIGNING_STREAM);
    broker.peer = INTRUDER_PEER;
    const refused = await replay(broker, SIGNING_STREAM);
    broker.peer = SIGNER_PEER;
    expect(await replay(broker, SIGNING_STREAM)).toEqual(good);
    expect(refused).not.toEqual(good);
    expect(broker.requests).toHaveLength(2);
    expect(broker.records().map(({ decision }) => decision)).toEqual(["allow", "deny", "deny", "deny", "allow"]);
  });

  it("I6: a caller with another executable, and a peer that cannot be identified, are refused", async () => {
    broker.peer = { ...SIGNER_PEER, exe: `sha256:${"00".repeat(32)}` };
    expect(await (await openClient(broker)).call("C_Initialize", INITIALIZE_VALUES)).toMatchObject({ rv: 0x200n });
    broker.peer = null;
    expect(await (await openClient(broker)).call("C_Initialize", INITIALIZE_VALUES)).toMatchObject({ rv: 0x200n });
    expect(broker.records()).toMatchObject([
      { step: "caller", caller: { uid: 2001 } },
      { step: "caller", caller: null },
    ]);
  });
});

describe("scope", () => {
  it("I6: the key of another scope is invisible", async () => {
    const client = await openSession(broker);
    const find = async (template: Uint8Array) => {
      await client.call("C_FindObjectsInit", ulongs(1n), template);
      const { values } = await client.call("C_FindObjects", ulongs(1n), u32(10));
      await client.call("C_FindObjectsFinal", ulongs(1n));
      return length(values).length;
    };
    const labelled = (text: string) =>
      concatBytes(u32(1), u32(3), Uint8Array.of(1), u32(text.length), new ByteWriter().sized32(utf8(text)).finish());
    expect([await find(u32(0)), await find(labelled("release-ec")), await find(labelled("release-rsa"))]).toEqual([
      2, 2, 0,
    ]);
    expect(await signInit(client, ECDSA, 3n)).toMatchObject({ rv: 0x60n });
    expect(await client.call("C_GetAttributeValue", ulongs(1n, 3n), u32(1), u32(3), u32(0))).toMatchObject({
      rv: 0x82n,
    });
    expect(broker.records()).toMatchObject([{ decision: "deny", step: "key", key: null }]);
  });

  it("I6: a wrong mechanism, wrong parameters, wrong data and the public key are refused, each with its step", async () => {
    const client = await openSession(broker);
    expect(await signInit(client, concatBytes(u32(0x1), u32(0xffff_ffff)))).toMatchObject({ rv: 0x70n });
    expect(await signInit(client, concatBytes(u32(0x1087), new Uint8Array(16)))).toMatchObject({ rv: 0x70n });
    expect(await signInit(client, concatBytes(u32(0x1041), u32(1), Uint8Array.of(1)))).toMatchObject({ rv: 0x71n });
    expect(await signInit(client, ECDSA, PUBLIC)).toMatchObject({ rv: 0x68n });
    await signInit(client);
    expect(await sign(client, DIGEST.slice(1))).toMatchObject({ rv: 0x21n });
    expect(await sign(client)).toMatchObject({ rv: 0x91n });
    expect(broker.records().map(({ step, mechanism }) => [step, mechanism])).toEqual([
      ["mechanism", "CKM_RSA_PKCS"],
      ["mechanism", "0x1087"],
      ["parameters", "CKM_ECDSA"],
      ["operation", "CKM_ECDSA"],
      ["parameters", "CKM_ECDSA"],
    ]);
    expect(broker.requests).toEqual([]);
  });

  it("I6: the rate limit holds across connections and opens again with time", async () => {
    const first = await openSession(broker);
    const second = await openSession(broker);
    for (let index = 0; index < 60; index += 1) {
      const client = index % 2 === 0 ? first : second;
      await signInit(client);
      expect((await sign(client)).rv).toBe(0n);
    }
    expect(await signInit(second)).toMatchObject({ rv: 0x200n });
    expect(broker.records().at(-1)).toMatchObject({ decision: "deny", step: "rate" });
    broker.time += 100;
    await signInit(first);
    await signInit(second);
    expect((await sign(first)).rv).toBe(0n);
    expect((await sign(second)).rv).toBe(0x200n);
    expect(broker.requests).toHaveLength(61);
  });

  it("I7: every call that the table does not list is not supported", async () => {
    const client = await openSession(broker);
    const attempts: [string, Uint8Array][] = [
      ["C_WrapKey", concatBytes(ulongs(1n), ECDSA, ulongs(1n, 1n), u32(512))],
      ["C_CreateObject", concatBytes(ulongs(1n), u32(0))],
      ["C_CopyObject", concatBytes(ulongs(1n, 1n), u32(0))],
      ["C_SetAttributeValue", concatBytes(ulongs(1n, 1n), u32(0))],
      ["C_DestroyObject", ulongs(1n, 1n)],
      ["C_EncryptInit", concatBytes(ulongs(1n), ECDSA, ulongs(1n))],
      ["C_SignRecoverInit", concatBytes(ulongs(1n), ECDSA, ulongs(1n))],
      ["C_DeriveKey", concatBytes(ulongs(1n), ECDSA, ulongs(1n), u32(0))],
      ["C_GetOperationState", concatBytes(ulongs(1n), u32(0))],
      ["C_InitToken", new Uint8Array()],
      ["C_SetPIN", new Uint8Array()],
      ["C_WaitForSlotEvent", ulongs(0n)],
      ["C_DeriveKey2", new Uint8Array()],
    ];
    for (const [name, values] of attempts) expect(await client.call(name, values)).toMatchObject({ rv: 0x54n });
    client.send(rawFrame(0x99, new ByteWriter().u32(500).sized32(utf8("uu")).finish()));
    expect(await client.reply()).toMatchObject({ code: 0x99, rv: 0x54n });
  });
});

describe("signing", () => {
  it("I6: length queries and small buffers ask nobody; one operation gives one signature", async () => {
    const client = await openSession(broker);
    await signInit(client);
    expect(length((await sign(client, DIGEST, 0)).values)).toEqual({ valid: 0, length: 64 });
    expect(length((await sign(client, DIGEST, 63)).values)).toEqual({ valid: 0, length: 64 });
    expect(length((await sign(client, DIGEST, 0xffff_ffff)).values)).toEqual({ valid: 0, length: 64 });
    expect(broker.requests).toHaveLength(0);
    expect(length((await sign(client, DIGEST, 64)).values)).toEqual({ valid: 1, length: 64 });
    expect(await sign(client, DIGEST, 64)).toMatchObject({ rv: 0x91n });
    expect(broker.requests).toHaveLength(1);
  });

  it("I8: the allowed record is in the log before the token is asked, with the digest of what it gets", async () => {
    let seen: number | null = null;
    const keys = softwareKeys();
    await broker.close();
    broker = await startBroker({
      publicKeys: keys.publicKeys,
      token: {
        sign: async (request) => {
          seen = broker.records().length;
          return keys.sign(request);
        },
      },
    });
    const client = await openSession(broker);
    await signInit(client);
    await sign(client);
    expect(seen).toBe(1);
    expect(broker.records()).toMatchObject([
      {
        seq: 1,
        decision: "allow",
        step: null,
        reason: "release-signing/CKM_ECDSA",
        mechanism: "CKM_ECDSA",
        key: "release-ec",
        inputDigest: `sha256:${sha256Hex(DIGEST)}`,
        caller: { uid: 2001, pid: 77 },
      },
    ]);
  });

  it("I8: when the audit write fails nothing is signed, then and later", async () => {
    await broker.close();
    const directory = mkdtempSync(join(tmpdir(), "full-"));
    let full = false;
    const audit: AuditLog = openAudit({
      directory: join(directory, "audit.log"),
      now: Date.now,
      anchor: null,
      files: { write: (_fd, bytes) => (full ? 0 : bytes.length) },
    });
    broker = await startBroker({ audit });
    const client = await openSession(broker);
    await signInit(client);
    expect((await sign(client)).rv).toBe(0n);
    full = true;
    for (let index = 0; index < 2; index += 1) {
      await signInit(client);
      expect(await sign(client)).toMatchObject({ rv: 0x6n });
      full = false;
    }
    expect(broker.requests).toHaveLength(1);
    rmSync(directory, { recursive: true });
  });

  it("I6: what the agent hashes reaches the token as a digest, in one part or many", async () => {
    const client = await openSession(broker, "rsa-signing");
    const hashed = concatBytes(u32(0x40), u32(0xffff_ffff));
    await signInit(client, hashed);
    const whole = await sign(client, utf8("release 1.2.3"));
    await signInit(client, hashed);
    for (const part of ["release ", "", "1.2.3"]) await client.call("C_SignUpdate", ulongs(1n), byteArray(utf8(part)));
    const parts = await client.call("C_SignFinal", ulongs(1n), u32(512));
    expect(parts.values).toEqual(whole.values);
    expect(broker.requests.map(({ mechanism, data }) => [mechanism.type, data.length])).toEqual([
      ["CKM_RSA_PKCS", 51],
      ["CKM_RSA_PKCS", 51],
    ]);
    await signInit(client, concatBytes(u32(0x1), u32(0xffff_ffff)));
    expect(await client.call("C_SignUpdate", ulongs(1n), byteArray(DIGEST_INFO))).toMatchObject({ rv: 0x54n });
  });

  it("I6: an RSA signature that does not verify is not released", async () => {
    const keys = softwareKeys();
    await broker.close();
    broker = await startBroker({
      publicKeys: keys.publicKeys,
      token: {
        sign: async (request) => {
          const signature = await keys.sign(request);
          signature[200] = (signature[200] ?? 0) ^ 1;
          return signature;
        },
      },
    });
    const client = await openSession(broker, "rsa-signing");
    await signInit(client, concatBytes(u32(0x1), u32(0xffff_ffff)));
    expect(await sign(client, DIGEST_INFO)).toMatchObject({ rv: 0x30n });
    await signInit(client, concatBytes(u32(0xd), ulongs(0x250n, 2n, 32n)));
    expect(await sign(client, DIGEST)).toMatchObject({ rv: 0x30n });
  });

  it("I8: when the shim is gone callers learn that the device failed, and the record was there before", async () => {
    await broker.close();
    broker = await startBroker({
      token: { sign: () => Promise.reject(new AgentError("ERR_SHIM_GONE", "shim connection: closed")) },
    });
    const client = await openSession(broker);
    for (let attempt = 1; attempt <= 2; attempt += 1) {
      expect((await signInit(client)).rv).toBe(0n);
      expect(await sign(client)).toMatchObject({ rv: 0x30n });
      expect(broker.records().map(({ decision }) => decision)).toEqual(Array.from({ length: attempt }, () => "allow"));
    }
  });

  it("I6: an operation belongs to its session, and nothing revives one that is over", async () => {
    const client = await openSession(broker);
    const second = 2n;
    await client.call("C_OpenSession", ulongs(1n, 4n));
    const signWith = (session: bigint) => client.call("C_Sign", ulongs(session), byteArray(DIGEST), u32(512));
    expect(await signWith(1n)).toMatchObject({ rv: 0x91n });
    expect((await signInit(client)).rv).toBe(0n);
    expect(await signWith(second)).toMatchObject({ rv: 0x91n });
    expect(await client.call("C_SignFinal", ulongs(second), u32(512))).toMatchObject({ rv: 0x91n });
    expect((await client.call("C_CloseSession", ulongs(1n))).rv).toBe(0n);
    expect(await signWith(1n)).toMatchObject({ rv: 0xb3n });
    expect((await client.call("C_SignInit", ulongs(second), ECDSA, ulongs(PRIVATE))).rv).toBe(0n);
    expect((await client.call("C_Finalize")).rv).toBe(0n);
    expect(await signWith(second)).toMatchObject({ rv: 0x190n });
    await client.call("C_Initialize", INITIALIZE_VALUES);
    expect(await signWith(second)).toMatchObject({ rv: 0xb3n });
    expect(broker.requests).toEqual([]);
  });

  it("I6: data that was begun in parts is not signed in one piece, and raw data is never empty", async () => {
    const client = await openSession(broker, "rsa-signing");
    await signInit(client, concatBytes(u32(0x40), u32(0xffff_ffff)));
    await client.call("C_SignUpdate", ulongs(1n), byteArray(utf8("a")));
    expect(await sign(client, utf8("b"))).toMatchObject({ rv: 0x90n });
    await client.call("C_CloseSession", ulongs(1n));
    await client.call("C_OpenSession", ulongs(1n, 4n));
    await client.call("C_SignInit", ulongs(2n), u32(0x1), u32(0xffff_ffff), ulongs(PRIVATE));
    expect(await client.call("C_SignFinal", ulongs(2n), u32(512))).toMatchObject({ rv: 0x21n });
    expect(broker.requests).toEqual([]);
  });

  it("I6: a NULL mechanism cancels, a second C_SignInit does not", async () => {
    const client = await openSession(broker, "release-signing", 2);
    const v2 = u32(0x1041);
    expect((await signInit(client, v2)).rv).toBe(0n);
    expect(await signInit(client, v2)).toMatchObject({ rv: 0x90n });
    expect((await signInit(client, u32(0xffff_ffff), 0n)).rv).toBe(0n);
    expect(await sign(client)).toMatchObject({ rv: 0x91n });
    expect((await signInit(client, v2)).rv).toBe(0n);
    expect((await sign(client)).rv).toBe(0n);
  });
});
