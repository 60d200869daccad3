import { parseAnchors, parsePolicy, sha256 } from "../../policy/index.ts";
import type { BuiltImage } from "../../vm-images/built-image.ts";
import { parseConfig } from "../config.ts";
import { expectedLaunchEvents } from "../launch/expected-events.ts";
import { type PredictedImage, predictRelease, type ReleasePrediction } from "../launch/prediction.ts";

/** An image, or a system that the package was installed on. */
export type PredictedSystem = PredictedImage & Pick<BuiltImage, "config" | "shim">;

/** What a cabinet brings that is measured before anything in it is acted on. */
export interface MeasuredDocuments {
  readonly anchorsBytes: Uint8Array;
  readonly policyBytes: Uint8Array;
}

/**
 * The boot PCRs of an image and the agent PCR of these documents on it.
 * @throws PolicyError for documents that no launch would accept: they would be predicted all the same, and the launch refused
 */
export function predictImage(image: PredictedSystem, documents: MeasuredDocuments): ReleasePrediction {
  parseAnchors(documents.anchorsBytes);
  const launch = {
    ...documents,
    config: parseConfig(image.config),
    configBytes: image.config,
    policy: parsePolicy(documents.policyBytes),
  };
  return predictRelease(image, expectedLaunchEvents(launch, sha256(image.shim)));
}

/** One line for each PCR of each bank. */
export function renderPcrs(pcrs: ReleasePrediction["pcrs"]): string {
  const lines = Object.entries(pcrs).flatMap(([bank, values]) =>
    Object.entries(values).map(([index, value]) => `${bank} ${index.padStart(2)} ${value}`),
  );
  return lines.join("\n");
}
