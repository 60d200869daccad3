import { equalBytes, toHex } from "../policy/index.ts";
import { type Anchor, readAnchor, writeAnchor } from "../seal/index.ts";
import type { AuditEntry, AuditHead } from "./audit-record.ts";
import { EMPTY_HEAD } from "./audit-record.ts";
import { type AuditLog, type Durability, type OpenAuditLog, openAudit } from "./audit.ts";
import { AgentError } from "./errors.ts";
import type { LaunchEnvironment, StateVolume } from "./launch/environment.ts";
import { tpmStep } from "./launch/unseal.ts";
import type { Native } from "./native/index.ts";
import type { Spawner } from "./spawner-client.ts";

/** How far the log may run ahead of the TPM: by time, and by records. */
const ANCHOR_MILLISECONDS = 10_000;
const ANCHOR_RECORDS = 10_000;

/** The machine's audit log: there once it is opened. Before that nothing can be decided, so nothing is written. */
export class MachineAudit implements AuditLog {
  #log: OpenAuditLog | null = null;

  open(log: OpenAuditLog): void {
    this.#log = log;
  }
  append(entry: AuditEntry, durability: Durability): Promise<AuditHead> {
    if (this.#log !== null) return this.#log.append(entry, durability);
    return Promise.reject(new AgentError("ERR_AUDIT_WRITE", "audit log: not open yet"));
  }
  head(): AuditHead {
    return this.#log?.head() ?? EMPTY_HEAD;
  }
  close(): void {
    this.#log?.close();
  }
}

interface StateVolumeParts {
  readonly tss: LaunchEnvironment["tss"];
  readonly spawner: Pick<Spawner, "openState">;
  readonly native: Pick<Native, "pipe" | "closeFd">;
  readonly auditLog: string;
  readonly audit: MachineAudit;
  readonly now: () => number;
}

/**
 * The encrypted volume that the audit log lies on. Which volume is this machine's, and how far its log had come, stands in the TPM:
 * another machine's volume, an earlier copy of this one and a shortened log are told apart and refused (I8).
 */
export function createStateVolume(parts: StateVolumeParts): StateVolume {
  const { tss, spawner, native, auditLog, audit, now } = parts;
  return {
    open: async (deliver) => {
      const known = await tpmStep("audit anchor", () => readAnchor(tss));
      if (known.kind === "missing")
        throw new AgentError("ERR_STATE_VOLUME", "audit anchor", { expected: "its NV index", got: "none" });
      const anchor = known.kind === "anchor" ? known.anchor : null;
      const opened = await withKey(native, deliver, (keyFd) => spawner.openState({ format: anchor === null }, keyFd));
      if (anchor !== null) requireVolume(anchor, opened.volumeId);
      const log = openAudit({ path: auditLog, now, anchor });
      // A volume that is new to the TPM is taken over as it is: there is nothing yet that its log could be behind.
      await tpmStep("audit anchor", () => writeAnchor(tss, { volumeId: opened.volumeId, ...log.head() }));
      audit.open(log);
      keepAnchored(tss, opened.volumeId, log);
    },
  };
}

/** The key goes from the unsealer into a pipe, and from there into the spawner. */
async function withKey<T>(
  native: StateVolumeParts["native"],
  deliver: (sink: number) => Promise<void>,
  use: (keyFd: number) => Promise<T>,
): Promise<T> {
  const [keyFd, sink] = native.pipe();
  try {
    try {
      await deliver(sink);
    } finally {
      native.closeFd(sink);
    }
    return await use(keyFd);
  } finally {
    native.closeFd(keyFd);
  }
}

function requireVolume({ volumeId }: Anchor, got: Uint8Array): void {
  if (equalBytes(volumeId, got)) return;
  throw new AgentError("ERR_STATE_VOLUME", "state volume", {
    expected: `the volume ${toHex(volumeId)} of this machine`,
    got: toHex(got),
    hint: "the disk is another machine's or an earlier one: attach the right one, or give the machine a new one with `ironclaw order new-volume`",
  });
}

/** Writes the log's head into the TPM when it has moved: every ten seconds, and earlier when many records came. */
function keepAnchored(tss: StateVolumeParts["tss"], volumeId: Uint8Array, log: OpenAuditLog): void {
  let anchored = log.head().seq;
  let due = performance.now() + ANCHOR_MILLISECONDS;
  const tick = async (): Promise<void> => {
    const head = log.head();
    const late = performance.now() >= due || head.seq - anchored >= ANCHOR_RECORDS;
    if (head.seq === anchored || !late) return;
    due = performance.now() + ANCHOR_MILLISECONDS;
    try {
      await writeAnchor(tss, { volumeId, ...head });
      anchored = head.seq;
    } catch (error) {
      console.error(`agent: audit anchor: ${error instanceof Error ? error.message : "unknown failure"}`);
    }
  };
  setInterval(() => void tick(), 500).unref();
}
