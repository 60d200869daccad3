import { generateKeyPairSync, randomBytes, verify } from "node:crypto";
import { beforeAll, describe, expect, test } from "vitest";
import type { Shim, UnwrapRequest } from "../../agent/shim-client.ts";
import type { KeyFlag, ShimKey } from "../../agent/shim-replies.ts";
import { sha256, utf8 } from "../../policy/index.ts";
import { openShimBench } from "../support/shim-bench.ts";
import { benchSlot, keyNamed, publicKeyOf, runTokenTool, rvOf, SOFTHSM, TEST_PIN } from "../support/shim-fixture.ts";
import { encryptOaep, importWrappingKey, MECHANISM, SHA1_OAEP, type WrappingKey } from "../support/wrapping.ts";

const CKR_ATTRIBUTE_VALUE_INVALID = 0x13n;
const CKR_KEY_FUNCTION_NOT_PERMITTED = 0x68n;
const CKR_MECHANISM_INVALID = 0x70n;
const CKR_MECHANISM_PARAM_INVALID = 0x71n;
const KEY_TYPE = { rsa: 0x0n, ec: 0x3n, generic: 0x10n, des3: 0x15n, aes: 0x1fn } as const;
const [RSA_PKCS, SHA256_RSA_PKCS, ECDSA] = [0x1n, 0x40n, 0x1041n];
const MESSAGE = utf8("a message to sign");

const shims = openShimBench();
let kek: WrappingKey;

beforeAll(() => {
  kek = importWrappingKey(shims.bench, shims.token);
});

type Wanted = Partial<Omit<UnwrapRequest, "slotId" | "handle">> & Pick<UnwrapRequest, "wrapped">;

interface LoggedIn {
  readonly shim: Shim;
  readonly slotId: bigint;
  readonly keys: readonly ShimKey[];
  /** Unwraps with the AES key; by default an AES key for decryption, as a nameless session object. */
  unwrap(wanted: Wanted): Promise<bigint>;
  /** The same with the RSA key and OAEP. */
  unwrapOaep(wanted: Wanted): Promise<bigint>;
  /** What KEYS says of a handle. */
  found(handle: bigint): Promise<ShimKey>;
}

async function loggedIn(): Promise<LoggedIn> {
  const started = await shims.start();
  const { shim } = started;
  const slotId = benchSlot(await shim.load(SOFTHSM));
  started.give(TEST_PIN);
  await shim.login(slotId);
  const keys = await shim.keys(slotId);
  const plain = { allowedMechanisms: [], label: "", id: new Uint8Array(0), use: "decrypt", where: "session" } as const;
  const key = { ...plain, objectClass: "secret", keyType: KEY_TYPE.aes } as const;
  const by = (name: string) => ({ ...key, slotId, handle: keyNamed(keys, name).handle });
  return {
    ...{ shim, slotId, keys },
    unwrap: (wanted) => shim.unwrap({ ...by("kek"), mechanism: MECHANISM.keyWrapPad, oaep: null, ...wanted }),
    unwrapOaep: (wanted) => shim.unwrap({ ...by("rsa"), mechanism: MECHANISM.oaep, oaep: SHA1_OAEP, ...wanted }),
    found: async (handle) => {
      const key = (await shim.keys(slotId)).find((each) => each.handle === handle);
      if (key === undefined) throw new Error(`no key ${handle}`);
      return key;
    },
  };
}

function pair(type: "rsa" | "ec") {
  const made =
    type === "rsa"
      ? generateKeyPairSync("rsa", { modulusLength: 2048 })
      : generateKeyPairSync("ec", { namedCurve: "P-256" });
  return {
    pkcs8: Uint8Array.from(made.privateKey.export({ type: "pkcs8", format: "der" })),
    publicKey: made.publicKey,
  };
}

function trueFlags({ flags }: ShimKey): readonly KeyFlag[] {
  return [...flags].flatMap(([flag, value]) => (value ? [flag] : [])).sort();
}

describe("UNWRAP", () => {
  test("I7: a secret key comes in by OAEP and by both AES key wraps: sensitive, not extractable, for one use", async () => {
    const { unwrap, unwrapOaep, found, keys } = await loggedIn();
    const aes = () => randomBytes(32);
    const rsa = publicKeyOf(keyNamed(keys, "rsa"));
    const handles = [
      await unwrapOaep({ wrapped: encryptOaep(rsa, aes()) }),
      await unwrap({ mechanism: MECHANISM.keyWrap, wrapped: kek.wrap(aes()) }),
      await unwrap({ wrapped: kek.wrapPadded(aes()) }),
      await unwrap({ keyType: KEY_TYPE.generic, use: "sign", wrapped: kek.wrapPadded(randomBytes(21)) }),
    ];
    expect(new Set(handles).size).toBe(4);
    for (const [index, handle] of handles.entries()) {
      const key = await found(handle);
      const use = index === 3 ? "sign" : "decrypt";
      expect(key).toMatchObject({ objectClass: "secret", keyType: index === 3 ? KEY_TYPE.generic : KEY_TYPE.aes });
      expect(trueFlags(key)).toEqual([use, "sensitive"].sort());
      expect(key.flags.get("extractable")).toBe(false);
      expect(key.flags.get("wrap")).toBe(false);
    }
  });

  test("I7: a private key comes in as PKCS#8 under AES key wrap with padding, and does what it was unwrapped for alone", async () => {
    const { shim, slotId, unwrap, found, keys } = await loggedIn();
    const [ec, signer, decrypter] = [pair("ec"), pair("rsa"), pair("rsa")];
    const into = (keyType: bigint, use: "sign" | "decrypt", { pkcs8 }: typeof ec) =>
      unwrap({ objectClass: "private", keyType, use, wrapped: kek.wrapPadded(pkcs8) });
    const handles = {
      ec: await into(KEY_TYPE.ec, "sign", ec),
      signer: await into(KEY_TYPE.rsa, "sign", signer),
    };
    // before USES and ARM as after them
    await shim.uses([{ slotId, handle: keyNamed(keys, "kek").handle, use: "unwrap" }]);
    await shim.arm();
    const opener = await into(KEY_TYPE.rsa, "decrypt", decrypter);
    const sign = (handle: bigint, mechanism: bigint, data: Uint8Array) =>
      shim.sign({ slotId, handle, mechanism, pss: null, data });
    const decrypt = (handle: bigint, mechanism: bigint, ciphertext: Uint8Array) =>
      shim.decrypt({ slotId, handle, mechanism, oaep: mechanism === MECHANISM.oaep ? SHA1_OAEP : null, ciphertext });
    const ecKey = { key: ec.publicKey, dsaEncoding: "ieee-p1363" } as const;
    expect(verify("sha256", MESSAGE, ecKey, await sign(handles.ec, ECDSA, sha256(MESSAGE)))).toBe(true);
    const signature = await sign(handles.signer, SHA256_RSA_PKCS, MESSAGE);
    expect(verify("sha256", MESSAGE, signer.publicKey, signature)).toBe(true);
    const secret = encryptOaep(decrypter.publicKey, MESSAGE);
    expect(await decrypt(opener, MECHANISM.oaep, secret)).toEqual(MESSAGE);
    for (const refused of [
      decrypt(handles.signer, MECHANISM.oaep, encryptOaep(signer.publicKey, MESSAGE)),
      sign(opener, SHA256_RSA_PKCS, MESSAGE),
    ])
      expect(await rvOf(refused)).toBe(CKR_KEY_FUNCTION_NOT_PERMITTED);
    expect(await rvOf(decrypt(opener, RSA_PKCS, secret)), "accepted by nobody").toBe(CKR_MECHANISM_INVALID);
    expect(trueFlags(await found(handles.ec))).toEqual(["sensitive", "sign"]);
    expect(shim.attempts()).toEqual({});
  });

  test("I7: a token object stays on the token with one use, which the token itself then holds to", async () => {
    const first = await loggedIn();
    const stored = pair("rsa");
    const names = { label: "stored", id: Uint8Array.of(0x51) };
    const wrapped = kek.wrapPadded(stored.pkcs8);
    const wanted = { ...names, objectClass: "private", keyType: KEY_TYPE.rsa, use: "sign", wrapped } as const;
    await first.unwrap({ ...wanted, where: "token" });
    const listing = runTokenTool(shims.token, ["--list-objects", "--type", "privkey", "--label", "stored"]);
    expect(listing).toMatch(/Usage: +sign\n +Access: +sensitive\n/);
    // another shim, before any USES: what keeps the key from decrypting is the token
    const { shim, slotId, keys } = await loggedIn();
    const { handle, flags } = keyNamed(keys, "stored");
    expect([flags.get("extractable"), flags.get("sensitive"), flags.get("decrypt")]).toEqual([false, true, false]);
    const signature = await shim.sign({ slotId, handle, mechanism: SHA256_RSA_PKCS, pss: null, data: MESSAGE });
    expect(verify("sha256", MESSAGE, stored.publicKey, signature)).toBe(true);
    const ciphertext = encryptOaep(stored.publicKey, MESSAGE);
    const decrypt = shim.decrypt({ slotId, handle, mechanism: MECHANISM.oaep, oaep: SHA1_OAEP, ciphertext });
    expect(await rvOf(decrypt)).toBe(CKR_KEY_FUNCTION_NOT_PERMITTED);
  });

  test("I5: after ARM a library that keeps its tokens in files makes no token object, and session objects still", async () => {
    const { shim, slotId, keys, unwrap } = await loggedIn();
    await shim.uses([{ slotId, handle: keyNamed(keys, "kek").handle, use: "unwrap" }]);
    await shim.arm();
    const before = runTokenTool(shims.token, ["--list-objects"]);
    const late = { label: "late", id: Uint8Array.of(0x52), where: "token" } as const;
    expect(await rvOf(unwrap({ ...late, wrapped: kek.wrapPadded(randomBytes(16)) }))).toBe(0x5n);
    expect(runTokenTool(shims.token, ["--list-objects"])).toBe(before);
    expect(await unwrap({ wrapped: kek.wrapPadded(randomBytes(16)) })).toBeGreaterThan(0n);
    expect(shim.attempts()).toEqual({});
  });

  test("I7: an unwrapped key holds the mechanisms that it was given", async () => {
    const { shim, slotId, unwrap } = await loggedIn();
    const { pkcs8, publicKey } = pair("rsa");
    const wrapped = kek.wrapPadded(pkcs8);
    const allowedMechanisms = [0x42n, SHA256_RSA_PKCS];
    const handle = await unwrap({
      ...{ objectClass: "private", keyType: KEY_TYPE.rsa, use: "sign", allowedMechanisms, wrapped },
    });
    const sign = (mechanism: bigint) => shim.sign({ slotId, handle, mechanism, pss: null, data: MESSAGE });
    expect(verify("sha256", MESSAGE, publicKey, await sign(SHA256_RSA_PKCS))).toBe(true);
    expect(await rvOf(sign(0x41n))).toBe(CKR_MECHANISM_INVALID);
  });
});

describe("attacks through UNWRAP", () => {
  test("I7: wrap and decrypt: a key that unwraps does not show what was wrapped for it", async () => {
    const { shim, slotId, keys, unwrapOaep } = await loggedIn();
    const rsa = keyNamed(keys, "rsa");
    const value = randomBytes(32);
    const wrapped = encryptOaep(publicKeyOf(rsa), value);
    const decrypt = () =>
      shim.decrypt({
        ...{ slotId, handle: rsa.handle, mechanism: MECHANISM.oaep, oaep: SHA1_OAEP },
        ciphertext: wrapped,
      });
    // the token would let it: this is what USES is for
    expect(await decrypt()).toEqual(Uint8Array.from(value));
    await shim.uses([
      { slotId, handle: rsa.handle, use: "unwrap", accepts: ["padding-oracle", "raw-rsa"] },
      { slotId, handle: keyNamed(keys, "kek").handle, use: "unwrap" },
    ]);
    expect(await unwrapOaep({ wrapped })).toBeGreaterThan(0n);
    for (const mechanism of [MECHANISM.oaep, RSA_PKCS, 0x3n]) {
      const oaep = mechanism === MECHANISM.oaep ? SHA1_OAEP : null;
      const request = { slotId, handle: rsa.handle, mechanism, oaep, ciphertext: wrapped };
      expect(await rvOf(shim.decrypt(request))).toBe(CKR_KEY_FUNCTION_NOT_PERMITTED);
    }
    const { handle } = keyNamed(keys, "kek");
    const opened = shim.decrypt({ slotId, handle, mechanism: 0x1081n, oaep: null, ciphertext: kek.wrap(value) });
    expect(await rvOf(opened)).toBe(CKR_KEY_FUNCTION_NOT_PERMITTED);
  });

  test("I7: a key for signing or decrypting unwraps nothing, and an unwrapped key unwraps no other", async () => {
    const { shim, slotId, keys, unwrap, unwrapOaep } = await loggedIn();
    const rsa = keyNamed(keys, "rsa");
    const kekHandle = keyNamed(keys, "kek").handle;
    await shim.uses([
      { slotId, handle: rsa.handle, use: "decrypt" },
      { slotId, handle: kekHandle, use: "unwrap" },
    ]);
    const wrapped = encryptOaep(publicKeyOf(rsa), randomBytes(16));
    expect(await rvOf(unwrapOaep({ wrapped }))).toBe(CKR_KEY_FUNCTION_NOT_PERMITTED);
    const handle = await unwrap({ wrapped: kek.wrapPadded(randomBytes(32)) });
    const second = { ...{ slotId, handle, mechanism: MECHANISM.keyWrapPad, oaep: null }, wrapped: kek.wrap(wrapped) };
    const made = { objectClass: "secret", keyType: KEY_TYPE.aes, use: "decrypt", where: "session" } as const;
    const names = { allowedMechanisms: [], label: "", id: new Uint8Array(0) };
    expect(await rvOf(shim.unwrap({ ...second, ...made, ...names }))).toBe(CKR_KEY_FUNCTION_NOT_PERMITTED);
  });

  test("I7: the same bytes are not unwrapped again for another use, as another type, or as another class", async () => {
    const { unwrap, unwrapOaep, keys } = await loggedIn();
    const wrapped = kek.wrapPadded(randomBytes(32));
    const first = await unwrap({ wrapped, use: "decrypt" });
    expect(await unwrap({ wrapped, use: "decrypt" })).not.toBe(first);
    for (const other of [
      { use: "sign" },
      { keyType: KEY_TYPE.generic },
      { objectClass: "private", keyType: KEY_TYPE.ec },
    ] as const)
      expect(await rvOf(unwrap({ wrapped, ...other }))).toBe(CKR_KEY_FUNCTION_NOT_PERMITTED);
    const oaep = encryptOaep(publicKeyOf(keyNamed(keys, "rsa")), randomBytes(16));
    await unwrapOaep({ wrapped: oaep, use: "sign" });
    expect(await rvOf(unwrapOaep({ wrapped: oaep, use: "decrypt" }))).toBe(CKR_KEY_FUNCTION_NOT_PERMITTED);
    const failed = kek.wrapPadded(randomBytes(16));
    expect(await rvOf(unwrap({ wrapped: failed, objectClass: "private", keyType: KEY_TYPE.rsa }))).not.toBe(0n);
    expect(await unwrap({ wrapped: failed }), "nothing came of it before").toBeGreaterThan(0n);
  });

  test("I7: no key takes the label or id of an object that is there, public or private", async () => {
    const { unwrap } = await loggedIn();
    const wrapped = kek.wrapPadded(randomBytes(16));
    for (const where of ["session", "token"] as const) {
      for (const taken of [{ label: "rsa" }, { label: "kek" }, { id: Uint8Array.of(1) }, { id: Uint8Array.of(5) }])
        expect(await rvOf(unwrap({ wrapped, where, ...taken }))).toBe(CKR_ATTRIBUTE_VALUE_INVALID);
    }
    const names = { label: "fresh", id: Uint8Array.of(0x61) };
    await unwrap({ wrapped, ...names });
    for (const taken of [{ label: names.label }, { id: names.id }])
      expect(await rvOf(unwrap({ wrapped, ...taken }))).toBe(CKR_ATTRIBUTE_VALUE_INVALID);
  });

  test("I7: no other mechanism unwraps, no other type is made, and OAEP parameters belong to OAEP", async () => {
    const { unwrap } = await loggedIn();
    const wrapped = kek.wrapPadded(randomBytes(24));
    for (const mechanism of [RSA_PKCS, 0x3n, 0x1081n, 0x1082n, 0x1085n, 0x1087n, 0x132n, 0x210bn])
      expect(await rvOf(unwrap({ wrapped, mechanism })), `${mechanism}`).toBe(CKR_MECHANISM_INVALID);
    expect(await rvOf(unwrap({ wrapped, oaep: SHA1_OAEP }))).toBe(CKR_MECHANISM_PARAM_INVALID);
    expect(await rvOf(unwrap({ wrapped, mechanism: MECHANISM.oaep }))).toBe(CKR_MECHANISM_PARAM_INVALID);
    for (const keyType of [KEY_TYPE.des3, 0x13n, 0x14n, KEY_TYPE.rsa, KEY_TYPE.ec, 0xffff_ffff_ffff_ffffn])
      expect(await rvOf(unwrap({ wrapped, keyType })), `${keyType}`).toBe(CKR_ATTRIBUTE_VALUE_INVALID);
    for (const keyType of [KEY_TYPE.aes, 0x1n, 0x2n, 0x41n])
      expect(await rvOf(unwrap({ wrapped, objectClass: "private", keyType }))).toBe(CKR_ATTRIBUTE_VALUE_INVALID);
  });

  test("I7: bytes that nobody wrapped make no key", async () => {
    const { shim, slotId, unwrap, unwrapOaep } = await loggedIn();
    const before = (await shim.keys(slotId)).length;
    const wrapped = kek.wrapPadded(randomBytes(32));
    const changed = wrapped.map((byte, at) => (at === 5 ? byte ^ 1 : byte));
    for (const bytes of [changed, wrapped.slice(0, -8), wrapped.slice(0, -1), Uint8Array.of(1)])
      expect(await rvOf(unwrap({ wrapped: bytes }))).toBeGreaterThan(0n);
    expect(await rvOf(unwrapOaep({ wrapped: randomBytes(256) }))).toBeGreaterThan(0n);
    expect((await shim.keys(slotId)).length).toBe(before);
    expect(shim.attempts()).toEqual({});
  });
});
