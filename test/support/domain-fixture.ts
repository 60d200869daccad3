import type { ChildProcess } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import type { Writable } from "node:stream";
import type { FileAuditLog } from "../../agent/audit/log.ts";
import { openAudit } from "../../agent/audit/open.ts";
import type { AuditRecord } from "../../agent/audit/record.ts";
import { readAudit } from "../../agent/audit/verify.ts";
import { MeasurementLog } from "../../agent/launch/measurement-log.ts";
import { type KeyUse, openShim, type Shim, type ShimOptions } from "../../agent/shim-client.ts";
import { type AttemptCounts, libraryAttempts, sumAttempts } from "../../agent/shims/attempts.ts";
import type { DomainEnd } from "../../agent/shims/domain-end.ts";
import type { DomainShim, KeyPlace } from "../../agent/shims/domain-shim.ts";
import { IncidentLog } from "../../agent/shims/incidents.ts";
import { TrustDomain } from "../../agent/shims/trust-domain.ts";
import { type CelRecord, type Incident, replayCel, type Tpm } from "../../attest/index.ts";
import { AGENT_PCR, ByteWriter, equalBytes, utf8 } from "../../policy/index.ts";
import { openTpm } from "../../seal/index.ts";
import { type Bench, NATIVE_DIRECTORY, native, openBench, startRaw } from "./shim-fixture.ts";
import { type SoftwareTpm, startSwtpm } from "./swtpm.ts";

/** A library with its token, as a shim on this machine gets it. A key without a label goes by its handle. */
export interface DomainToken {
  readonly library: string;
  readonly environment: Readonly<Record<string, string>>;
  readonly profile: string;
  readonly pin: string;
  /** Label of the slot's token; default the first slot. */
  readonly label?: string;
  /** By the key's label; default all sign. */
  readonly uses?: Readonly<Record<string, KeyUse["use"]>>;
  /** Weaknesses that a key's use brings, by its label; default none. */
  readonly accepts?: Readonly<Record<string, NonNullable<KeyUse["accepts"]>>>;
}

export interface DomainOptions {
  readonly name?: string;
  /** How many serve; default one. */
  readonly shims?: number;
  readonly spares?: number;
  readonly onViolation?: "kill" | "report";
  readonly timeoutMs?: number;
  /** Instead of the agent's own way to take a shim over. */
  readonly openShim?: (id: number, fd: number, options: ShimOptions) => Promise<Shim>;
  /** Before each extend of the agent PCR. */
  readonly beforeExtend?: () => Promise<void>;
}

export interface TestDomain {
  readonly domain: TrustDomain;
  readonly processes: readonly ChildProcess[];
  readonly shims: readonly Shim[];
  readonly ends: readonly DomainEnd[];
  /** Ids in the order in which their end was asked for. */
  readonly stopped: readonly number[];
  /** What the library tried, by system-call number. */
  attempts(): AttemptCounts;
  /** From here on nobody rings when the kernel shows an attempt. */
  deafen(): void;
}

export interface DomainBench {
  readonly bench: Bench;
  readonly incidents: IncidentLog;
  readonly log: MeasurementLog;
  readonly audit: FileAuditLog;
  audited(): readonly AuditRecord[];
  /** The incidents that a report would tell. */
  recorded(): readonly Incident[];
  /** What is in the log; throws when the TPM's PCR is not what it explains. */
  measured(): Promise<readonly CelRecord[]>;
  open(token: DomainToken, options?: DomainOptions): Promise<TestDomain>;
  /** Shims that are logged in, with ids from `firstId` on. */
  members(
    token: DomainToken,
    options?: DomainOptions & { readonly firstId?: number },
  ): Promise<readonly OpenedMember[]>;
  /** SIGKILL to a process of `members`, and its end. */
  kill(id: number): Promise<void>;
  close(): Promise<void>;
}

/** Trust domains of real shims, a real audit log, and a software TPM that takes the events. */
export async function openDomainBench({ beforeExtend }: DomainOptions = {}): Promise<DomainBench> {
  const bench = openBench();
  const machine: SoftwareTpm = await startSwtpm({ endorsement: "none" });
  const tpm = await openTpm({ tcti: machine.tcti, nativeDirectory: NATIVE_DIRECTORY });
  const slowed: Pick<Tpm, "pcrExtend"> = {
    pcrExtend: async (pcr, ...events) => {
      await beforeExtend?.();
      await tpm.pcrExtend(pcr, ...events);
    },
  };
  const log = new MeasurementLog(slowed as Tpm, AGENT_PCR); // the log extends, and nothing else
  const path = join(bench.directory, "audit.log");
  const audit = openAudit({ directory: path, now: Date.now, anchor: null });
  const record: { incidents: readonly Incident[] } = { incidents: [] };
  const incidents = new IncidentLog({ log, audit, record });
  const started: OpenedMember[] = [];
  const members: DomainBench["members"] = async (token, { shims = 1, spares = 0, firstId = 0, ...how } = {}) => {
    const opened = [];
    for (let at = 0; at < shims + spares; at++)
      opened.push(await openMember({ id: firstId + at, serves: at < shims }, token, how));
    started.push(...opened);
    return opened;
  };
  const kill = async (id: number) => {
    const child = started.findLast((member) => member.id === id)?.child;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, "exit");
    child.kill("SIGKILL");
    await ended;
  };
  return {
    ...{ bench, incidents, log, audit, members, kill },
    recorded: () => record.incidents,
    audited: () => readAudit(path, 1, 1_000_000),
    measured: () =>
      log.locked(async (records) => {
        const present = (await tpm.pcrRead("sha256", [AGENT_PCR])).get(AGENT_PCR) ?? new Uint8Array();
        if (!equalBytes(present, replayCel(records, "sha256"))) throw new Error("log and PCR differ");
        return [...records];
      }),
    open: async (token, options = {}) => openDomain(await members(token, options), incidents, options),
    close: async () => {
      for (const { child } of started) child.kill("SIGKILL");
      audit.close();
      await tpm.close();
      await machine.stop();
      bench.remove();
    },
  };
}

export interface OpenedMember extends DomainShim {
  readonly child: ChildProcess;
  /** Called for each attempt that the kernel shows. */
  onAttempt: () => void;
}

const CKK_EC = 3n;

async function openMember(
  { id, serves }: Pick<DomainShim, "id" | "serves">,
  token: DomainToken,
  { timeoutMs = 20_000, openShim: open = (_, at, how) => openShim(at, native(), how) }: DomainOptions,
): Promise<OpenedMember> {
  const { fd, child } = startRaw(native(), { profile: token.profile, environment: token.environment });
  const bell: { onAttempt: () => void } = { onAttempt: () => undefined };
  const shim = await open(id, fd, { timeoutMs, onAttempt: () => bell.onAttempt() });
  const loaded = await shim.load(token.library);
  const slot = token.label === undefined ? loaded.slots[0] : loaded.slots.find(({ label }) => label === token.label);
  const slotId = slot?.slotId ?? -1n;
  // child_process types fd 4 as either direction; "pipe" gives a stream for both
  (child.stdio[4] as Writable).write(new ByteWriter().sized16(utf8(token.pin)).finish());
  await shim.login(slotId);
  const keys = await shim.keys(slotId);
  const { uses = {}, accepts = {} } = token;
  await shim.uses(
    keys.map(({ label, handle }) => ({
      ...{ slotId, handle, use: uses[label] ?? "sign", accepts: accepts[label] ?? [] },
    })),
  );
  await shim.arm();
  shim.watch.renew();
  const places = new Map(
    keys.map(({ label, handle, keyType }): [string, KeyPlace] => [
      label || `${handle}`,
      { slotId, handle, quick: keyType === CKK_EC },
    ]),
  );
  const probed = { total: shim.watch.total(), counts: shim.attempts() };
  return Object.assign(bell, { id, serves, shim, places, probed, child });
}

function openDomain(members: readonly OpenedMember[], incidents: IncidentLog, options: DomainOptions): TestDomain {
  const ends: DomainEnd[] = [];
  const stopped: number[] = [];
  const domain = new TrustDomain({
    ...{ token: options.name ?? "signing", shims: members, onViolation: options.onViolation ?? "kill", incidents },
    stopShim: async (id) => {
      stopped.push(id);
      const child = members.find((member) => member.id === id)?.child;
      if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
      const ended = once(child, "exit");
      child.kill("SIGKILL");
      await ended;
    },
    onEnd: async (end) => void ends.push(end),
  });
  for (const member of members) member.onAttempt = () => domain.checkAttempts();
  const deafen = () => {
    for (const member of members) member.onAttempt = () => undefined;
  };
  const attempts = () => sumAttempts(members.map(({ shim, probed }) => libraryAttempts(shim, probed)));
  return {
    deafen,
    attempts,
    domain,
    ends,
    stopped,
    processes: members.map(({ child }) => child),
    shims: members.map(({ shim }) => shim),
  };
}
