import { dirname } from "node:path";
import { reason, reasonFrom } from "../attest/index.ts";
import { equalBytes, toHex } from "../policy/index.ts";
import { readAnchor, writeAnchor } from "../seal/index.ts";
import type { MachineAudit } from "./audit/machine-audit.ts";
import { openAudit } from "./audit/open.ts";
import type { AuditHead } from "./audit/record.ts";
import { readMirror, readTpmCounters, rollbackReasons, writeMirror } from "./counter-mirror.ts";
import { AgentError } from "./errors.ts";
import { type LaunchEnvironment, Refusal, type StateVolume } from "./launch/environment.ts";
import { tpmStep } from "./launch/unseal.ts";
import type { Native } from "./native/index.ts";
import type { Spawner } from "./spawner-client.ts";

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
 * another machine's volume, an earlier copy of this one and a shortened log are told apart and refused (I8). The other way round, the
 * volume remembers how far the TPM's counters had come.
 */
export function createStateVolume(parts: StateVolumeParts): StateVolume {
  return {
    open: async (deliver) => {
      try {
        await openStateVolume(parts, deliver);
      } catch (error) {
        throw refusalOf(error);
      }
    },
    settle: async () => writeMirror(dirname(parts.auditLog), await readTpmCounters(parts.tss)),
  };
}

async function openStateVolume(parts: StateVolumeParts, deliver: (sink: number) => Promise<void>): Promise<void> {
  const { tss, spawner, native, auditLog, audit, now } = parts;
  const known = await tpmStep("audit anchor", () => readAnchor(tss));
  if (known.kind === "missing")
    throw new Refusal([reason("tpm-not-provisioned", "audit anchor", "its NV index", "none")]);
  const anchor = known.kind === "anchor" ? known.anchor : null;
  const opened = await withKey(native, deliver, (keyFd) => spawner.openState({ format: anchor === null }, keyFd));
  if (anchor !== null && !equalBytes(anchor.volumeId, opened.volumeId))
    throw new Refusal([reason("state-swapped", "state volume", toHex(anchor.volumeId), toHex(opened.volumeId))]);
  const directory = dirname(auditLog);
  const present = await tpmStep("TPM counters", () => readTpmCounters(tss));
  const mirrored = readMirror(directory);
  const older = anchor === null || mirrored === null ? [] : rollbackReasons(mirrored, present);
  if (older.length > 0) throw new Refusal(older);
  const log = openAudit({ directory: auditLog, now, anchor });
  writeMirror(directory, present);
  // A volume that is new to the TPM is taken over as it is: there is nothing yet that its log could be behind.
  const keep = (head: AuditHead) => writeAnchor(tss, { volumeId: opened.volumeId, ...head });
  await tpmStep("audit anchor", () => keep(log.head()));
  audit.open(log, keep);
}

/** What is wrong with the volume, as a reason of the launch; anything else stays what it is. */
function refusalOf(error: unknown): unknown {
  if (!(error instanceof AgentError)) return error;
  const { expected, got } = reasonFrom(error, "state volume");
  if (error.state !== undefined) return new Refusal([reason(error.state, "state volume", expected, got)]);
  if (error.code === "ERR_AUDIT_ROLLED_BACK")
    return new Refusal([reason("audit-rolled-back", "audit log", expected, got)]);
  return error;
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
