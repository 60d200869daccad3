import type { Tpm as Tss } from "node-tpm2-tss";
import { type Release, toHex } from "../../policy/index.ts";
import type { UnsealFindingCode } from "../../seal/advice.ts";
import type { UnsealQuestion } from "../../seal/diagnosis.ts";
import { provisionEpoch } from "../../seal/epoch.ts";
import type { SealedPackage } from "../../seal/package.ts";
import { provisionRecords } from "../../seal/tpm-records.ts";
import {
  type BenchKeys,
  boot,
  createBenchKeys,
  makeRelease,
  NOW,
  sealFor,
  snapshot,
  withTss,
} from "./sealing-bench.ts";
import { type SoftwareTpm, startSwtpm } from "./swtpm.ts";

/** Provisioned, with a package and a release for it; each condition starts from here. */
export interface Machine {
  readonly tpm: SoftwareTpm;
  readonly keys: BenchKeys;
  readonly sealed: SealedPackage;
  readonly release: Release;
  readonly fresh: Awaited<ReturnType<typeof snapshot>>;
}

export async function openMachine(): Promise<Machine & AsyncDisposable> {
  const tpm = await startSwtpm();
  const keys = await createBenchKeys();
  const release = await makeRelease(keys);
  const sealed = await withTss(tpm, async (tss) => {
    await provisionEpoch(tss, keys.root.spkiPem, release.delegation);
    await provisionRecords(tss);
    return sealFor(tss, keys);
  });
  const fresh = await snapshot(tpm);
  return {
    ...{ tpm, keys, sealed, release, fresh },
    [Symbol.asyncDispose]: async () => {
      await fresh.discard();
      await tpm.stop();
    },
  };
}

/** What differs from a machine that would unseal. */
export type Change = Partial<Omit<UnsealQuestion, "state" | "rootKeyPem">>;

/** One thing that stands in the way, or that does not, and what a person is told. */
export interface Condition {
  readonly what: string;
  /** All codes that come out, each once. */
  readonly codes: readonly UnsealFindingCode[];
  /** Parts of one finding. */
  readonly shows?: { readonly item?: RegExp; readonly expected?: RegExp; readonly got?: RegExp };
  /** Brings the booted machine into this condition. The TPM is the machine's, or the one that is returned. */
  readonly make: (machine: Machine) => Promise<Change & { readonly other?: SoftwareTpm }>;
}

/** A condition that commands to the machine's TPM make. */
export function onTpm(change: (tss: Tss, machine: Machine) => Promise<unknown>): Condition["make"] {
  return async (machine) => {
    await withTss(machine.tpm, (tss) => change(tss, machine));
    return {};
  };
}

/** The hexadecimal EK Name that the machine's store knows. */
export const known = ({ sealed }: Machine): string => toHex(sealed.ekName);

/** Boots the machine anew and brings it into a condition. */
export async function enter(
  machine: Machine,
  condition: Condition,
): Promise<{ readonly tpm: SoftwareTpm; readonly question: Omit<UnsealQuestion, "state"> } & AsyncDisposable> {
  const { fresh, keys, release, sealed } = machine;
  await fresh.restore();
  await boot(machine.tpm);
  const { other, ...change } = await condition.make(machine);
  return {
    tpm: other ?? machine.tpm,
    question: {
      ...{ rootKeyPem: keys.root.spkiPem, sealed, releases: [release], knownEkName: known(machine), now: NOW },
      ...change,
    },
    [Symbol.asyncDispose]: async () => other?.stop(),
  };
}
