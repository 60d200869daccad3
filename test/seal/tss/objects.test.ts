import { open as openFile, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { HANDLE_RANGE, Session, type Tpm, TpmError, TpmObject } from "node-tpm2-tss";
import { describe, expect, test } from "vitest";
import { concatBytes, fromHex, toHex } from "../../../policy/index.ts";
import {
  CC,
  fileTpm,
  hash,
  inTpm,
  nothing,
  refusal,
  sealedTemplate,
  signingTemplate,
  sized,
  softwareKey,
  storageTemplate,
  text,
  u8,
  u16,
  u32,
} from "./fixture.ts";

const open = fileTpm();
const auth = text("authValue");
const secret = text("a secret of some length");
const nameOf = (publicArea: Uint8Array) => concatBytes(u16(0x000b), hash("sha256", publicArea));

const storageKey = (tpm: Tpm) => tpm.createPrimary("owner", storageTemplate);

/** `secret` sealed with `auth`, loaded. ESYS does not know the authValue. */
async function sealed(tpm: Tpm, parent: TpmObject): Promise<TpmObject> {
  const { privateArea, publicArea } = await tpm.create(parent, sealedTemplate(), { sensitive: { auth, data: secret } });
  return await tpm.load(parent, privateArea, publicArea);
}

describe("making and loading", () => {
  test("CreatePrimary gives the same key each time, and its creation data hashes to creationHash", async () => {
    await using tpm = await open();
    const outsideInfo = text("outside");
    const creationPcrs = [{ bank: "sha256", pcrs: [0, 16] }] as const;
    await using first = await tpm.createPrimary("owner", storageTemplate, { outsideInfo, creationPcrs });
    await using second = await storageKey(tpm);
    expect(first.publicArea).toEqual(second.publicArea);
    expect(first.name).toEqual(nameOf(first.publicArea));
    expect(first.creationHash).toEqual(hash("sha256", first.creationData));
    const pcrs = (await tpm.pcrRead(creationPcrs)).get("sha256");
    const pcrDigest = hash("sha256", pcrs?.get(0) ?? u16(0), pcrs?.get(16) ?? u16(0));
    const selection = fromHex("00000001000b03010001");
    expect(toHex(first.creationData).startsWith(toHex(concatBytes(selection, sized(pcrDigest))))).toBe(true);
    expect(toHex(first.creationData).endsWith(toHex(sized(outsideInfo)))).toBe(true);
    expect(toHex(first.creationTicket.slice(0, 6))).toBe("802140000001");
  });

  test("CreatePrimary refuses a template that contradicts itself", async () => {
    await using tpm = await open();
    const restrictedDataKey = storageTemplate.map((byte, at) => (at === 5 ? byte | 0x04 : byte)); // also sign
    expect(await refusal(tpm.createPrimary("owner", restrictedDataKey))).toBe("tpm CreatePrimary 0x2c2");
    expect(await refusal(tpm.createPrimary("owner", storageTemplate.slice(1)))).toMatch(/^mu CreatePrimary /);
  });

  test("Create, Load, ReadPublic; a private area that was changed is refused, and so is the wrong parent authValue", async () => {
    await using tpm = await open();
    await using parent = await tpm.createPrimary("owner", storageTemplate, { sensitive: { auth } });
    const made = await tpm.create(parent, signingTemplate);
    expect(made.creationHash).toEqual(hash("sha256", made.creationData));
    {
      await using object = await tpm.load(parent, made.privateArea, made.publicArea);
      const read = await tpm.readPublic(object);
      expect(read.publicArea).toEqual(made.publicArea);
      expect([read.name, object.name]).toEqual([nameOf(made.publicArea), nameOf(made.publicArea)]);
      expect(read.qualifiedName).toEqual(
        concatBytes(u16(0x000b), hash("sha256", (await tpm.readPublic(parent)).qualifiedName, read.name)),
      );
      await tpm.flushContext(object);
      expect(await refusal(tpm.readPublic(object))).toMatch(/^esys ReadPublic /);
    }
    const changed = made.privateArea.map((byte, at) => (at === made.privateArea.length - 1 ? byte ^ 1 : byte));
    expect(await refusal(tpm.load(parent, changed, made.publicArea))).toBe("tpm Load 0x1df");
    await tpm.hierarchyChangeAuth("owner", nothing);
    await tpm.setAuth(parent, u8(9));
    await using session = await tpm.startAuthSession({ kind: "hmac" });
    expect(await refusal(tpm.create(parent, signingTemplate, { sessions: [session] }))).toMatch(/^tpm Create 0x98e$/);
    await tpm.dictionaryAttackLockReset();
  });

  test("a software key is loaded whole under the null hierarchy, and signs; under owner it is refused", async () => {
    await using tpm = await open();
    const { publicArea, sensitive, name } = softwareKey();
    await using key = await tpm.loadExternal(publicArea, "null", { sensitive });
    expect(key.name).toEqual(name);
    const digest = hash("sha256", text("message"));
    const signature = await tpm.sign(key, digest, { scheme: fromHex("0018000b") });
    expect((await tpm.verifySignature(key, digest, signature)).length).toBeGreaterThan(0);
    expect(await refusal(tpm.loadExternal(publicArea, "owner", { sensitive }))).toBe("tpm LoadExternal 0x3c5");
    expect(await refusal(tpm.loadExternal(publicArea, "null", { sensitive: sensitive.slice(1) }))).toMatch(/^mu /);
  });

  test("I10: any bytes as a public area end in a TpmError or a Name of them, never otherwise", async () => {
    await using tpm = await open();
    const { publicArea } = softwareKey();
    const mutated = fc
      .tuple(fc.nat(publicArea.length - 1), fc.integer({ min: 1, max: 255 }))
      .map(([at, flip]) => publicArea.map((byte, index) => (index === at ? byte ^ flip : byte)));
    await fc.assert(
      fc.asyncProperty(fc.oneof(mutated, fc.uint8Array({ maxLength: 400 })), async (bytes) => {
        try {
          await using key = await tpm.loadExternal(bytes, "owner");
          expect(key.name.length).toBeGreaterThan(2);
        } catch (cause) {
          expect(cause).toBeInstanceOf(TpmError);
        }
      }),
      { numRuns: 60 },
    );
  });
});

describe("unsealing", () => {
  test("to a value, with the authValue in clear, in an HMAC session, in a bound one, and in one salted and encrypted", async () => {
    await using tpm = await open();
    await using parent = await storageKey(tpm);
    await using object = await sealed(tpm, parent);
    expect(await refusal(tpm.unseal(object))).toBe("tpm Unseal 0x9a2");
    await tpm.setAuth(object, auth);
    expect(await tpm.unseal(object)).toEqual(secret);
    for (const options of [{}, { bind: object }, { saltKey: parent, encrypt: true }, { bind: "owner" }] as const) {
      await using session = await tpm.startAuthSession({ kind: "hmac", ...options });
      expect(await tpm.unseal(object, { sessions: [session] })).toEqual(secret);
      const second = tpm.unseal(object, { sessions: ["password", session] });
      if ("encrypt" in options) expect(await second).toEqual(secret);
      // A session that neither authorises nor encrypts has no business there.
      else expect(await refusal(second)).toBe("tpm Unseal 0xa82");
    }
  });

  test("a session bound to an authValue that ESYS has wrong fails its first HMAC", async () => {
    await using tpm = await open();
    await using parent = await storageKey(tpm);
    await using object = await sealed(tpm, parent);
    await tpm.setAuth(object, text("wrong"));
    await using session = await tpm.startAuthSession({ kind: "hmac", bind: object });
    expect(await refusal(tpm.unseal(object, { sessions: [session] }))).toBe("tpm Unseal 0x9a2");
    expect(await refusal(tpm.getRandom(8, { sessions: [session] }))).toMatch(/GetRandom/);
  });

  test("StartAuthSession refuses a salt key that cannot decrypt", async () => {
    await using tpm = await open();
    await using key = await tpm.createPrimary("owner", signingTemplate);
    expect(await refusal(tpm.startAuthSession({ kind: "hmac", saltKey: key }))).toBe("tpm StartAuthSession 0x182");
  });

  test("I4: to a file descriptor, which stays open; nothing of it comes back but the size", async () => {
    await using tpm = await open();
    await using parent = await storageKey(tpm);
    await using object = await sealed(tpm, parent);
    await tpm.setAuth(object, auth);
    const path = join(tmpdir(), `tss-unseal-${process.pid}`);
    const file = await openFile(path, "w");
    expect(await tpm.unsealToFd(object, file.fd)).toBe(secret.length);
    await file.write("|");
    expect(await tpm.unsealToFd(object, file.fd)).toBe(secret.length);
    const { fd } = file;
    await file.close();
    expect(await readFile(path, "utf8")).toBe("a secret of some length|a secret of some length");
    await rm(path);
    expect(await refusal(tpm.unsealToFd(object, fd))).toBe("esys UnsealToFd 0x7000a");
    await tpm.setAuth(object, nothing);
    expect(await refusal(tpm.unsealToFd(object, fd))).toBe("tpm UnsealToFd 0x9a2");
    await expect(tpm.unsealToFd(object, -1)).rejects.toThrow(TypeError);
  });

  test("ObjectChangeAuth gives a private area with the new authValue; the wrong parent is refused", async () => {
    await using tpm = await open();
    await using parent = await storageKey(tpm);
    const made = await tpm.create(parent, sealedTemplate(), { sensitive: { auth, data: secret } });
    await using object = await tpm.load(parent, made.privateArea, made.publicArea);
    await tpm.setAuth(object, auth);
    const privateArea = await tpm.objectChangeAuth(object, parent, text("new"));
    expect(await tpm.unseal(object)).toEqual(secret);
    await tpm.flushContext(object);
    await using changed = await tpm.load(parent, privateArea, made.publicArea);
    await tpm.setAuth(changed, text("new"));
    expect(await tpm.unseal(changed)).toEqual(secret);
    await using other = await tpm.createPrimary("endorsement", storageTemplate);
    expect(await refusal(tpm.objectChangeAuth(changed, other, auth))).toBe("tpm ObjectChangeAuth 0x28a");
  });
});

describe("moving and keeping", () => {
  const duplicable = hash("sha256", new Uint8Array(32), u32(CC.policyCommandCode), u32(CC.duplicate));

  /** A duplicate of `secret` for `newParent`, in a session of the object's policy. */
  async function duplicateOf(tpm: Tpm, object: TpmObject, newParent: TpmObject | null, inner = {}) {
    await using policy = await tpm.startAuthSession({ kind: "policy" });
    await tpm.policyCommandCode(policy, CC.duplicate);
    return await tpm.duplicate(object, newParent, { ...inner, sessions: [policy] });
  }

  test.each([
    ["no", {}],
    ["an AES-128-CFB", { symmetric: fromHex("000600800043") }],
  ] as const)("Duplicate and Import move an object to another parent, with %s inner wrapper", async (_, inner) => {
    await using tpm = await open();
    await using parent = await storageKey(tpm);
    const template = sealedTemplate(duplicable, 0x440);
    const made = await tpm.create(parent, template, { sensitive: { data: secret } });
    await using object = await tpm.load(parent, made.privateArea, made.publicArea);
    expect(await refusal(tpm.duplicate(object, null))).toBe("tpm Duplicate 0x124");
    await using newParent = await tpm.createPrimary("endorsement", storageTemplate);
    const { duplicate, encryptedSeed, encryptionKey } = await duplicateOf(tpm, object, newParent, inner);
    expect(encryptionKey.length).toBe("symmetric" in inner ? 16 : 0);
    await tpm.flushContext(object);
    const options = { ...inner, encryptionKey };
    const privateArea = await tpm.import(newParent, made.publicArea, duplicate, encryptedSeed, options);
    await using moved = await tpm.load(newParent, privateArea, made.publicArea);
    expect(await tpm.unseal(moved)).toEqual(secret);
    const damaged = duplicate.map((byte, at) => (at === 3 ? byte ^ 1 : byte));
    expect(await refusal(tpm.import(newParent, made.publicArea, damaged, encryptedSeed, options))).toMatch(
      /^tpm Import /,
    );
  });

  test("EvictControl keeps an object over a power cycle's worth of connections, and evicts it again", async () => {
    await using tpm = await open();
    const handle = 0x81000010;
    await using key = await storageKey(tpm);
    const kept = await tpm.evictControl(key, handle);
    expect(kept?.name).toEqual(key.name);
    expect(await tpm.handles(HANDLE_RANGE.persistent)).toEqual([handle]);
    expect(await refusal(tpm.evictControl(key, handle))).toBe("tpm EvictControl 0x14c");
    await using persistent = await tpm.trFromTpmPublic(handle);
    expect(await tpm.evictControl(persistent, handle)).toBe(null);
    expect(await tpm.handles(HANDLE_RANGE.persistent)).toEqual([]);
    expect(await refusal(tpm.trFromTpmPublic(handle))).toMatch(/TR_FromTPMPublic 0x.*8b$/);
    await expect(tpm.evictControl(key, -1)).rejects.toThrow(TypeError);
  });

  test("a saved object stays loaded, and its context loads again on another connection", async () => {
    const context = await (async () => {
      await using tpm = await open();
      await using object = await sealed(tpm, await storageKey(tpm));
      const saved = await tpm.contextSave(object);
      await tpm.setAuth(object, auth);
      expect(await tpm.unseal(object)).toEqual(secret);
      return saved;
    })();
    await using tpm = await open();
    await using object = await tpm.contextLoad(context);
    if (!(object instanceof TpmObject)) throw new Error("expected an object");
    await tpm.setAuth(object, auth);
    expect(await tpm.unseal(object)).toEqual(secret);
    const damaged = context.map((byte, at) => (at === 80 ? byte ^ 1 : byte));
    expect(await refusal(tpm.contextLoad(damaged))).toMatch(/ContextLoad/);
    expect(await refusal(tpm.contextLoad(context.slice(0, 20)))).toMatch(/ContextLoad/);
  });

  test("a saved session is gone until its context is loaded, which works once", async () => {
    await using tpm = await open();
    const policy = await tpm.startAuthSession({ kind: "policy" });
    await tpm.policyCommandCode(policy, CC.unseal);
    const digest = await tpm.policyGetDigest(policy);
    const context = await tpm.contextSave(policy);
    expect(await tpm.handles(HANDLE_RANGE.loadedSession)).toEqual([]);
    expect(await refusal(tpm.policyGetDigest(policy))).toMatch(/^esys PolicyGetDigest /);
    await tpm.flushContext(policy); // nothing to flush
    {
      await using loaded = await tpm.contextLoad(context);
      if (!(loaded instanceof Session)) throw new Error("expected a session");
      expect(loaded.kind).toBe("policy");
      expect(await tpm.policyGetDigest(loaded)).toEqual(digest);
      expect(await refusal(tpm.contextLoad(context))).toBe("tpm ContextLoad 0x1cb");
    }
    expect(await inTpm(tpm)).toEqual([]);
  });

  test("an HMAC session comes back as one", async () => {
    await using tpm = await open();
    await using loaded = await tpm.contextLoad(await tpm.contextSave(await tpm.startAuthSession({ kind: "hmac" })));
    expect(loaded instanceof Session && loaded.kind).toBe("hmac");
  });

  test("SetAuth, nonceTPM and ContextSave of what is gone, and an authValue that is too long, are refused by ESYS", async () => {
    await using tpm = await open();
    const session = await tpm.startAuthSession({ kind: "hmac" });
    expect((await tpm.nonceTpm(session)).length).toBe(32);
    await tpm.flushContext(session);
    expect(await refusal(tpm.nonceTpm(session))).toMatch(/^esys TRSess_GetNonceTPM /);
    expect(await refusal(tpm.contextSave(session))).toMatch(/^esys ContextSave /);
    expect(await refusal(tpm.setAuth(session, auth))).toMatch(/^esys TR_SetAuth /);
    expect(await refusal(tpm.setAuth("owner", new Uint8Array(65)))).toMatch(/^mu TR_SetAuth /);
  });
});
