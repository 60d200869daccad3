import { type PcrBank, resetValue } from "../banks.ts";
import { type CelRecord, parseCel, replayCel } from "../cel.ts";
import type { Claims } from "../claims.ts";
import { parseClaims } from "../claims-codec.ts";
import { parseEvidence, parsePcrs } from "../evidence.ts";
import { type FirmwareLog, parseFirmwareLog, replayFirmwareLog } from "../firmware-log.ts";
import { equalBytes, IronclawError, sha256Hex } from "../verifier.ts";

const agentPcr = 13;

/** A report taken apart for a reader. Parts that are malformed are `null`, and `problems` says why. */
export interface ReadReport {
  readonly sha256: string;
  readonly size: number;
  readonly bank: PcrBank | null;
  /** What the report lists; whether the TPM signed it, `verifyEvidence` says. */
  readonly values: ReadonlyMap<number, Uint8Array>;
  /** PCRs whose listed value follows from the logs. */
  readonly explained: ReadonlySet<number>;
  readonly firmwareLog: FirmwareLog | null;
  readonly agentLog: readonly CelRecord[] | null;
  readonly claims: Claims | null;
  readonly problems: readonly { readonly part: string; readonly code: string; readonly message: string }[];
}

/**
 * Reads a report with the verifier's own parsers and replays its logs. Establishes nothing about who made it: no signature is
 * looked at here.
 * @throws AttestError `ERR_EVIDENCE_MALFORMED` where it does not even come apart
 */
export function readReport(bytes: Uint8Array): ReadReport {
  const evidence = parseEvidence(bytes);
  const problems: { part: string; code: string; message: string }[] = [];
  const attempt = <T>(part: string, read: () => T): T | null => {
    try {
      return read();
    } catch (error) {
      if (!(error instanceof IronclawError)) throw error;
      problems.push({ part, code: error.code, message: error.message });
      return null;
    }
  };
  const pcrs = attempt("pcrs", () => parsePcrs(evidence.pcrs));
  const firmwareLog = attempt("firmware-log", () => parseFirmwareLog(evidence.firmwareLog));
  const agentLog = attempt("agent-log", () => parseCel(evidence.agentLog));
  const bank = pcrs?.bank ?? null;
  const values = pcrs?.values ?? new Map<number, Uint8Array>();
  const replayed =
    bank === null || firmwareLog === null ? null : attempt("firmware-log", () => replayFirmwareLog(firmwareLog, bank));
  return {
    sha256: sha256Hex(bytes),
    size: bytes.length,
    bank,
    values,
    explained: explainedPcrs(bank, values, replayed, agentLog),
    firmwareLog,
    agentLog,
    claims: attempt("claims", () => parseClaims(evidence.claims)),
    problems,
  };
}

function explainedPcrs(
  bank: PcrBank | null,
  values: ReadonlyMap<number, Uint8Array>,
  firmware: ReadonlyMap<number, Uint8Array> | null,
  agentLog: readonly CelRecord[] | null,
): ReadonlySet<number> {
  if (bank === null) return new Set();
  const explain = (pcr: number): Uint8Array | null => {
    if (pcr === agentPcr) return agentLog === null ? null : replayCel(agentLog, bank);
    return firmware === null ? null : (firmware.get(pcr) ?? resetValue(bank, pcr));
  };
  const found = [...values].filter(([pcr, value]) => {
    const explained = explain(pcr);
    return explained !== null && equalBytes(explained, value);
  });
  return new Set(found.map(([pcr]) => pcr));
}
