import { delegatedPolicies } from "../../../policy/delegation.ts";
import { parseEnvelope } from "../../../policy/envelope.ts";
import { keyIdOf } from "../../../policy/keys.ts";
import { bootPcrValues, parseRelease, sealPcrValues } from "../../../policy/release.ts";
import { raiseSteps, releaseSteps } from "../../../policy/sealing-policy.ts";
import { measurePolicy } from "../../../policy/tpm-policy.ts";
import { rootKeyPem } from "../keys.ts";

/** All that `verifyRelease` reads and computes before a signature: it is asynchronous, and a loop is not. */
export function run(bytes: Uint8Array): void {
  const release = parseRelease(parseEnvelope(bytes).payload);
  const { releaseKey, epoch, delegation } = release;
  keyIdOf(releaseKey);
  const credentials = delegation.credentials.map(({ name }) => name);
  const delegated = delegatedPolicies(rootKeyPem, releaseKey, { lastEpoch: delegation.lastEpoch, credentials });
  const own = [
    releaseSteps(rootKeyPem, sealPcrValues(release), epoch),
    raiseSteps(rootKeyPem, bootPcrValues(release), epoch),
  ];
  for (const steps of [...delegated.map((policy) => policy.steps), ...own]) measurePolicy(steps);
}
