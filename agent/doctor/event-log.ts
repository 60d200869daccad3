import {
  bankSize,
  extendPcr,
  type FirmwareLog,
  type PcrBank,
  PHASE_PCR,
  parseFirmwareLog,
  pcrBanks,
  phasesBetween,
  replayFirmwareLog,
} from "../../attest/index.ts";
import { equalBytes, IronclawError } from "../../policy/index.ts";
import type { MachineTpm } from "../../seal/index.ts";
import type { Files } from "./files.ts";
import { type Finding, fail, ok, warn } from "./finding.ts";
import { systemdEvents } from "./systemd-log.ts";

/** What a report quotes and a verifier replays of the boot. */
const REPLAYED = [0, 1, 2, 3, 4, 5, 6, 7, 9, 11, 12, 14] as const;
/** Without an event in one of these, a release binds nothing there. */
const BOOT = [4, 9, 11] as const;

export interface ReadLog {
  readonly log: FirmwareLog | null;
  /** Why there is none. */
  readonly problem: string | null;
}

export function readFirmwareLog(files: Files, path: string): ReadLog {
  const bytes = files.bytes(path);
  if (bytes === null) return { log: null, problem: `${path} cannot be read` };
  try {
    return { log: parseFirmwareLog(bytes), problem: null };
  } catch (error) {
    return { log: null, problem: error instanceof IronclawError ? error.message : "unknown failure" };
  }
}

/** Whether there is a log, and whether it explains the PCRs as they are now: what a verifier will find, without its keys. */
export async function eventLogFindings(
  tpm: MachineTpm,
  files: Files,
  { log, problem }: ReadLog,
): Promise<readonly Finding[]> {
  const active = (await tpm.activeBanks()).filter((bank) => pcrBanks.includes(bank));
  return [
    log === null
      ? fail("event-log", { expected: "a log of this boot", got: problem ?? "none" })
      : await replay(tpm, files, log, active),
    ...(await measuredBoot(tpm, active)),
  ];
}

/** How one PCR stands to what the firmware's log explains. */
type Standing =
  | { readonly kind: "explained" }
  /** Systemd's words of the boot lead on from there: a verifier takes them. */
  | { readonly kind: "phases"; readonly words: string }
  | { readonly kind: "differs"; readonly item: string; readonly bySystemd: boolean };

async function replay(tpm: MachineTpm, files: Files, log: FirmwareLog, banks: readonly PcrBank[]): Promise<Finding> {
  const standings: Standing[] = [];
  for (const bank of banks) {
    const replayed = replayFirmwareLog(log, bank);
    const now = await tpm.pcrRead(bank, REPLAYED);
    for (const pcr of REPLAYED)
      standings.push(standingOf(files, bank, pcr, replayed.get(pcr) ?? new Uint8Array(bankSize(bank)), now.get(pcr)));
  }
  const differing = standings.filter((standing) => standing.kind === "differs");
  if (differing.length === 0) {
    const words = standings.flatMap((standing) => (standing.kind === "phases" ? [standing.words] : []))[0];
    const phases = words === undefined ? "" : `; PCR ${PHASE_PCR} goes on by systemd's ${words}`;
    return ok("event-log", `${log.events.length} events, which replay in ${banks.join(", ")}${phases}`);
  }
  const what = differing.map(({ item }) => item).join(", ");
  const whose = differing.some(({ bySystemd }) => bySystemd) ? ": systemd has extended it, and says so" : "";
  return fail("event-log", { expected: "a log that replays to the PCRs", got: `another value in ${what}${whose}` });
}

function standingOf(
  files: Files,
  bank: PcrBank,
  pcr: number,
  wanted: Uint8Array,
  got: Uint8Array = new Uint8Array(),
): Standing {
  if (equalBytes(wanted, got)) return { kind: "explained" };
  const phases = pcr === PHASE_PCR ? phasesBetween(bank, wanted, got) : null;
  if (phases !== null) return { kind: "phases", words: phases.join(", ") };
  const bySystemd = equalBytes(withSystemd(files, bank, pcr, wanted), got);
  return { kind: "differs", item: `PCR ${pcr} (${bank})`, bySystemd };
}

function withSystemd(files: Files, bank: PcrBank, pcr: number, from: Uint8Array): Uint8Array {
  return systemdEvents(files)
    .filter((event) => event.pcr === pcr)
    .reduce((value, { digests }) => extendPcr(bank, value, digests.get(bank) ?? new Uint8Array(bankSize(bank))), from);
}

async function measuredBoot(tpm: MachineTpm, banks: readonly PcrBank[]): Promise<readonly Finding[]> {
  const [bank] = banks;
  if (bank === undefined) return [];
  const now = await tpm.pcrRead(bank, BOOT);
  const untouched = BOOT.filter((pcr) => now.get(pcr)?.every((byte) => byte === 0));
  if (untouched.length === 0)
    return [ok("boot-not-measured", `does not happen here: PCR ${BOOT.join(", ")} were extended`)];
  const got = `PCR ${untouched.join(", ")} ${untouched.length === 1 ? "is" : "are"} zero`;
  return [warn("boot-not-measured", { expected: `measurements in PCR ${BOOT.join(", ")}`, got })];
}
