import { tpmName } from "../tpm-structures.ts";
import {
  appraise,
  type Challenge,
  defaultAppraisalPolicy,
  type Enrolment,
  EvidenceRefused,
  encodeEnrolment,
  IronclawError,
  type PcrBank,
  parseAnchors,
  parseAppraisalPolicy,
  parseEnrolment,
  parseEvidence,
  type Release,
  toHex,
  verifyEvidence,
  verifyReleaseSignatures,
} from "../verifier.ts";
import { parseNonce, parsePcrList } from "./check-files.ts";
import { type ReadReport, readReport } from "./report.ts";
import type { Machine, Reason, Result } from "./shapes.ts";

/** What the viewer gave. Nothing of it leaves the browser. */
export interface CheckInput {
  readonly report: Uint8Array | null;
  readonly nonce: string;
  /** Said by the viewer: everything but freshness. */
  readonly withoutNonce: boolean;
  /** When the nonce was made; `null` where the viewer does not know. */
  readonly challenged: Date | null;
  readonly bank: PcrBank;
  readonly pcrs: string;
  readonly enrolment: Uint8Array | Machine | null;
  readonly releases: readonly { readonly name: string; readonly bytes: Uint8Array }[];
  readonly anchors: Uint8Array | null;
  readonly policy: Uint8Array | null;
}

export type CheckField = "report" | "nonce" | "pcrs" | "enrolment" | "anchors";

export type CheckOutcome =
  | { readonly kind: "judged"; readonly result: Result; readonly report: ReadReport }
  | { readonly kind: "refused"; readonly reasons: readonly Reason[]; readonly report: ReadReport }
  | { readonly kind: "incomplete"; readonly missing: readonly (readonly [CheckField, string])[] }
  | {
      readonly kind: "malformed";
      readonly part: string;
      readonly code: string;
      readonly message: string;
      readonly hint: string | null;
    };

/** A document that could not be read, and which one it was. */
class PartError extends Error {
  readonly part: string;
  constructor(part: string, cause: IronclawError) {
    super(cause.message, { cause });
    this.part = part;
  }
}

async function inPart<T>(part: string, act: () => T | Promise<T>): Promise<T> {
  try {
    return await act();
  } catch (error) {
    if (error instanceof IronclawError && !(error instanceof EvidenceRefused)) throw new PartError(part, error);
    throw error;
  }
}

/**
 * Verifies and judges a report with the verifier's own code. Freshness is judged only with the nonce and its time: without them the
 * result carries a warning, so that it never reads as affirming.
 */
export async function checkReport(input: CheckInput, now: Date): Promise<CheckOutcome> {
  const missing = missingParts(input);
  if (missing.length > 0) return { kind: "incomplete", missing };
  try {
    return await judge(input, now);
  } catch (error) {
    if (error instanceof PartError && error.cause instanceof IronclawError) {
      const { code, hint } = error.cause;
      return { kind: "malformed", part: error.part, code, message: error.message, hint: hint ?? null };
    }
    throw error;
  }
}

function missingParts({
  report,
  nonce,
  withoutNonce,
  pcrs,
  enrolment,
  releases,
  anchors,
}: CheckInput): readonly (readonly [CheckField, string])[] {
  const missing: (readonly [CheckField, string])[] = [];
  const need = (lacks: boolean, field: CheckField, message: string) => {
    if (lacks) missing.push([field, message]);
  };
  const noNonce = nonce.trim() === "";
  need(report === null, "report", "A report is needed.");
  need(
    noNonce && !withoutNonce,
    "nonce",
    "Without the nonce that the report answers, freshness cannot be judged: an old report would pass. Give the nonce, or say that you have none.",
  );
  need(!noNonce && parseNonce(nonce) === null, "nonce", "A nonce is 32 bytes: 64 hexadecimal digits, or base64.");
  need(parsePcrList(pcrs) === null, "pcrs", "Registers are numbers from 0 to 23, such as 0-7, 9, 11-14.");
  need(enrolment === null, "enrolment", "The machine's enrolment is needed: it says which key must have signed.");
  need(
    releases.length > 0 && anchors === null,
    "anchors",
    "Releases count only under the root that signed them: the anchors file is needed.",
  );
  return missing;
}

async function judge(input: CheckInput, now: Date): Promise<CheckOutcome> {
  const bytes = input.report ?? new Uint8Array();
  const evidence = await inPart("report", () => parseEvidence(bytes));
  const report = await inPart("report", () => readReport(bytes));
  const nonce = parseNonce(input.nonce) ?? report.claims?.nonce ?? new Uint8Array(32);
  const challenge: Challenge = { nonce, bank: input.bank, pcrs: parsePcrList(input.pcrs) ?? [] };
  const enrolment = await inPart("enrolment", () => readEnrolment(input.enrolment, evidence.ak));
  const policy = await inPart("appraisal policy", () =>
    input.policy === null ? defaultAppraisalPolicy : parseAppraisalPolicy(input.policy),
  );
  const releases = await readReleases(input);
  try {
    const verified = await verifyEvidence(evidence, challenge, enrolment, null);
    const judged = appraise(verified, releases, policy, { now, challenged: input.challenged ?? now });
    return { kind: "judged", result: withFreshness(judged, input), report };
  } catch (error) {
    if (error instanceof EvidenceRefused) return { kind: "refused", reasons: error.reasons, report };
    throw error;
  }
}

async function readReleases({ releases, anchors }: CheckInput): Promise<readonly Release[]> {
  if (anchors === null || releases.length === 0) return [];
  const { releaseRoot } = await inPart("anchors", () => parseAnchors(anchors));
  return Promise.all(
    releases.map(({ name, bytes }) => inPart(`release ${name}`, () => verifyReleaseSignatures(bytes, releaseRoot))),
  );
}

/**
 * The service tells the attestation key's Name, not the key. A Name is a digest of the key, so the report's own key stands in for it:
 * `verifyEvidence` refuses one that has another Name.
 */
function readEnrolment(given: Uint8Array | Machine | null, ak: Uint8Array): Enrolment {
  if (given instanceof Uint8Array) return parseEnrolment(given);
  if (given === null) throw new TypeError("no enrolment");
  const { ekName, akName, assurance, ekCertificateSha256 } = given.enrolment;
  const akPublic = btoa(String.fromCharCode(...ak));
  // Under the report's own Name the document agrees with itself; the enrolled Name goes back in afterwards, to be compared.
  const document = {
    version: 1,
    name: given.name,
    ekName,
    akPublic,
    akName: toHex(tpmName(ak)),
    assurance,
    ekCertificateSha256,
  };
  return { ...parseEnrolment(encodeEnrolment(document as Enrolment)), akName };
}

function withFreshness(result: Result, { nonce, challenged }: CheckInput): Result {
  const noNonce = nonce.trim() === "";
  if (!noNonce && challenged !== null) return result;
  const finding = {
    tier: "warning",
    code: "freshness-not-judged",
    item: noNonce ? "nonce" : "age of the nonce",
    expected: noNonce ? "the nonce that was asked with" : "the time when the nonce was made",
    got: "none",
  } as const;
  return {
    ...result,
    tier: result.tier === "affirming" ? "warning" : result.tier,
    findings: [...result.findings, finding],
  };
}
