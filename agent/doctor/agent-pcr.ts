import { readlinkSync, statSync } from "node:fs";
import type { HashName, Tpm as Tss } from "node-tpm2-tss";
import { type CelRecord, type FirmwareLog, pcrBanks, replayCel } from "../../attest/index.ts";
import { AGENT_PCR, equalBytes, toHex } from "../../policy/index.ts";
import type { Files } from "./files.ts";
import { type Finding, fail, ok, warn } from "./finding.ts";
import { systemdEvents } from "./systemd-log.ts";

/**
 * The proof that nothing else on this system extends the agent PCR. It starts at zeros and no program can reset it, so its value tells of
 * everything that has extended it in this boot: zeros, of nobody; what the agent's own log replays to, of nobody but the agent.
 *
 * @param records the agent's log, taken while nothing is extended; null when somebody else asks
 * @param uptime seconds since the machine of this TPM started; null when that is another one
 */
export async function agentPcrFinding(
  tss: Tss,
  records: readonly CelRecord[] | null,
  uptime: number | null,
): Promise<Finding> {
  const active = (await tss.pcrBanks()).flatMap(({ bank, pcrs }) => (pcrs.includes(AGENT_PCR) ? [bank] : []));
  const values = await tss.pcrRead(active.map((bank) => ({ bank, pcrs: [AGENT_PCR] })));
  const read = (bank: HashName) => values.get(bank)?.get(AGENT_PCR) ?? new Uint8Array();
  const extended = active.filter((bank) => read(bank).some((byte) => byte !== 0));
  const since = uptime === null ? "" : ` after ${Math.floor(uptime)} s`;
  if (records === null || records.length === 0) {
    if (extended.length === 0)
      return ok("agent-pcr", `nobody: PCR ${AGENT_PCR} is zero in ${active.join(", ")}${since}`);
    const got = `somebody has: ${extended.map((bank) => `${bank} ${toHex(read(bank)).slice(0, 16)}...`).join(", ")}`;
    return fail("agent-pcr", { expected: "zeros, as long as no agent runs", got });
  }
  const other = pcrBanks.filter((bank) => active.includes(bank) && !equalBytes(replayCel(records, bank), read(bank)));
  if (other.length === 0)
    return ok(
      "agent-pcr",
      `the agent alone: its ${records.length} events replay to PCR ${AGENT_PCR} in ${pcrBanks.join(", ")}`,
    );
  const got = `another value in ${other.join(", ")}: somebody else has extended it in this boot`;
  return fail("agent-pcr", { expected: `what the agent's ${records.length} events replay to`, got });
}

/**
 * Who else is known to extend it, or may: what firmware, systemd and the kernel say they measured there, and whoever else has the TPM. Names
 * suspects; the proof is `agentPcrFinding`.
 */
export function otherExtenders(files: Files, log: FirmwareLog | null, ownPid: number | null): Finding {
  const known = [
    ...count(
      "the firmware's log",
      log?.events.filter(({ pcr, type }) => pcr === AGENT_PCR && type !== NO_ACTION).length ?? 0,
    ),
    ...count("systemd's log", systemdEvents(files).filter(({ pcr }) => pcr === AGENT_PCR).length),
    ...count("the kernel's integrity log", integrityEvents(files)),
  ];
  if (known.length > 0)
    return fail("agent-pcr-others", { expected: `no measurement into PCR ${AGENT_PCR}`, got: known.join(", ") });
  const open = openers(files, ownPid);
  const modes = worldWritable(files);
  if (open.length > 0 || modes.length > 0)
    return warn("agent-pcr-others", {
      expected: "no other program with the TPM open, and none that everybody may open",
      got: [...open, ...modes].join(", "),
    });
  return ok("agent-pcr-others", `no log has a measurement into PCR ${AGENT_PCR}, and nobody else has the TPM open`);
}

const NO_ACTION = 0x3;

function count(where: string, events: number): readonly string[] {
  return events === 0 ? [] : [`${events} in ${where}`];
}

/** Its first column is the PCR: CONFIG_IMA_MEASURE_PCR_IDX, usually 10. */
function integrityEvents(files: Files): number {
  const lines = files.text("/sys/kernel/security/ima/ascii_runtime_measurements")?.split("\n") ?? [];
  return lines.filter((line) => line.startsWith(`${AGENT_PCR} `)).length;
}

const DEVICE = /^\/dev\/tpm(?:rm)?\d+$/;

/** Root sees all of them, others their own: what cannot be seen is not said. */
function openers(files: Files, ownPid: number | null): readonly string[] {
  return files.names("/proc").flatMap((pid) => {
    if (!/^\d+$/.test(pid) || Number(pid) === process.pid || Number(pid) === ownPid) return [];
    const devices = files.names(`/proc/${pid}/fd`).flatMap((fd) => {
      const target = linkOf(files, `/proc/${pid}/fd/${fd}`);
      return target !== null && DEVICE.test(target) ? [target] : [];
    });
    const name = files.text(`/proc/${pid}/comm`) ?? "unknown";
    return devices.length === 0 ? [] : [`${name} (pid ${pid}) has ${[...new Set(devices)].join(" ")}`];
  });
}

function worldWritable(files: Files): readonly string[] {
  return files.names("/dev").flatMap((name) => {
    const path = `/dev/${name}`;
    if (!DEVICE.test(path)) return [];
    const mode = modeOf(files, path);
    return mode !== null && (mode & 0o006) !== 0 ? [`${path} has mode 0${mode.toString(8)}`] : [];
  });
}

function linkOf(files: Files, path: string): string | null {
  try {
    return readlinkSync(files.path(path));
  } catch {
    return null;
  }
}

function modeOf(files: Files, path: string): number | null {
  try {
    return statSync(files.path(path)).mode & 0o777;
  } catch {
    return null;
  }
}
