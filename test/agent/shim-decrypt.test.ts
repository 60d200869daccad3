import { constants, publicEncrypt, verify } from "node:crypto";
import { beforeAll, describe, expect, test } from "vitest";
import type { DecryptRequest, KeyUse, Shim, SignRequest } from "../../agent/shim-client.ts";
import type { ShimKey } from "../../agent/shim-replies.ts";
import { sha256, utf8 } from "../../policy/index.ts";
import { findInMemory } from "../support/process-memory.ts";
import { openShimBench } from "../support/shim-bench.ts";
import {
  benchSlot,
  codeOf,
  keyNamed,
  publicKeyOf,
  runTokenTool,
  rvOf,
  SOFTHSM,
  TEST_PIN,
} from "../support/shim-fixture.ts";
import {
  makeTemplateRecorder,
  RECORDER,
  type RecordedShim,
  type TemplateRecorder,
} from "../support/template-recorder.ts";
import { encryptOaep, SHA1_OAEP } from "../support/wrapping.ts";

const CKR_SLOT_ID_INVALID = 0x3n;
const CKR_FUNCTION_NOT_SUPPORTED = 0x54n;
const CKR_KEY_HANDLE_INVALID = 0x60n;
const CKR_KEY_FUNCTION_NOT_PERMITTED = 0x68n;
const CKR_MECHANISM_INVALID = 0x70n;
const CKR_MECHANISM_PARAM_INVALID = 0x71n;
const [RSA_PKCS, RSA_X_509, RSA_PKCS_OAEP, SHA256_RSA_PKCS] = [0x1n, 0x3n, 0x9n, 0x40n];
const SECRET = utf8("a data key of a workload");

const shims = openShimBench();
let recorder: TemplateRecorder;

beforeAll(() => {
  const pair = ["--keypairgen", "--key-type", "rsa:2048"];
  runTokenTool(shims.token, [...pair, "--id", "03", "--label", "signer"]);
  runTokenTool(shims.token, [...pair, "--id", "04", "--label", "decrypter"]);
  recorder = makeTemplateRecorder(shims.bench, shims.addon);
});

interface LoggedIn {
  readonly shim: Shim;
  readonly slotId: bigint;
  readonly keys: readonly ShimKey[];
  decrypt(name: string, mechanism: bigint, ciphertext: Uint8Array): Promise<Uint8Array>;
  sign(name: string, mechanism: bigint, data: Uint8Array): Promise<Uint8Array>;
  uses(...uses: readonly (readonly [string, KeyUse["use"], KeyUse["accepts"]?])[]): Promise<void>;
}

async function loggedIn(): Promise<LoggedIn> {
  const started = await shims.start();
  const { shim } = started;
  const slotId = benchSlot(await shim.load(SOFTHSM));
  started.give(TEST_PIN);
  await shim.login(slotId);
  const keys = await shim.keys(slotId);
  const of = (name: string) => ({ slotId, handle: keyNamed(keys, name).handle });
  const oaepFor = (mechanism: bigint) => (mechanism === RSA_PKCS_OAEP ? SHA1_OAEP : null);
  return {
    ...{ shim, slotId, keys },
    decrypt: (name, mechanism, ciphertext) =>
      shim.decrypt({ ...of(name), mechanism, oaep: oaepFor(mechanism), ciphertext }),
    sign: (name, mechanism, data) => shim.sign({ ...of(name), mechanism, pss: null, data }),
    uses: (...uses) => shim.uses(uses.map(([name, use, accepts = []]) => ({ ...of(name), use, accepts }))),
  };
}

/** What anyone can make who has the public key. */
function encrypt(keys: readonly ShimKey[], name: string, padding: number, data: Uint8Array): Uint8Array {
  return publicEncrypt({ key: publicKeyOf(keyNamed(keys, name)), padding }, data);
}

/** A block as long as the modulus, below it. */
const BLOCK = Uint8Array.from({ length: 256 }, (_, index) => (index === 0 ? 0 : index));

describe("DECRYPT", () => {
  test("I7: opens OAEP, and with the policy's word PKCS#1 v1.5 and raw RSA, before and after ARM", async () => {
    const { shim, keys, decrypt, uses } = await loggedIn();
    const oaep = encryptOaep(publicKeyOf(keyNamed(keys, "rsa")), SECRET);
    const pkcs1 = encrypt(keys, "rsa", constants.RSA_PKCS1_PADDING, SECRET);
    const raw = encrypt(keys, "rsa", constants.RSA_NO_PADDING, BLOCK);
    const empty = encryptOaep(publicKeyOf(keyNamed(keys, "rsa")), new Uint8Array(0));
    expect(await decrypt("rsa", RSA_PKCS_OAEP, oaep)).toEqual(SECRET);
    await uses(["rsa", "decrypt", ["padding-oracle", "raw-rsa"]]);
    for (const armed of [false, true]) {
      if (armed) await shim.arm();
      expect(await decrypt("rsa", RSA_PKCS_OAEP, oaep)).toEqual(SECRET);
      expect(await decrypt("rsa", RSA_PKCS, pkcs1)).toEqual(SECRET);
      expect(await decrypt("rsa", RSA_X_509, raw)).toEqual(BLOCK);
      expect(await decrypt("rsa", RSA_PKCS_OAEP, empty)).toEqual(new Uint8Array(0));
    }
    expect(await shim.status()).toBe(9n);
    expect(shim.attempts()).toEqual({});
  });

  test("I7: without the policy's word PKCS#1 v1.5 decryption and raw RSA are no mechanisms, before USES as after it", async () => {
    const { keys, decrypt, sign, uses } = await loggedIn();
    const pkcs1 = encrypt(keys, "rsa", constants.RSA_PKCS1_PADDING, SECRET);
    const refuse = async () => {
      for (const mechanism of [RSA_PKCS, RSA_X_509])
        expect(await rvOf(decrypt("rsa", mechanism, pkcs1)), `${mechanism}`).toBe(CKR_MECHANISM_INVALID);
      expect(await rvOf(sign("signer", RSA_X_509, BLOCK))).toBe(CKR_MECHANISM_INVALID);
    };
    await refuse();
    await uses(["rsa", "decrypt"], ["signer", "sign", ["padding-oracle"]]);
    await refuse();
    for (const mechanism of [0x1081n, 0x1082n, 0x1087n, 0x2109n, 0x1057n, 0xffff_ffff_ffff_ffffn])
      expect(await rvOf(decrypt("rsa", mechanism, pkcs1)), `${mechanism}`).toBe(CKR_MECHANISM_INVALID);
  });

  test("I7: raw RSA signs where the policy accepts it by name", async () => {
    const { keys, sign, uses } = await loggedIn();
    await uses(["signer", "sign", ["raw-rsa"]]);
    const signature = await sign("signer", RSA_X_509, BLOCK);
    expect(encrypt(keys, "signer", constants.RSA_NO_PADDING, signature)).toEqual(Buffer.from(BLOCK));
  });

  test("I7: a key does not decrypt what it signs, nor sign what it decrypts, whatever the token would allow", async () => {
    const { keys, decrypt, sign, uses } = await loggedIn();
    const oaep = (name: string) => encryptOaep(publicKeyOf(keyNamed(keys, name)), SECRET);
    // SoftHSM makes keys that may do everything: before USES it lets them
    expect(await decrypt("rsa", RSA_PKCS_OAEP, oaep("rsa"))).toEqual(SECRET);
    const signature = await sign("rsa", SHA256_RSA_PKCS, SECRET);
    expect(verify("sha256", SECRET, publicKeyOf(keyNamed(keys, "rsa")), signature)).toBe(true);
    await uses(["rsa", "sign"], ["decrypter", "decrypt"]);
    expect(await rvOf(decrypt("rsa", RSA_PKCS_OAEP, oaep("rsa")))).toBe(CKR_KEY_FUNCTION_NOT_PERMITTED);
    expect(await rvOf(sign("decrypter", SHA256_RSA_PKCS, SECRET))).toBe(CKR_KEY_FUNCTION_NOT_PERMITTED);
    expect(await rvOf(sign("signer", SHA256_RSA_PKCS, SECRET)), "no use").toBe(CKR_KEY_FUNCTION_NOT_PERMITTED);
    expect(await decrypt("decrypter", RSA_PKCS_OAEP, oaep("decrypter"))).toEqual(SECRET);
    expect((await sign("rsa", SHA256_RSA_PKCS, SECRET)).length).toBe(256);
  });

  test("I7: once the shim is armed without USES no key does anything", async () => {
    const { shim, keys, slotId, decrypt, sign, uses } = await loggedIn();
    await shim.arm();
    const oaep = encryptOaep(publicKeyOf(keyNamed(keys, "rsa")), SECRET);
    expect(await rvOf(decrypt("rsa", RSA_PKCS_OAEP, oaep))).toBe(CKR_KEY_FUNCTION_NOT_PERMITTED);
    expect(await rvOf(sign("rsa", SHA256_RSA_PKCS, SECRET))).toBe(CKR_KEY_FUNCTION_NOT_PERMITTED);
    expect(await rvOf(uses(["rsa", "sign"]))).toBe(CKR_FUNCTION_NOT_SUPPORTED);
    expect((await shim.keys(slotId)).length).toBe(keys.length);
  });

  test("I7: no handle but those that KEYS has listed works: not a public key's, a data object's or another slot's", async () => {
    const { shim, keys, slotId } = await loggedIn();
    const listed = new Set(keys.map(({ handle }) => handle));
    const ciphertext = new Uint8Array(256);
    const requests = (slot: bigint, handle: bigint): readonly Promise<unknown>[] => {
      const decrypt: DecryptRequest = { slotId: slot, handle, mechanism: RSA_PKCS_OAEP, oaep: SHA1_OAEP, ciphertext };
      const sign: SignRequest = { slotId: slot, handle, mechanism: RSA_PKCS, pss: null, data: sha256(SECRET) };
      return [shim.decrypt(decrypt), shim.sign(sign), shim.uses([{ slotId: slot, handle, use: "sign" }])];
    };
    for (const handle of [...Array.from({ length: 40 }, (_, index) => BigInt(index)), 0xffff_ffff_ffff_ffffn]) {
      if (listed.has(handle)) continue;
      for (const refused of requests(slotId, handle))
        expect(await rvOf(refused), `${handle}`).toBe(CKR_KEY_HANDLE_INVALID);
    }
    const [key] = listed;
    for (const refused of requests(slotId + 1n, key ?? 0n)) expect(await rvOf(refused)).toBe(CKR_SLOT_ID_INVALID);
  });

  test("I7: OAEP parameters belong to OAEP alone", async () => {
    const { shim, keys, slotId, uses } = await loggedIn();
    await uses(["rsa", "decrypt", ["padding-oracle"]]);
    const request = { slotId, handle: keyNamed(keys, "rsa").handle, ciphertext: new Uint8Array(256) };
    for (const [mechanism, oaep] of [
      [RSA_PKCS_OAEP, null],
      [RSA_PKCS, SHA1_OAEP],
    ] as const)
      expect(await rvOf(shim.decrypt({ ...request, mechanism, oaep }))).toBe(CKR_MECHANISM_PARAM_INVALID);
  });

  test("I5: what a library logs of a wrong ciphertext is no attempt at a socket", async () => {
    const { shim, decrypt, uses } = await loggedIn();
    await uses(["rsa", "decrypt", ["padding-oracle"]]);
    await shim.arm();
    for (const mechanism of [RSA_PKCS_OAEP, RSA_PKCS]) {
      const rv = await rvOf(decrypt("rsa", mechanism, BLOCK));
      // OpenSSL 3 gives random bytes for a wrong PKCS#1 v1.5 padding; SoftHSM says CKR_GENERAL_ERROR for the other
      if (mechanism === RSA_PKCS_OAEP) expect(rv).toBe(0x5n);
    }
    expect(shim.attempts()).toEqual({});
  });
});

describe("what a library does with DECRYPT", () => {
  async function recorded(timeoutMs?: number): Promise<RecordedShim> {
    const started = await recorder.start(timeoutMs);
    shims.running.push(started);
    await started.shim.load(recorder.library);
    started.give("1234");
    await started.shim.login(RECORDER.slot);
    await started.shim.keys(RECORDER.slot);
    return started;
  }
  const request = (ciphertext: Uint8Array): DecryptRequest => ({
    ...{ slotId: RECORDER.slot, handle: RECORDER.one, mechanism: RSA_PKCS_OAEP, oaep: SHA1_OAEP },
    ciphertext,
  });

  test("I10: a plaintext of a length that cannot be is refused, and the shim lives on", async () => {
    const { shim } = await recorded();
    for (const lie of ["L", "M"]) expect(await rvOf(shim.decrypt(request(utf8(lie))))).toBe(0x5n);
    const largest = new Uint8Array(8192).fill(0x4f);
    expect(await rvOf(shim.decrypt(request(largest))), "one byte more than there is room for").toBe(0x5n);
    largest[0] = 1;
    expect((await shim.decrypt(request(largest))).length).toBe(8192);
    expect(await shim.decrypt(request(utf8("N")))).toEqual(new Uint8Array(0));
    expect(await rvOf(shim.decrypt(request(utf8("E"))))).toBe(0x40n);
  });

  test("I4: a plaintext leaves no copy in the shim, and neither does one that the library gave back with an error", async () => {
    const { shim, child } = await recorded();
    const marker = utf8("73-plaintext-of-a-workload-4182");
    for (const first of [0x30, "E".charCodeAt(0)]) {
      // far enough behind the head of the reply that the next one does not cover it
      const ciphertext = Uint8Array.of(first, ...new Uint8Array(64), ...marker.map((byte) => byte ^ 0xff));
      await shim.decrypt(request(ciphertext)).catch(() => undefined);
    }
    await shim.status();
    if (process.getuid?.() === 0) {
      expect(findInMemory(child.pid ?? 0, marker)).toEqual([]);
      expect(findInMemory(child.pid ?? 0, utf8("TEMPLATE_RECORDER="))).not.toEqual([]);
    }
  });

  test("I10: a library that never returns fails every request in flight in time, and answers none of them later", async () => {
    const { shim, child, ended } = await recorded(1_500);
    const wedged = shim.decrypt(request(utf8("H")));
    const behind = [shim.status(), shim.decrypt(request(utf8("x"))), shim.keys(RECORDER.slot)];
    for (const waiting of [wedged, ...behind]) expect(await codeOf(waiting)).toBe("ERR_SHIM_TIMEOUT");
    expect((await shim.closed).code).toBe("ERR_SHIM_TIMEOUT");
    expect(await codeOf(shim.status())).toBe("ERR_SHIM_TIMEOUT");
    child.kill("SIGKILL");
    expect((await ended).signal).toBe("SIGKILL");
  });
});
