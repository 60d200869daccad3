import { type ErrorFields, type ExitCode, IronclawError } from "../policy/index.ts";
import type { Reason } from "./reason.ts";

export type AttestErrorCode =
  | "ERR_EVIDENCE_MALFORMED"
  | "ERR_EVIDENCE_REFUSED"
  | "ERR_CLAIMS_MALFORMED"
  | "ERR_TPM_STRUCTURE"
  | "ERR_CEL_MALFORMED"
  | "ERR_LAUNCH_EVENT"
  | "ERR_FIRMWARE_LOG"
  | "ERR_ENDORSEMENT_MALFORMED"
  | "ERR_ENDORSEMENT_REFUSED"
  | "ERR_ENROLMENT_MALFORMED"
  | "ERR_TRUST_ANCHORS"
  | "ERR_APPRAISAL_POLICY"
  | "ERR_RESULT_MALFORMED"
  | "ERR_EAR_MALFORMED"
  | "ERR_EAR_REFUSED"
  | "ERR_CREDENTIAL"
  | "ERR_PE_MALFORMED"
  | "ERR_ELF_MALFORMED"
  | "ERR_ELF_UNSUPPORTED"
  | "ERR_CLOSURE_MISSING"
  | "ERR_MEASURE"
  | "ERR_CLOSURE"
  | "ERR_PCR_PREDICTION"
  | "ERR_TPM"
  | "ERR_TPM_UNAVAILABLE";

const environmentCodes: ReadonlySet<AttestErrorCode> = new Set<AttestErrorCode>(["ERR_TPM", "ERR_TPM_UNAVAILABLE"]);

/** Evidence, an endorsement, a log or a measured file is malformed or does not verify, or the TPM did not answer. */
export class AttestError extends IronclawError {
  readonly code: AttestErrorCode;
  readonly exitCode: ExitCode;

  constructor(code: AttestErrorCode, what: string, fields?: ErrorFields) {
    super(what, fields);
    this.code = code;
    this.exitCode = environmentCodes.has(code) ? 4 : 3;
  }
}

/** Evidence that does not verify. `reasons` holds all of them; show them to its owner, not to an unauthenticated caller. */
export class EvidenceRefused extends AttestError {
  readonly reasons: readonly Reason[];

  constructor(reasons: readonly Reason[]) {
    super("ERR_EVIDENCE_REFUSED", "evidence", {
      expected: "evidence that verifies",
      got: reasons.map(({ code, item }) => `${code} (${item})`).join(", "),
    });
    this.reasons = reasons;
  }
}
