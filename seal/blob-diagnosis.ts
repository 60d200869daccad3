import { TpmError, type Tpm as Tss } from "node-tpm2-tss";
import { reason } from "../attest/index.ts";
import type { UnsealFinding } from "./diagnosis.ts";
import { checkImported, importSealed, loadableImport } from "./endorsement.ts";
import type { SealedPackage } from "./package.ts";

/** `sound`: `imported` loads on this TPM now. It is another one than before when the kept one was of before a TPM2_Clear. */
export type BlobDiagnosis =
  | { readonly kind: "sound"; readonly imported: Uint8Array }
  | { readonly kind: "damaged"; readonly finding: UnsealFinding };

/**
 * Whether a package's blob is what was sealed for this TPM. For after `diagnoseUnseal` found the EK to be the package's: only then
 * does the TPM's refusal of Import or Load mean that the blob is damaged. Loads what was imported before, if there is something;
 * when the TPM refuses that, imports the package's blob anew. Costs no try and no count anywhere.
 *
 * @throws SealError ERR_SEAL_WRONG_PARENT when the EK is another one; TpmError when the TPM could not try
 */
export async function diagnoseBlob(
  tss: Tss,
  sealed: SealedPackage,
  imported: Uint8Array | null,
): Promise<BlobDiagnosis> {
  const kept = loadableImport(imported);
  if (kept !== null && (await refusal(() => checkImported(tss, sealed, kept))) === null)
    return { kind: "sound", imported: kept };
  let anew = new Uint8Array();
  const refused = await refusal(async () => {
    anew = Uint8Array.from(await importSealed(tss, sealed));
    await checkImported(tss, sealed, anew);
  });
  if (refused === null) return { kind: "sound", imported: anew };
  const got = `${refused.command}: response 0x${refused.rc.toString(16)}`;
  return {
    kind: "damaged",
    finding: { ...reason("blob-damaged", sealed.name, "what was sealed for this TPM", got), code: "blob-damaged" },
  };
}

/** The TPM's answer to the blob itself. Anything else, such as a TPM without a free session, is passed on. */
async function refusal(attempt: () => Promise<void>): Promise<TpmError | null> {
  try {
    await attempt();
    return null;
  } catch (error) {
    if (error instanceof TpmError && (error.command === "Import" || error.command === "Load") && isAnswer(error))
      return error;
    throw error;
  }
}

/**
 * Not a warning (TPM_RC_WARN): that one is about the TPM's state, such as its memory or its lockout. Of the library's own answers
 * only that the bytes are no structure of the TPM's at all.
 */
function isAnswer({ layer, rc }: TpmError): boolean {
  return layer === "mu" || (layer === "tpm" && (rc & 0x980) !== 0x900);
}
