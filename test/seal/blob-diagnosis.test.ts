import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { diagnoseBlob } from "../../seal/blob-diagnosis.ts";
import { importSealed } from "../../seal/endorsement.ts";
import type { SealedPackage } from "../../seal/package.ts";
import { attestationKeyTemplate } from "../../seal/tpm-templates.ts";
import { openPackage } from "../support/open-package.ts";
import {
  boot,
  type EkKind,
  loadedHandles,
  lockOut,
  lockoutCounter,
  PIN,
  sealFor,
  withTss,
} from "../support/sealing-bench.ts";
import { type Machine, openMachine } from "../support/unseal-machine.ts";

let machine: Machine & AsyncDisposable;
const packages = new Map<EkKind, SealedPackage>();

beforeAll(async () => {
  machine = await openMachine();
  await boot(machine.tpm);
  await withTss(machine.tpm, async (tss) => {
    for (const ek of EKS) packages.set(ek, await sealFor(tss, machine.keys, { ek }));
  });
});
afterAll(() => machine?.[Symbol.asyncDispose]());

const EKS = ["rsa2048", "p384"] as const;

function packageFor(ek: EkKind): SealedPackage {
  const sealed = packages.get(ek);
  if (sealed === undefined) throw new Error(ek);
  return sealed;
}

const diagnose = (sealed: SealedPackage, imported: Uint8Array | null) =>
  withTss(machine.tpm, async (tss) => {
    const diagnosis = await diagnoseBlob(tss, sealed, imported);
    expect(await loadedHandles(tss)).toEqual([]);
    expect(await lockoutCounter(tss)).toBe(0);
    return diagnosis;
  });

const flip = (bytes: Uint8Array, at: number, bit = 0) => bytes.with(at, (bytes[at] ?? 0) ^ (1 << bit));
const importOf = (sealed: SealedPackage) => withTss(machine.tpm, (tss) => importSealed(tss, sealed));
const opens = (sealed: SealedPackage, imported: Uint8Array) =>
  withTss(machine.tpm, (tss) =>
    openPackage(tss, { sealed, imported, release: machine.release, anchors: machine.keys.anchors }),
  );

describe.each(EKS)("a blob under the %s EK", (ek) => {
  test("I2: what was sealed is sound: what was imported before is kept, else it is imported, and it opens", async () => {
    const sealed = packageFor(ek);
    const kept = await importOf(sealed);
    expect(await diagnose(sealed, kept)).toEqual({ kind: "sound", imported: kept });
    const anew = await diagnose(sealed, null);
    if (anew.kind !== "sound") throw new Error(anew.finding.got);
    expect(await opens(sealed, anew.imported)).toEqual(PIN);
  });

  test("I11: a kept private area that is damaged, cut off, too long or of nothing is replaced by a new import", async () => {
    const sealed = packageFor(ek);
    const kept = await importOf(sealed);
    const wrong = [flip(kept, 5), flip(kept, kept.length - 1), kept.slice(0, -1), kept.slice(0, 1), new Uint8Array()];
    for (const imported of [...wrong, new Uint8Array(512), new Uint8Array(5000), new Uint8Array(70_000)]) {
      const diagnosis = await diagnose(sealed, imported);
      if (diagnosis.kind !== "sound") throw new Error(diagnosis.finding.got);
      expect(diagnosis.imported).not.toEqual(imported);
      expect(await opens(sealed, diagnosis.imported)).toEqual(PIN);
    }
  });

  test("I2: a bit that is wrong anywhere in the blob is blob-damaged, with the TPM's answer, and the TPM goes on", async () => {
    const sealed = packageFor(ek);
    const field = fc.constantFrom("objectPublic", "duplicate", "encryptedSeed");
    await fc.assert(
      fc.asyncProperty(field, fc.nat(), fc.nat(7), async (name, at, bit) => {
        // Type, attributes and policy of the public area are compared before: here only what nothing but the TPM can check.
        const place = name === "objectPublic" ? 46 + (at % 32) : at % sealed[name].length;
        const changed = { ...sealed, [name]: flip(sealed[name], place, bit) };
        expect(await diagnose(changed, null)).toMatchObject({
          kind: "damaged",
          finding: {
            code: "blob-damaged",
            item: "hsm-pin",
            got: expect.stringMatching(/^Import: response 0x[0-9a-f]+$/),
          },
        });
      }),
      { numRuns: 40 },
    );
    expect(await diagnose(sealed, null)).toMatchObject({ kind: "sound" });
  });

  test("I2: a blob of the other kind of key, or of another package, is blob-damaged", async () => {
    const sealed = packageFor(ek);
    const other = packageFor(ek === "p384" ? "rsa2048" : "p384");
    const sibling = await withTss(machine.tpm, (tss) => sealFor(tss, machine.keys, { ek }));
    for (const { duplicate, encryptedSeed } of [other, { ...sibling, duplicate: sealed.duplicate }, sibling])
      expect(await diagnose({ ...sealed, duplicate, encryptedSeed }, null)).toMatchObject({ kind: "damaged" });
  });
});

test("I2: a package for another EK is refused and not called damaged", async () => {
  const sealed = { ...packageFor("p384"), ekName: flip(packageFor("p384").ekName, 10) };
  await withTss(machine.tpm, (tss) =>
    expect(diagnoseBlob(tss, sealed, null)).rejects.toMatchObject({ code: "ERR_SEAL_WRONG_PARENT" }),
  );
});

test("I2: a TPM that has no session or no room left, or a closed endorsement hierarchy, does not make the blob damaged", async () => {
  const sealed = packageFor("p384");
  await withTss(machine.tpm, async (tss) => {
    const kept = await importSealed(tss, sealed);
    for (let taken = 0; taken < 3; taken++) await tss.startAuthSession({ kind: "hmac" });
    for (const imported of [null, kept])
      await expect(diagnoseBlob(tss, sealed, imported)).rejects.toMatchObject({ command: "StartAuthSession" });
  });
  await withTss(machine.tpm, async (tss) => {
    const kept = await importSealed(tss, sealed);
    for (let taken = 0; taken < 2; taken++) await tss.createPrimary("endorsement", attestationKeyTemplate);
    for (const imported of [null, kept])
      await expect(diagnoseBlob(tss, sealed, imported)).rejects.toMatchObject({ command: "Load", rc: 0x902 });
  });
  await withTss(machine.tpm, async (tss) => {
    await tss.hierarchyChangeAuth("endorsement", Uint8Array.of(1));
  });
  await withTss(machine.tpm, async (tss) => {
    await expect(diagnoseBlob(tss, sealed, null)).rejects.toMatchObject({ command: "PolicySecret", rc: 0x9a2 });
    await tss.setAuth("endorsement", Uint8Array.of(1));
    await tss.hierarchyChangeAuth("endorsement", new Uint8Array());
  });
});

test("I2: in a lockout that somebody else has caused the blob is loaded and imported all the same", async () => {
  const sealed = packageFor("rsa2048");
  await withTss(machine.tpm, async (tss) => {
    const kept = await importSealed(tss, sealed);
    await lockOut(tss);
    for (const imported of [null, kept])
      expect(await diagnoseBlob(tss, sealed, imported)).toMatchObject({ kind: "sound" });
    await tss.dictionaryAttackLockReset();
  });
});

test("I11: after TPM2_Clear what was imported before is imported again, and opens once the counter is there", async () => {
  const sealed = packageFor("p384");
  const kept = await importOf(sealed);
  await withTss(machine.tpm, (tss) => tss.clear("lockout"));
  const diagnosis = await diagnose(sealed, kept);
  expect(diagnosis).toMatchObject({ kind: "sound" });
  expect(diagnosis).not.toEqual({ kind: "sound", imported: kept });
});
