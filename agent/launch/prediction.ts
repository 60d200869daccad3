import {
  type BootExtend,
  type BootPhase,
  foldBootExtends,
  type LaunchEvent,
  type LoaderBoot,
  type PcrBank,
  predictAgentPcr,
  predictBehindLoader,
  predictBootExtends,
} from "../../attest/index.ts";
import { AGENT_PCR, type Release, toHex } from "../../policy/index.ts";

/** What a release says about measurements: PCRs 4, 9, 11, 12 and the agent PCR in both banks, and the agent's events. */
export type ReleasePrediction = Pick<Release, "pcrs" | "events">;

export interface PredictedImage {
  readonly uki: Uint8Array;
  /** For one that is signed: PCR 7 of a machine whose firmware verifies it, where it is known. Verifiers then compare that one too. */
  readonly secureBoot: { readonly pcr7: Readonly<Record<PcrBank, string>> | null } | null;
  /** How far a system with systemd has come; none in our own images. */
  readonly phases?: readonly BootPhase[];
  /** A boot of the same machine, where a boot loader starts the image and not its firmware. */
  readonly loader?: LoaderBoot;
}

/** Every extend of its boot, in their order. */
export function bootExtends({ uki, secureBoot, phases = [], loader }: PredictedImage): readonly BootExtend[] {
  const kernel = { uki, secureBoot: secureBoot !== null, phases };
  return loader === undefined ? predictBootExtends(kernel) : predictBehindLoader(loader, kernel);
}

/** What the boot of an image leaves in PCRs 4, 9, 11 and 12, and in 7 if it is signed. */
export function predictBoot(image: PredictedImage): Release["pcrs"] {
  const boot = foldBootExtends(bootExtends(image));
  const { secureBoot } = image;
  if (secureBoot === null || secureBoot.pcr7 === null) return boot;
  const { sha256, sha384 } = secureBoot.pcr7;
  return { sha256: { ...boot.sha256, 7: sha256 }, sha384: { ...boot.sha384, 7: sha384 } };
}

/** Computed from the image's kernel file and the launch's events alone; nothing is booted. */
export function predictRelease(image: PredictedImage, events: readonly LaunchEvent[]): ReleasePrediction {
  const boot = predictBoot(image);
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
