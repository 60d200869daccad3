import { fromBase64, toHex } from "../policy/index.ts";
import { attestationKeyReasons, type ImportedAttestationKey, importAttestationKey } from "./attestation-key.ts";
import type { Enrolment } from "./enrolment.ts";
import type { Reason } from "./reason.ts";
import { endorsementPrimaryQualifiedName, parseTpmPublic, tpmName } from "./tpm-structures.ts";

/** All that the reports of one attestation key are checked with, which is the same for each of them. */
export interface ReportingKey {
  readonly publicArea: Uint8Array;
  /** Names as hexadecimal digits. */
  readonly name: string;
  readonly qualifiedName: string;
  /** Why it is not suitable (`attestationKeyReasons`). */
  readonly unsuitable: readonly Reason[];
  /** `null` for a key that the platform does not take. */
  readonly imported: Promise<ImportedAttestationKey | null>;
}

/** @throws AttestError `ERR_TPM_STRUCTURE`, PolicyError `ERR_BYTES_*` */
export function reportingKey(publicArea: Uint8Array): ReportingKey {
  const area = parseTpmPublic(publicArea);
  return {
    publicArea,
    name: toHex(tpmName(publicArea)),
    qualifiedName: toHex(endorsementPrimaryQualifiedName(publicArea)),
    unsuitable: attestationKeyReasons(area),
    imported: importAttestationKey(area),
  };
}

/** Machines whose key is kept: the last ones that reported. Each takes some 2 KiB. */
const MOST_KEPT = 1024;
const kept = new Map<string, ReportingKey>();

/**
 * The key of an enrolment, made for its machine's first report and kept for those behind it: importing it takes half as long as its signature.
 * Kept by the enrolment's own text, whole, so that no report has a say in what is kept.
 * @throws as `reportingKey`, for an enrolment that `parseEnrolment` and `createEnrolment` do not make
 */
export function enrolledKey({ akPublic }: Pick<Enrolment, "akPublic">): ReportingKey {
  const key = kept.get(akPublic) ?? reportingKey(fromBase64(akPublic, "enrolment akPublic"));
  kept.delete(akPublic); // to the end, behind all that reported before
  kept.set(akPublic, key);
  const [oldest] = kept.keys();
  if (kept.size > MOST_KEPT && oldest !== undefined) kept.delete(oldest);
  return key;
}
