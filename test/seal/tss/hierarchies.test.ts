import { HANDLE_RANGE, PROPERTY, type Tpm } from "node-tpm2-tss";
import { afterEach, beforeEach, expect, test } from "vitest";
import { type SoftwareTpm, startSwtpm } from "../../support/swtpm.ts";
import { nothing, openAt, readWrite, refusal, sealedTemplate, storageTemplate, text, u8 } from "./fixture.ts";

let swtpm: SoftwareTpm;
beforeEach(async () => {
  swtpm = await startSwtpm({ endorsement: "none" });
});
afterEach(() => swtpm.stop());

const property = async (tpm: Tpm, number: number) => (await tpm.properties(number, 1)).get(number);

test.each(["owner", "endorsement", "platform", "lockout"] as const)(
  "HierarchyChangeAuth(%s): the connection knows the new authValue, another needs setAuth",
  async (hierarchy) => {
    {
      await using tpm = await openAt(swtpm);
      await tpm.hierarchyChangeAuth(hierarchy, text("first"));
      await using session = await tpm.startAuthSession({ kind: "hmac" });
      await tpm.hierarchyChangeAuth(hierarchy, text("second"), { sessions: [session] });
      await tpm.hierarchyChangeAuth(hierarchy, text("third"));
    }
    await using tpm = await openAt(swtpm);
    if (hierarchy !== "lockout") {
      expect(await refusal(tpm.hierarchyChangeAuth(hierarchy, u8(1)))).toBe("tpm HierarchyChangeAuth 0x9a2");
    }
    await tpm.setAuth(hierarchy, text("third"));
    await tpm.hierarchyChangeAuth(hierarchy, nothing);
  },
);

test("an authValue set in an encrypting session is used by the next command", async () => {
  await using tpm = await openAt(swtpm);
  await using key = await tpm.createPrimary("endorsement", storageTemplate);
  await using session = await tpm.startAuthSession({ kind: "hmac", saltKey: key, decrypt: true });
  await tpm.hierarchyChangeAuth("owner", text("hidden"), { sessions: [session] });
  await using _made = await tpm.createPrimary("owner", storageTemplate);
});

test("Clear deletes the owner's objects and indices, and all know the authValues as empty again", async () => {
  await using tpm = await openAt(swtpm);
  await using before = await tpm.createPrimary("owner", storageTemplate);
  await tpm.evictControl(before, 0x81000001);
  await using _index = await tpm.nvDefineSpace({ index: 0x01800001, attributes: readWrite, dataSize: 1 });
  for (const hierarchy of ["owner", "endorsement", "lockout"] as const) {
    await tpm.hierarchyChangeAuth(hierarchy, text("authValue"));
  }
  await tpm.clear("lockout");
  expect([...(await tpm.handles(HANDLE_RANGE.persistent)), ...(await tpm.handles(HANDLE_RANGE.nvIndex))]).toEqual([]);
  expect(await refusal(tpm.readPublic(before))).toMatch(/^tpm ReadPublic /);
  await tpm.flushContext(before); // gone already: forgotten
  await using after = await tpm.createPrimary("owner", storageTemplate);
  expect(after.name).not.toEqual(before.name);
  await tpm.dictionaryAttackLockReset();
  await tpm.clear("platform");
});

test("ClearControl disables Clear, for lockout and platform, until platform enables it", async () => {
  await using tpm = await openAt(swtpm);
  const disableClear = 1 << 8; // TPMA_PERMANENT
  await tpm.clearControl("lockout", true);
  expect((await property(tpm, PROPERTY.permanent)) ?? 0).toBe(disableClear | (1 << 10));
  expect(await refusal(tpm.clear("lockout"))).toBe("tpm Clear 0x120");
  expect(await refusal(tpm.clear("platform"))).toBe("tpm Clear 0x120");
  expect(await refusal(tpm.clearControl("lockout", false))).toMatch(/^tpm ClearControl 0x9?8e$/);
  await tpm.clearControl("platform", false);
  await tpm.clear("platform");
});

test("the dictionary-attack parameters are set, failed tries count, and LockReset forgets them", async () => {
  await using tpm = await openAt(swtpm);
  await tpm.dictionaryAttackParameters({ maxTries: 5, recoveryTime: 1000, lockoutRecovery: 2000 });
  const wanted = [PROPERTY.lockoutCounter, PROPERTY.maxAuthFail, PROPERTY.lockoutInterval, PROPERTY.lockoutRecovery];
  const read = async () => Promise.all(wanted.map((number) => property(tpm, number)));
  expect(await read()).toEqual([0, 5, 1000, 2000]);

  await using parent = await tpm.createPrimary("owner", storageTemplate);
  const counted = sealedTemplate(nothing, 0x52); // without noDA
  const made = await tpm.create(parent, counted, { sensitive: { auth: text("right"), data: u8(1) } });
  await using object = await tpm.load(parent, made.privateArea, made.publicArea);
  await tpm.setAuth(object, text("wrong"));
  expect(await refusal(tpm.unseal(object))).toBe("tpm Unseal 0x98e");
  expect(await read()).toEqual([1, 5, 1000, 2000]);
  await tpm.dictionaryAttackLockReset();
  expect(await read()).toEqual([0, 5, 1000, 2000]);

  await tpm.dictionaryAttackParameters({ maxTries: 1, recoveryTime: 1000, lockoutRecovery: 2000 });
  expect(await refusal(tpm.unseal(object))).toBe("tpm Unseal 0x98e");
  expect(await refusal(tpm.unseal(object))).toBe("tpm Unseal 0x921");
  expect(((await property(tpm, PROPERTY.permanent)) ?? 0) & 0x200).toBe(0x200); // inLockout
  await tpm.dictionaryAttackLockReset();

  const wrong = { maxTries: -1, recoveryTime: 0, lockoutRecovery: 0 };
  await expect(tpm.dictionaryAttackParameters(wrong)).rejects.toThrow(TypeError);
});

test("a wrong lockout authValue closes the lockout hierarchy", async () => {
  await using tpm = await openAt(swtpm);
  await tpm.hierarchyChangeAuth("lockout", text("right"));
  await tpm.setAuth("lockout", text("wrong"));
  expect(await refusal(tpm.dictionaryAttackLockReset())).toBe("tpm DictionaryAttackLockReset 0x98e");
  await tpm.setAuth("lockout", text("right"));
  const parameters = { maxTries: 5, recoveryTime: 1, lockoutRecovery: 1 };
  expect(await refusal(tpm.dictionaryAttackParameters(parameters))).toBe("tpm DictionaryAttackParameters 0x921");
});
