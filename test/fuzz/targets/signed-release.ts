import { parseEnvelope } from "../../../policy/envelope.ts";
import { keyIdOf } from "../../../policy/keys.ts";
import { parseRelease, sealPcrValues } from "../../../policy/release.ts";
import { measureDelegation, measurePolicy, releasePolicySteps } from "../../../policy/tpm-policy.ts";

/** All that `verifyRelease` reads and computes before the first signature: it is asynchronous, and a loop is not. */
export function run(bytes: Uint8Array): void {
  const release = parseRelease(parseEnvelope(bytes).payload);
  keyIdOf(release.releaseKey);
  measureDelegation(release.releaseKey);
  measurePolicy(releasePolicySteps(sealPcrValues(release)));
}
