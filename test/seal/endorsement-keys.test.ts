import { createHash } from "node:crypto";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  type EndorsementKeyKind,
  ekProfileOfPublic,
  ekProfiles,
  ekPublic,
  ekTemplate,
  encodeTpmPublic,
  makeCredential,
  parseTpmPublic,
  tpmName,
} from "../../attest/index.ts";
import { ByteWriter, concatBytes, toHex } from "../../policy/index.ts";
import { findEndorsementKey } from "../../seal/endorsement.ts";
import { type MachineTpm, openTpm } from "../../seal/tpm.ts";
import { readTpmState } from "../../seal/tpm-state.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";
import { openTpmBus, TPM_CC, type TpmBus } from "../support/tpm-bus.ts";

const kinds = Object.keys(ekProfiles) as EndorsementKeyKind[];

let swtpm: SoftwareTpm;
let tpm: MachineTpm;
beforeAll(async () => {
  swtpm = await startSwtpm({ endorsement: "none" });
  tpm = await openTpm({ tcti: swtpm.tcti });
});
afterAll(async () => {
  await tpm.close();
  await swtpm.stop();
});

describe.each(kinds)("the endorsement key %s of a TPM", (kind) => {
  const profile = ekProfiles[kind];

  test("I9: it is the key that its template and its public key alone predict", async () => {
    const { publicArea, name } = await tpm.endorsementKey(kind);
    const area = parseTpmPublic(publicArea);
    expect(toHex(encodeTpmPublic(ekPublic(profile, area)))).toBe(toHex(publicArea));
    expect(toHex(tpmName(publicArea))).toBe(toHex(name));
    expect(ekProfileOfPublic(area)).toBe(profile);
  });

  test("I9: it opens a credential made for its public area, and none of the other four keys does", async () => {
    await using ak = await tpm.createAttestationKey();
    const area = parseTpmPublic((await tpm.endorsementKey(kind)).publicArea);
    const secret = crypto.getRandomValues(new Uint8Array(32));
    const credential = await makeCredential(area, ak.name, secret);
    expect(toHex(await activate(ak, credential, kind))).toBe(toHex(secret));
    for (const other of kinds.filter((candidate) => candidate !== kind))
      await expect(activate(ak, credential, other)).rejects.toMatchObject({ code: "ERR_TPM" });
  });

  test("its Name finds it", async () => {
    const { name } = await tpm.endorsementKey(kind);
    await using found = await findEndorsementKey(tpm.tss, name);
    expect(toHex(found?.name ?? new Uint8Array())).toBe(toHex(name));
    expect(await findEndorsementKey(tpm.tss, name.with(9, (name[9] ?? 0) ^ 1))).toBeNull();
  });

  test("the policy of its template is PolicySecret(endorsement), or PolicyOR of that and a policy not used here", () => {
    const zeros = new Uint8Array(profile.hashSize);
    const hash = (bytes: Uint8Array) => Uint8Array.from(createHash(profile.hash).update(bytes).digest());
    const endorsement = new ByteWriter().bytes(zeros).u32(0x151).u32(0x4000000b).finish();
    const policySecret = hash(hash(endorsement)); // the second hash is over an empty policyRef
    const [first = policySecret, ...others] = profile.alternatives;
    expect(toHex(first)).toBe(toHex(policySecret));
    const joined = hash(concatBytes(new ByteWriter().bytes(zeros).u32(0x171).finish(), first, ...others));
    expect(toHex(profile.authPolicy)).toBe(toHex(profile.alternatives.length === 0 ? policySecret : joined));
  });
});

test("I9: the two templates of one kind of key make two keys", async () => {
  for (const [low, high] of [
    ["rsa2048", "rsa2048-high"],
    ["p256", "p256-high"],
  ] as const) {
    const [one, two] = [await tpm.endorsementKey(low), await tpm.endorsementKey(high)];
    expect(toHex(one.publicArea.slice(-64))).not.toBe(toHex(two.publicArea.slice(-64)));
    expect(ekTemplate(ekProfiles[low]).length).toBeGreaterThan(ekTemplate(ekProfiles[high]).length);
  }
});

describe("the endorsement key that is asked for again and again", () => {
  /** How many keys the TPM made meanwhile. */
  const counting = (bus: TpmBus) => async (act: () => Promise<unknown>) => {
    bus.arm();
    await act();
    return bus.commands.filter(({ code }) => code === TPM_CC.createPrimary).length;
  };

  test("I10: of RSA is made once for a connection, whoever asks; another kind each time, so that another seed shows", async () => {
    await using other = await startSwtpm({ endorsement: "none" });
    await using bus = await openTpmBus(other);
    await using own = await openTpm({ tcti: bus.tcti("agent") });
    const made = counting(bus);
    const rsa = () => own.endorsementKey("rsa2048");
    expect([await made(rsa), await made(rsa)]).toEqual([1, 0]);
    const { publicArea, name } = await rsa();
    expect(toHex(tpmName(publicArea))).toBe(toHex(name));
    const state = () => readTpmState(own.tss, { ekName: name, name: "hsm-pin" });
    expect(await made(state)).toBe(0);
    expect((await state()).ek).toEqual({ kind: "name", name });
    const p384 = () => own.endorsementKey("p384");
    expect([await made(p384), await made(p384)]).toEqual([1, 1]);
    await using fresh = await openTpm({ tcti: bus.tcti("agent") });
    expect(await made(() => fresh.endorsementKey("rsa2048"))).toBe(1);
  });

  test("I10: is read at its persistent handle where its owner keeps it there, and not made", async () => {
    await using other = await startSwtpm({ endorsement: "keys" });
    await using bus = await openTpmBus(other);
    await using own = await openTpm({ tcti: bus.tcti("agent") });
    expect(await counting(bus)(() => own.endorsementKey("rsa2048"))).toBe(0);
  });
});

function activate(
  ak: Awaited<ReturnType<MachineTpm["createAttestationKey"]>>,
  { credentialBlob, encryptedSecret }: Awaited<ReturnType<typeof makeCredential>>,
  kind: EndorsementKeyKind,
): Promise<Uint8Array> {
  return tpm.activateCredential(ak, credentialBlob, encryptedSecret, kind);
}
