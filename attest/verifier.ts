// The verifier as a library: pure, for anything that runs JavaScript (WebCrypto, no files, no TPM library). Nothing here or below it
// may import a Node module; a test bundles this file for a browser to see that.
export {
  type Anchors,
  equalBytes,
  fromHex,
  IronclawError,
  parseAnchors,
  parseRelease,
  type Release,
  sha256Hex,
  toHex,
  verifyRelease,
  verifyReleaseSignatures,
} from "../policy/index.ts";
export * from "./appraisal-policy.ts";
export * from "./appraise.ts";
export {
  type AttestationResult,
  type EventComparison,
  encodeAttestationResult,
  type PcrComparison,
  parseAttestationResult,
  type Tier,
  tiers,
} from "./attestation-result.ts";
export { authenticReasons } from "./authentic.ts";
export { type PcrBank, pcrBanks } from "./banks.ts";
export { type CelRecord, parseCel, renderCelJsonLines, replayCel } from "./cel.ts";
export type { Claims, ShimClaim } from "./claims.ts";
export { parseClaims } from "./claims-codec.ts";
export { type Continuity, encodeContinuity, parseContinuity } from "./continuity.ts";
export { type Ear, type EarKey, type EarOptions, earKeyId, parseEar, signEar, verifyEar } from "./ear.ts";
export { type EarClaims, earProfile, earStatus, earSubmodule } from "./ear-claims.ts";
export { type AssuranceClass, assuranceClasses, type Enrolment, encodeEnrolment, parseEnrolment } from "./enrolment.ts";
export { AttestError, EvidenceRefused } from "./errors.ts";
export { type Challenge, defaultQuotePcrs, type Evidence, parseEvidence } from "./evidence.ts";
export { expectedLog } from "./expected-log.ts";
export { explain, explainReasons, pcrContents, summarise } from "./explain.ts";
export type { Finding, ReferenceValues } from "./finding.ts";
export { authenticatedData, describeFirmwareEvent, type FirmwareEventView } from "./firmware-events.ts";
export { type FirmwareEvent, type FirmwareLog, parseFirmwareLog, replayFirmwareLog } from "./firmware-log.ts";
export type { Incident } from "./incidents.ts";
export type { KnownLog } from "./known-log.ts";
export { everyNotProven, type NotProven, notProvenFor } from "./not-proven.ts";
export type { Reason } from "./reason.ts";
export { type TrustClaim, type TrustVector, trustClaims, trustVector } from "./trust-vector.ts";
export { type VerifiedEvidence, verifyEvidence } from "./verify.ts";
