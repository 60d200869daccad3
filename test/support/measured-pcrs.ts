import { parseCel, parseEvidence, replayCel } from "../../attest/index.ts";
import { preUnsealKinds, toHex } from "../../policy/index.ts";
import type { Verdict } from "../../vm-images/story/verifier.ts";

/** The values that the TPM quoted, and what the agent's own events come to before the unseal. */
export function measured({ result, report }: Verdict, bank: "sha256" | "sha384"): Record<string, string | undefined> {
  const launch = parseCel(parseEvidence(report).agentLog).filter(({ event }) =>
    (preUnsealKinds as readonly string[]).includes(event.kind),
  );
  const quoted = [4, 9, 11, 12].map((pcr) => [`${pcr}`, result.pcrs.find((entry) => entry.pcr === pcr)?.got]);
  return { ...Object.fromEntries(quoted), 13: toHex(replayCel(launch, bank)) };
}
