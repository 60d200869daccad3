import { AGENT_PCR, concatBytes, equalBytes, fromHex, IronclawError, sha256, toHex } from "../policy/index.ts";
import { challengeReasons, pcrReasons } from "./authentic.ts";
import { type PcrBank, resetValue } from "./banks.ts";
import { PHASE_PCR, phasesBetween } from "./boot-phases.ts";
import { type AgentLog, type CelRecord, readCel, replayLog } from "./cel.ts";
import type { Claims } from "./claims.ts";
import { parseClaims } from "./claims-codec.ts";
import { type Continuity, continuityFindings, continuityOf } from "./continuity.ts";
import { enrolledKey, type ReportingKey, reportingKey } from "./enrolled-keys.ts";
import type { AssuranceClass, Enrolment } from "./enrolment.ts";
import { EvidenceRefused } from "./errors.ts";
import {
  type Challenge,
  type Evidence,
  measureEvidence,
  type PcrSection,
  parseEkCertificates,
  parsePcrs,
} from "./evidence.ts";
import { type FirmwareLog, parseFirmwareLog, replayFirmwareLog } from "./firmware-log.ts";
import type { KnownLog } from "./known-log.ts";
import { measuredClaimReasons } from "./measured-claims.ts";
import { type Reason, reason, reasonFrom } from "./reason.ts";
import { parseQuoteAttest, parseTpmSignature, type QuoteAttest, type TpmSignature } from "./tpm-structures.ts";

const verified: unique symbol = Symbol("verified evidence");

/** Evidence that a TPM stands behind. Only `verifyEvidence` makes one. */
export interface VerifiedEvidence {
  readonly [verified]: true;
  /** SHA-256 of the report: 64 lower-case hexadecimal digits. */
  readonly sha256: string;
  /** The enrolled name; `claims.asserted.machine` is only what the machine calls itself. */
  readonly machine: string;
  readonly assurance: AssuranceClass;
  readonly challenge: Challenge;
  readonly claims: Claims;
  readonly quote: QuoteAttest;
  /** The quoted values. */
  readonly pcrs: ReadonlyMap<number, Uint8Array>;
  readonly firmwareLog: FirmwareLog;
  readonly agentLog: readonly CelRecord[];
  /** The same log, for reports of this machine that come later: theirs begin with it while it has not booted. */
  readonly knownLog: KnownLog;
  /** How the agent's log was known to begin. */
  readonly logBegins: KnownLog | null;
  /** What to compare the machine's next report with. */
  readonly continuity: Continuity;
  /** What is true and still deserves a look, e.g. that the machine has booted since its last report. */
  readonly doubts: readonly Reason[];
}

/** The sections, parsed; `null` where one was malformed, which is a reason already. */
interface Parts {
  readonly quote: QuoteAttest | null;
  readonly ak: ReportingKey | null;
  readonly signature: TpmSignature | null;
  readonly pcrs: PcrSection | null;
  readonly firmwareLog: FirmwareLog | null;
  readonly agentLog: AgentLog | null;
  readonly claims: Claims | null;
}

/**
 * Proves that the enrolled attestation key signed a quote over this challenge's nonce, these claims and these logs, for
 * exactly the asked bank and PCRs, that the two logs explain every quoted value, and that the report comes after the one
 * before it. Every check runs; a refusal carries all reasons.
 *
 * Does not establish that the measurements are good (see `appraise`), that the nonce is fresh and was made for this
 * machine (its issuer knows), nor that the TPM is a chip: `assurance` says what the enrolment found.
 *
 * @param previous `continuity` of the machine's last verified report; `null` only where there was none
 * @param known how the agent's log may begin (`expectedLog`, or `knownLog` of an earlier report): it changes no answer, and what it has is not hashed again
 * @throws EvidenceRefused `ERR_EVIDENCE_REFUSED`; TypeError for a challenge that is none
 */
export async function verifyEvidence(
  evidence: Evidence,
  challenge: Challenge,
  enrolment: Enrolment,
  previous: Continuity | null,
  known: readonly KnownLog[] = [],
): Promise<VerifiedEvidence> {
  checkChallenge(challenge);
  const reasons: Reason[] = [];
  const enrolled = enrolledKey(enrolment);
  const parts = parseParts(evidence, { enrolled, known }, reasons);
  const others = [
    ...quoteReasons(evidence, parts, challenge),
    ...valueReasons(parts.quote, parts.pcrs, challenge),
    ...replayReasons(parts, challenge),
    ...claimReasons(parts, challenge, enrolment),
  ];
  reasons.push(...keyReasons(parts.ak, enrolled, enrolment), ...(await signatureReasons(evidence, parts)), ...others);
  const { quote, pcrs, firmwareLog, agentLog, claims } = parts;
  const since = quote === null || claims === null ? null : compareWith(previous, quote, claims, enrolment);
  reasons.push(...(since?.reasons ?? []));
  if (reasons.length > 0 || !quote || !pcrs || !firmwareLog || !agentLog || !claims || !since)
    throw new EvidenceRefused(reasons);
  return {
    [verified]: true,
    sha256: toHex(measureEvidence(evidence)),
    machine: enrolment.name,
    assurance: enrolment.assurance,
    challenge,
    claims,
    quote,
    pcrs: pcrs.values,
    firmwareLog,
    agentLog: agentLog.records,
    knownLog: knownFrom(agentLog, pcrs),
    logBegins: agentLog.begins,
    continuity: since.continuity,
    doubts: since.doubts,
  };
}

function compareWith(previous: Continuity | null, quote: QuoteAttest, claims: Claims, { assurance }: Enrolment) {
  const continuity = continuityOf({ quote, claims }, previous);
  const { safe } = quote.clockInfo;
  const found =
    previous === null ? { reasons: [], doubts: [] } : continuityFindings(previous, continuity, { safe, assurance });
  const unsafe = safe ? [] : [reason("clock-unsafe", "clockInfo.safe", "YES", "NO")];
  return { continuity, reasons: found.reasons, doubts: [...unsafe, ...found.doubts] };
}

function checkChallenge({ nonce, pcrs }: Challenge): void {
  if (nonce.length !== 32) throw new TypeError(`challenge nonce: ${nonce.length} bytes, not 32`);
  const ascending = pcrs.every((pcr, index) => Number.isInteger(pcr) && pcr <= 23 && pcr > (pcrs[index - 1] ?? -1));
  if (pcrs.length === 0 || !ascending)
    throw new TypeError("challenge pcrs: not an ascending, non-empty list of 0 to 23");
}

/** Of a log that was replayed to the quoted value. */
function knownFrom({ bytes, records }: AgentLog, { bank, values }: PcrSection): KnownLog {
  const quoted = values.get(AGENT_PCR);
  return { bytes, records, pcrs: new Map(quoted === undefined ? [] : [[bank, quoted]]) };
}

/** What is not read again where a report has the very same bytes. */
interface Held {
  readonly enrolled: ReportingKey;
  readonly known: readonly KnownLog[];
}

function parseParts(evidence: Evidence, { enrolled, known }: Held, reasons: Reason[]): Parts {
  const attempt = <T>(item: string, parse: () => T): T | null => {
    try {
      return parse();
    } catch (error) {
      if (!(error instanceof IronclawError)) throw error;
      reasons.push(reasonFrom(error, `${item}: ${error.message}`));
      return null;
    }
  };
  attempt("ek-certificates", () => parseEkCertificates(evidence.ekCertificates));
  return {
    quote: attempt("quote", () => parseQuoteAttest(evidence.quote)),
    ak: attempt("ak", () => (equalBytes(evidence.ak, enrolled.publicArea) ? enrolled : reportingKey(evidence.ak))),
    signature: attempt("signature", () => parseTpmSignature(evidence.signature)),
    pcrs: attempt("pcrs", () => parsePcrs(evidence.pcrs)),
    firmwareLog: attempt("firmware-log", () => parseFirmwareLog(evidence.firmwareLog)),
    agentLog: attempt("agent-log", () => readCel(evidence.agentLog, known)),
    claims: attempt("claims", () => parseClaims(evidence.claims)),
  };
}

function keyReasons(ak: ReportingKey | null, enrolled: ReportingKey, { akName }: Enrolment): readonly Reason[] {
  if (ak === null) return [];
  return ak === enrolled && ak.name === akName
    ? ak.unsuitable
    : [...ak.unsuitable, reason("ak-not-enrolled", "ak name", akName, ak.name)];
}

async function signatureReasons(evidence: Evidence, { ak, signature }: Parts): Promise<readonly Reason[]> {
  if (ak === null || signature === null) return []; // the malformed one is a reason already
  const key = await ak.imported;
  if (await key?.verify(signature, evidence.quote)) return [];
  return [reason("signature", "signature", "one of the attestation key over the quote", "one that does not verify")];
}

function quoteReasons(evidence: Evidence, { quote, ak }: Parts, challenge: Challenge): readonly Reason[] {
  if (quote === null) return [];
  return [...challengeReasons(evidence, quote, challenge), ...signerReasons(quote, ak)];
}

/** A key under another parent or hierarchy has the same Name and another qualified Name. */
function signerReasons(quote: QuoteAttest, ak: ReportingKey | null): readonly Reason[] {
  if (ak === null) return []; // the malformed key is a reason already
  const got = toHex(quote.qualifiedSigner);
  return got === ak.qualifiedName ? [] : [reason("qualified-signer", "quote qualifiedSigner", ak.qualifiedName, got)];
}

function valueReasons(quote: QuoteAttest | null, pcrs: PcrSection | null, challenge: Challenge): readonly Reason[] {
  return pcrs === null ? [] : pcrReasons(quote, pcrs, challenge);
}

function replayReasons({ pcrs, firmwareLog, agentLog }: Parts, challenge: Challenge): readonly Reason[] {
  if (pcrs === null || firmwareLog === null || agentLog === null) return [];
  const replayed = replayFirmware(firmwareLog, challenge.bank);
  if (!(replayed instanceof Map)) return [replayed as Reason];
  const reasons: Reason[] = [];
  if (replayed.has(AGENT_PCR)) {
    reasons.push(reason("firmware-log-agent-pcr", `PCR ${AGENT_PCR}`, "not extended by firmware", "extended"));
  }
  for (const [pcr, quoted] of pcrs.values) {
    const explained =
      pcr === AGENT_PCR ? replayLog(agentLog, challenge.bank) : (replayed.get(pcr) ?? resetValue(challenge.bank, pcr));
    if (equalBytes(explained, quoted)) continue;
    if (pcr === PHASE_PCR && phasesBetween(challenge.bank, explained, quoted) !== null) continue;
    reasons.push(reason("pcr-replay", `PCR ${pcr} (${challenge.bank})`, toHex(explained), toHex(quoted)));
  }
  return reasons;
}

function replayFirmware(log: FirmwareLog, bank: PcrBank): ReadonlyMap<number, Uint8Array> | Reason {
  try {
    return replayFirmwareLog(log, bank);
  } catch (error) {
    if (error instanceof IronclawError) return reasonFrom(error, `firmware-log: ${error.message}`);
    throw error;
  }
}

function claimReasons({ claims, agentLog }: Parts, challenge: Challenge, enrolment: Enrolment): readonly Reason[] {
  if (claims === null) return [];
  const reasons: Reason[] = [];
  const expect = (item: string, expected: Uint8Array, got: Uint8Array) => {
    if (!equalBytes(expected, got)) reasons.push(reason("claim", item, toHex(expected), toHex(got)));
  };
  expect("eat_nonce", challenge.nonce, claims.nonce);
  expect("ueid", machineUeid(fromHex(enrolment.ekName)), claims.ueid);
  if (agentLog !== null) reasons.push(...measuredClaimReasons(claims, agentLog.records));
  return reasons;
}

/** EAT ueid of a machine: 01 (RAND), then SHA-256 of the EK's Name. 33 bytes. */
export function machineUeid(ekName: Uint8Array): Uint8Array {
  return concatBytes(Uint8Array.of(1), sha256(ekName));
}
