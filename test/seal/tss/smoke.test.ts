import { join } from "node:path";
import { OPERATION, Session, Tpm, TpmObject } from "node-tpm2-tss";
import { afterAll, beforeAll, expect, test } from "vitest";
import { concatBytes, fromHex } from "../../../policy/index.ts";
import { attestationKeyTemplate } from "../../../seal/tpm-templates.ts";
import { type SoftwareTpm, startSwtpm } from "../../support/swtpm.ts";

const nativeDirectory = join(import.meta.dirname, "..", "..", "..", "build", "native");
let swtpm: SoftwareTpm;
beforeAll(async () => {
  swtpm = await startSwtpm({ endorsement: "none" });
});
afterAll(() => swtpm.stop());

test("each new command answers", async () => {
  await using tpm = await Tpm.open({ tcti: swtpm.tcti, nativeDirectory });
  const storage = fromHex("0023000b000300720000" + "00060080" + "0043" + "0010" + "0003" + "0010" + "0000" + "0000");
  const parent = await tpm.createPrimary("owner", storage, { sensitive: { auth: new Uint8Array([1]) } });
  const secret = new Uint8Array([1, 2, 3]);
  const sealed = await tpm.create(parent, fromHex("0008000b00000052" + "0000" + "0010" + "0000"), {
    sensitive: { auth: new Uint8Array([7]), data: secret },
  });
  const object = await tpm.load(parent, sealed.privateArea, sealed.publicArea);
  await tpm.setAuth(object, new Uint8Array([7]));
  expect(await tpm.unseal(object)).toEqual(secret);
  {
    await using session = await tpm.startAuthSession({ kind: "hmac", saltKey: parent, bind: object, encrypt: true });
    expect(await tpm.unseal(object, { sessions: [session] })).toEqual(secret);
    const saved = await tpm.contextSave(session);
    await using back = await tpm.contextLoad(saved);
    expect(back).toBeInstanceOf(Session);
    expect(await tpm.unseal(object, { sessions: [back as Session] })).toEqual(secret);
  }
  const copy = await tpm.contextLoad(await tpm.contextSave(object));
  expect(copy).toBeInstanceOf(TpmObject);
  await tpm.flushContext(copy);
  await tpm.flushContext(object);
  const key = await tpm.createPrimary("endorsement", attestationKeyTemplate);
  await tpm.certifyCreation(key, key, secret, key);
  await tpm.certify(key, key, secret);
  await tpm.getTime(key, secret);
  const index = await tpm.nvDefineSpace({ index: 0x01800001, attributes: 0x00040006, dataSize: 2048 });
  await tpm.nvWrite(index, new Uint8Array(2048).fill(3), { authority: "owner" });
  expect((await tpm.nvRead(index)).length).toBe(2048);
  await tpm.nvCertify(key, index, secret, { size: 16 });
  await using policy = await tpm.startAuthSession({ kind: "policy" });
  await tpm.policyNv(policy, index, Uint8Array.of(3), { operation: OPERATION.eq });
  await tpm.policyNvWritten(policy, true);
  await tpm.policyAuthValue(policy);
  await tpm.policyPassword(policy);
  await tpm.nvUndefineSpace(index);
  const persistent = await tpm.evictControl(key, 0x81000005);
  if (persistent !== null) expect(await tpm.evictControl(persistent, 0x81000005)).toBe(null);
  expect((await tpm.pcrEvent(16, secret)).size).toBe(4);
  await tpm.pcrReset(16);
  await tpm.testParms(
    concatBytes(fromHex("0001"), fromHex("0010"), fromHex("0010"), fromHex("0800"), fromHex("00000000")),
  );
  await tpm.hierarchyChangeAuth("owner", new Uint8Array([5]));
  await tpm.createPrimary("owner", storage).then((k) => tpm.flushContext(k));
  await tpm.hierarchyChangeAuth("lockout", new Uint8Array([9]));
  await tpm.dictionaryAttackParameters({ maxTries: 5, recoveryTime: 10, lockoutRecovery: 10 });
  await tpm.dictionaryAttackLockReset();
  await tpm.clearControl("lockout", true);
  await tpm.clearControl("platform", false);
  await tpm.clear("lockout");
  await tpm.dictionaryAttackLockReset();
  await tpm.shutdown("clear");
});
