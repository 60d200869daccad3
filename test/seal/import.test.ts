import { Tpm as Tss } from "node-tpm2-tss";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { checkImported, ekKindOfName, importSealed } from "../../seal/endorsement.ts";
import { createSealKeys, type Imported, NATIVE_DIRECTORY, openSealed, type SealKeys } from "../support/seal-fixture.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";
import { tpmTool, withFiles } from "../support/tpm-tools.ts";

const EKS = ["p384", "rsa"] as const;
const HANDLES = { p384: "0x81010016", rsa: "0x81010001" } as const;
let tpm: SoftwareTpm;
let keys: SealKeys;
let under: Readonly<Record<(typeof EKS)[number], Imported>>;

beforeAll(async () => {
  tpm = await startSwtpm();
  keys = await createSealKeys();
  under = { p384: await openSealed(tpm, "p384", keys), rsa: await openSealed(tpm, "rsa", keys) };
});
afterAll(() => tpm?.stop());

const flip = (bytes: Uint8Array, index: number) => bytes.map((byte, at) => (at === index ? byte ^ 1 : byte));

async function withTss<T>(use: (tss: Tss) => Promise<T>, { tcti } = tpm): Promise<T> {
  await using tss = await Tss.open({ tcti, nativeDirectory: NATIVE_DIRECTORY });
  return await use(tss);
}

async function expectNothingLoaded(): Promise<void> {
  for (const handles of ["handles-transient", "handles-loaded-session", "handles-saved-session"])
    expect((await tpmTool(tpm, "tpm2_getcap", handles)).trim()).toBe("");
}

describe("what TPM2_Import made", () => {
  it.each(EKS)("I11: loads under the %s EK and is the package's object", async (ek) => {
    const { sealed, imported } = under[ek];
    await withTss((tss) => checkImported(tss, sealed, imported));
    await expectNothingLoaded();
  });

  it("I2: of another package, or damaged, is told from the one", async () => {
    const other = await openSealed(tpm, "p384", keys);
    const { sealed, imported } = under.p384;
    for (const [each, area] of [
      [sealed, other.imported],
      [sealed, flip(imported, imported.length - 1)],
      [{ ...sealed, objectPublic: flip(sealed.objectPublic, 77) }, imported],
    ] as const) {
      await expect(withTss((tss) => checkImported(tss, each, area))).rejects.toMatchObject({ name: "TpmError" });
    }
    await expect(withTss((tss) => checkImported(tss, sealed, new Uint8Array(3)))).rejects.toBeInstanceOf(Error);
    await expectNothingLoaded();
  });

  it("I2: for another TPM is refused by the EK's Name, before anything is imported", async () => {
    await using stranger = await startSwtpm();
    for (const ek of EKS) {
      const { sealed, imported } = await openSealed(stranger, ek, keys);
      const refusal = { code: "ERR_SEAL_WRONG_PARENT", exitCode: 1 };
      await expect(withTss((tss) => importSealed(tss, sealed))).rejects.toMatchObject(refusal);
      await expect(withTss((tss) => checkImported(tss, sealed, imported))).rejects.toMatchObject(refusal);
    }
    await expectNothingLoaded();
  });

  it("I11: is the same under an EK that is made again because another key has its handle", async () => {
    await withFiles({}, async (at) => {
      await tpmTool(tpm, "tpm2_evictcontrol", "-C", "p", "-c", HANDLES.p384);
      await tpmTool(tpm, "tpm2_createprimary", "-C", "o", "-c", at("key"));
      await tpmTool(tpm, "tpm2_evictcontrol", "-C", "o", "-c", at("key"), HANDLES.p384);
      await tpmTool(tpm, "tpm2_flushcontext", "-t");
    });
    const { sealed, imported } = under.p384;
    await withTss(async (tss) => {
      await checkImported(tss, sealed, imported);
      await checkImported(tss, sealed, await importSealed(tss, sealed));
    });
    await expectNothingLoaded();
  });

  it("I10: a Name of another size is no EK's", () => {
    expect(EKS.map((ek) => ekKindOfName(under[ek].sealed.ekName))).toEqual(["p384", "rsa2048"]);
    for (const size of [0, 2, 33, 35, 49, 51, 66])
      expect(() => ekKindOfName(new Uint8Array(size))).toThrow(/EK name: expected 34 or 50 bytes/);
  });
});
