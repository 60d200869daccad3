import {
  type CelRecord,
  describeFirmwareEvent,
  type FirmwareEventView,
  type FirmwareLog,
  type PcrBank,
  parseCel,
  parseEvidence,
  parseFirmwareLog,
  replayCel,
  replayFirmwareLog,
} from "../../attest/index.ts";
import { AGENT_PCR, toHex } from "../../policy/index.ts";
import type { Command } from "./command.ts";
import { readInput } from "./files.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary:
    "print a firmware log, an agent log or those of a report: what was measured, what is only claimed, PCR values",
  positionals: ["FILE"],
  options: {
    bank: { type: "string", value: "NAME", help: "sha256 or sha384; sha256 if it is not given" },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw log show /sys/kernel/security/tpm0/binary_bios_measurements",
    "ironclaw log show report.cbor --bank sha384 --json",
  ],
  run: async (input, io) => {
    const bank = input.choice("bank", ["sha256", "sha384"]);
    const logs = readLogs(await readInput(input.positional(0), "log"));
    const shown = {
      firmware: logs.firmware === null ? null : showFirmware(logs.firmware, bank),
      agent: logs.agent === null ? null : showAgent(logs.agent, bank),
    };
    answer(input, io, { bank, ...shown }, renderLogs(shown, bank));
    return 0;
  },
};

interface Logs {
  readonly firmware: FirmwareLog | null;
  readonly agent: readonly CelRecord[] | null;
}

/** A firmware log begins with PCR 0 in four bytes, an agent log with the head of a CBOR array, a report with that of a map. */
function readLogs(bytes: Uint8Array): Logs {
  const major = (bytes[0] ?? 0) >> 5;
  if (major === 4) return { firmware: null, agent: parseCel(bytes) };
  if (major !== 5) return { firmware: parseFirmwareLog(bytes), agent: null };
  const { firmwareLog, agentLog } = parseEvidence(bytes);
  return { firmware: parseFirmwareLog(firmwareLog), agent: parseCel(agentLog) };
}

function showFirmware(log: FirmwareLog, bank: PcrBank) {
  const pcrs = [...replayFirmwareLog(log, bank)].sort(([a], [b]) => a - b);
  return {
    algorithms: log.algorithms.map((algorithm) => `0x${algorithm.toString(16).padStart(4, "0")}`),
    startupLocality: log.startupLocality,
    events: log.events.map((event, index) => describeFirmwareEvent(event, index, bank)),
    pcrs: Object.fromEntries(pcrs.map(([pcr, value]) => [`${pcr}`, toHex(value)])),
  };
}

function showAgent(records: readonly CelRecord[], bank: PcrBank) {
  return {
    events: records.map(({ recnum, event: { kind, name, sha256 } }) => ({
      ...{ recnum, kind, name, sha256: toHex(sha256) },
    })),
    pcrs: { [`${AGENT_PCR}`]: toHex(replayCel(records, bank)) },
  };
}

interface Shown {
  readonly firmware: ReturnType<typeof showFirmware> | null;
  readonly agent: ReturnType<typeof showAgent> | null;
}

function renderLogs({ firmware, agent }: Shown, bank: PcrBank): string {
  const lines: string[] = [];
  if (firmware !== null) {
    lines.push(`firmware log: ${firmware.events.length} events, PCR 0 starts at ${firmware.startupLocality}`);
    lines.push(...firmware.events.map(renderEvent), "");
  }
  if (agent !== null) {
    lines.push(`agent log: ${agent.events.length} events, all of each authenticated by its digest`);
    lines.push(...agent.events.map(({ recnum, kind, name, sha256 }) => `${recnum}  ${kind} ${name} ${sha256}`), "");
  }
  lines.push(
    `PCR values that this replays to (${bank}). They prove something once a quote shows the same ones.`,
    ...Object.entries({ ...firmware?.pcrs, ...agent?.pcrs }).map(([pcr, value]) => `${pcr.padStart(3)}  ${value}`),
  );
  return lines.join("\n");
}

/** The name of an event stands in parentheses, because it is never more than a claim. */
function renderEvent({ index, pcr, name, digest, measured, claimed }: FirmwareEventView): string {
  const text = measured === null ? `claims    ${claimed}` : `measured  ${measured}`;
  const where = pcr > 23 ? "none" : `${pcr}`;
  return `${`${index}`.padStart(3)}  PCR ${where.padEnd(4)}  ${(digest ?? "").slice(0, 16).padEnd(16)}  ${text}  (${name})`;
}
