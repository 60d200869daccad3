import { type Reason, reason } from "../../attest/index.ts";
import type { Policy } from "../../policy/index.ts";
import { clearLostRecord, type LostRecord, readLostRecord, type Store, type StoreMedium } from "../../seal/index.ts";
import { afterLoss, countRecovery, recoveriesOf } from "./recovery.ts";

const AGENT_LOST = "agent-lost";

/** The agent of the boot before this one was lost: the spawner said so in the store. */
export interface AgentLoss {
  readonly record: LostRecord;
  /** Losses in a row, this one included; null when it could not be counted. */
  readonly losses: number | null;
}

/**
 * Takes the spawner's note of a lost agent out of the store and counts it. The count comes first: a crash between the two counts one loss
 * twice, so the machine gives up earlier, never later.
 * @returns null when the boot before this one ended in another way, a power cut included
 */
export function countAgentLoss(store: Store, medium: StoreMedium): AgentLoss | null {
  const record = readLostRecord(medium);
  if (record === null) return null;
  try {
    countRecovery(store);
  } catch {
    return { record, losses: null };
  }
  try {
    clearLostRecord(medium);
  } catch {
    // the next boot counts it once more
  }
  return { record, losses: recoveriesOf(store) };
}

/** What a lost agent means for the next boot's launch. `wait`: refused, and rebooted after so many milliseconds. */
export type AfterAgentLoss =
  | { readonly kind: "launch" }
  | { readonly kind: "wait"; readonly delay: number; readonly reasons: readonly Reason[] }
  | { readonly kind: "stop"; readonly reasons: readonly Reason[] };

/**
 * As after a lost login, and counted with those. The wait is one of a launch that was refused, so that it passes with a capped agent PCR
 * and in a machine that answers its verifier.
 */
export function afterAgentLoss(loss: AgentLoss | null, { onLoginLost }: Pick<Policy, "onLoginLost">): AfterAgentLoss {
  if (loss === null) return { kind: "launch" };
  const lost = reason(AGENT_LOST, "agent", "an agent that runs until it asks for a reboot", loss.record.reason);
  const before = loss.losses === null ? null : loss.losses - 1;
  const recovery = afterLoss({ onLoginLost, violated: false, recoveries: before, lost: "agent" });
  if (recovery.kind === "stop") return { kind: "stop", reasons: [lost, ...recovery.reasons] };
  return recovery.delay === 0 ? { kind: "launch" } : { kind: "wait", delay: recovery.delay, reasons: [lost] };
}

/** Whether a launch was refused for the loss of the agent alone: then its policy is the released one. */
export function isAgentLossAlone(reasons: readonly Reason[]): boolean {
  return reasons.length > 0 && reasons.every(({ code }) => code === AGENT_LOST);
}
