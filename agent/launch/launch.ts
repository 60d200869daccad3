import { type LaunchEvent, type Reason, reasonFrom } from "../../attest/index.ts";
import { sha256 } from "../../policy/index.ts";
import { afterAgentLoss } from "../shims/agent-loss.ts";
import { type CheckedTokens, checkKeys } from "./check-keys.ts";
import { deliverCredentials } from "./deliver.ts";
import { begin, enter, type LaunchEnvironment, type LaunchRecord, Refusal } from "./environment.ts";
import type { LaunchInputs } from "./inputs.ts";
import { logIn } from "./login.ts";
import { measureEverything } from "./measure.ts";
import { type AttemptBell, attemptReasons, requireNoAttempts, ShimSet } from "./start-shims.ts";

export interface Launched extends CheckedTokens {
  /** Rung for each attempt that the kernel shows from now on. Whoever takes the shims over listens. */
  readonly bell: AttemptBell;
}

/**
 * Measure, unseal, log in, check the keys, cap. Returns the shims when serving may begin, and `record` says `capping` until it has; `null`
 * when the launch was refused: `record` says why. In both cases the agent PCR is capped when this returns. When even the cap fails the
 * spawner is asked to cap and reboot, and this rejects.
 */
export async function launch(environment: LaunchEnvironment, record: LaunchRecord): Promise<Launched | null> {
  const set = new ShimSet(environment);
  try {
    enter(record, { kind: "measuring" });
    const inputs = await measureEverything(environment, record);
    requireDue(environment, inputs);
    enter(record, { kind: "unsealing" });
    const shims = await deliverCredentials(environment, inputs, set, record);
    set.closeChannels();
    const held = await logIn(environment, inputs, shims, record);
    const checked = await checkKeys(environment, inputs, { shims, held }, record);
    requireNoAttempts(shims);
    enter(record, { kind: "capping" });
    await environment.log.measure(cap("serving"), () => begin(record, "opening"));
    return { ...checked, bell: set.bell };
  } catch (error) {
    await refuse(environment, record, withAttempts(set, reasonsOf(error, record)));
    await set.end(); // the libraries lose their connections, and with them everything they could be asked for
    return null;
  } finally {
    await environment.unsealer.end();
  }
}

/** After a lost agent no launch is made yet, or none at all: measured, and with nothing unsealed. */
function requireDue({ agentLoss }: LaunchEnvironment, { policy }: Pick<LaunchInputs, "policy">): void {
  const after = afterAgentLoss(agentLoss, policy);
  if (after.kind !== "launch") throw new Refusal(after.reasons);
}

function reasonsOf(error: unknown, { state }: LaunchRecord): readonly Reason[] {
  return error instanceof Refusal ? error.reasons : [reasonFrom(error, `launch (${state.kind})`)];
}

/** Whatever else ended the launch: what a library tried before it is told too. */
function withAttempts({ started }: ShimSet, reasons: readonly Reason[]): readonly Reason[] {
  const attempts = attemptReasons(started).filter(({ item }) => !reasons.some((told) => told.item === item));
  return [...reasons, ...attempts];
}

/** The last event of a launch: after it no signed release's PCR values can be reached in this boot. */
function cap(outcome: "serving" | "refused"): LaunchEvent {
  return { kind: "cap", name: outcome, sha256: sha256(new Uint8Array()) };
}

/** Close the agent PCR for this boot, then say why. A cap that fails leaves the sealed PIN within reach: reboot (I3). */
async function refuse(environment: LaunchEnvironment, record: LaunchRecord, reasons: readonly Reason[]): Promise<void> {
  try {
    await environment.log.measure(cap("refused"), () => {
      enter(record, { kind: "refused", reasons, answers: record.answers });
    });
  } catch (error) {
    await environment.spawner.capAndReboot("the cap of a refused launch failed");
    throw error;
  }
}
