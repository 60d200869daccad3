import { type BootedKernel, type LaunchEvent, predictAgentPcr, predictBootPcrs } from "../../attest/index.ts";
import { AGENT_PCR, type Release, toHex } from "../../policy/index.ts";

/** What a release says about measurements: PCRs 4, 9, 11, 12 and the agent PCR in both banks, and the agent's events. */
export type ReleasePrediction = Pick<Release, "pcrs" | "events">;

/** Computed from the kernel file and the launch's events alone; nothing is booted. */
export function predictRelease(kernel: BootedKernel, events: readonly LaunchEvent[]): ReleasePrediction {
  const boot = predictBootPcrs(kernel);
  const agent = predictAgentPcr(events);
  return {
    pcrs: {
      sha256: { ...boot.sha256, [AGENT_PCR]: toHex(agent.sha256) },
      sha384: { ...boot.sha384, [AGENT_PCR]: toHex(agent.sha384) },
    },
    events: events.map(({ kind, name, sha256 }) => ({
      kind,
      name,
      sha256: toHex(sha256),
    })) as ReleasePrediction["events"], // a launch's events before the unseal have these kinds only
  };
}
