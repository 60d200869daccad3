import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { buildImage, type Image } from "../../vm-images/build.ts";
import { DEFAULT_RECIPE, RECIPE_NAMES } from "../../vm-images/recipes.ts";
import { type Machine, type MachineDifference, provisionMachine } from "../../vm-images/story/machine.ts";
import { type LaunchOutcome, type RunningMachine, type RunOrder, startMachine } from "../../vm-images/story/running.ts";
import { PLACES } from "../../vm-images/story/story.ts";
import { endorse } from "../../vm-images/story/verifier.ts";
import { makeTpmState, type TpmState } from "../../vm-images/swtpm.ts";
import type { ImageVariant } from "../../vm-images/variants.ts";

// Machines that are not the demo's: other kernels, devices and policies. Each is measured and launched in full.

/** An image of this variant with this recipe: one of the project's, on the root that the default recipe's was built with, or one in a folder of its own. */
export async function imageOf(variant: ImageVariant, recipe: string): Promise<Image> {
  const options = { variant, cacheDirectory: PLACES.cache };
  if (!RECIPE_NAMES.includes(recipe)) return buildImage({ ...options, recipe, outDirectory: join(recipe, "out") });
  const base = await buildImage({ ...options, outDirectory: PLACES.image(variant) });
  if (recipe === DEFAULT_RECIPE) return base;
  return buildImage({ ...options, recipe, base, outDirectory: `${PLACES.image(variant)}-${recipe}` });
}

export const devImage = (recipe: string): Promise<Image> => imageOf("dev", recipe);

export async function makeTpm(directory: string): Promise<TpmState> {
  const tpm = await makeTpmState({ directory, caDirectory: PLACES.ca });
  await endorse(tpm);
  return tpm;
}

export interface Provisioned {
  readonly image: Image;
  readonly tpm: TpmState;
  readonly machine: Machine;
  readonly directory: string;
}

/** @param directory made; holds what the machine writes */
export async function provision(
  image: Image,
  tpm: TpmState,
  directory: string,
  differs: MachineDifference,
): Promise<Provisioned> {
  await mkdir(join(directory, "disks"), { recursive: true });
  const machine = await provisionMachine({
    ...{ name: "vm-test", image, differs, directory: join(directory, "machine") },
    ...{ keyDirectory: PLACES.keys, cacheDirectory: PLACES.cache, ekCertificate: tpm.ekCertificates.p384 },
  });
  return { image, tpm, machine, directory };
}

export interface Launched {
  readonly running: RunningMachine;
  readonly launch: LaunchOutcome;
}

/** What a boot has that another of the same machine may not have. */
type Hardware = Pick<RunOrder, "extraDevices" | "memoryMiB" | "acceleration">;

/** One boot; the TPM and the disks go on from one to the next. */
export async function startProvisioned(
  { image, tpm, machine, directory }: Provisioned,
  how: Hardware,
): Promise<Launched> {
  const disk = (name: string) => join(directory, "disks", name);
  const running = await startMachine({
    ...{ image, contents: machine.contents, tpmDirectory: tpm.directory, directory: join(directory, "vm") },
    ...{ disks: { state: disk("state.img"), store: disk("store.img") }, ...how },
  });
  try {
    return { running, launch: await running.launched() };
  } catch (error) {
    await running.stop();
    throw error;
  }
}

export async function bootProvisioned<T>(
  machine: Provisioned,
  how: Hardware,
  use: (launched: Launched) => Promise<T>,
): Promise<T> {
  const launched = await startProvisioned(machine, how);
  try {
    return await use(launched);
  } finally {
    await launched.running.stop();
  }
}

export function codesOf({ reasons }: Pick<LaunchOutcome, "reasons">): readonly string[] {
  return reasons.map((entry) => (entry as { readonly code: string }).code); // as the agent writes them
}
