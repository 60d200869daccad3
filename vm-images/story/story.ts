import { cp } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import type { Enrolment } from "../../attest/index.ts";
import { buildImage, type Image } from "../build.ts";
import { makeDirectory } from "../make-directory.ts";
import { withScratch } from "../scratch.ts";
import { makeTpmState, type TpmState } from "../swtpm.ts";
import type { ImageVariant } from "../variants.ts";
import { INTRUDER_UID } from "./demo-policy.ts";
import { type Machine, type MachineDifference, provisionMachine } from "./machine.ts";
import { countPinCopies, type PinCopies } from "./pin-copies.ts";
import type { Progress, StepTiming } from "./progress.ts";
import { type LaunchOutcome, type RunningMachine, type RunOrder, requireServing, startMachine } from "./running.ts";
import { type ScopedUse, useScopes } from "./scoped-use.ts";
import { addPolicyRule, type CabinetContents, changeLibraryByte } from "./tamper.ts";
import { addInitrdFile } from "./tampered-image.ts";
import { attest, endorse, enrol, type Verdict } from "./verifier.ts";

const project = resolve(import.meta.dirname, "../..");
const BUILD = join(project, "build");

export const PLACES = {
  cache: join(BUILD, "cache"),
  image: (variant: string) => join(BUILD, "image", variant),
  keys: join(BUILD, "keys"),
  ca: join(BUILD, "tpm-ca"),
} as const;

export interface TamperedBoot {
  readonly what: string;
  readonly unsealed: boolean;
  /** The TPM's own answer to TPM2_Unseal. */
  readonly tpmRc: string;
  readonly answers: readonly { readonly command: string; readonly rc: string; readonly text: string }[];
  readonly verdict: string;
  readonly reasons: readonly {
    readonly code: string;
    readonly item: string;
    readonly expected: string;
    readonly got: string;
  }[];
  readonly bootPcrsEqual: boolean;
}

export interface StoryResult {
  readonly ok: boolean;
  readonly timings: readonly StepTiming[];
  /** The clean launch, state by state. */
  readonly launch: LaunchOutcome["phases"];
  readonly image: Image["manifest"];
  readonly verdict: string;
  readonly assurance: string;
  readonly predictionHolds: { readonly sha256: boolean; readonly sha384: boolean };
  readonly measured: Verdict["result"]["events"];
  readonly pcrs: Verdict["result"]["pcrs"];
  readonly findings: Verdict["result"]["findings"];
  readonly notProven: Verdict["result"]["notProven"];
  readonly signature: { readonly verified: boolean; readonly nonce: string; readonly by: ScopedUse["signatures"] };
  readonly deniedCaller: boolean;
  readonly denial: ScopedUse["deniedCaller"];
  readonly pinCopies: PinCopies;
  readonly tampered: readonly TamperedBoot[];
  readonly cleanAgain: { readonly unsealed: boolean; readonly verdict: string };
}

/** Everything `npm start` shows, on files of its own that are gone afterwards. */
export function tellStory(progress: Progress): Promise<StoryResult> {
  return withScratch("ironclaw-", (directory) => tell(progress, directory));
}

interface Stage {
  readonly progress: Progress;
  readonly directory: string;
  readonly image: Image;
  readonly tpm: TpmState;
  readonly machine: Machine;
  /** What the machine writes from one boot to the next. */
  readonly disks: MachineDisks;
}

type MachineDisks = NonNullable<RunOrder["disks"]>;

/** A TPM's state and the disks that go with it: one machine at a time may run on them. */
interface MachineState {
  readonly directory: string;
  readonly disks: MachineDisks;
}

function disksIn(directory: string): MachineDisks {
  return { state: join(directory, "state.img"), store: join(directory, "store.img") };
}

async function tell(progress: Progress, directory: string): Promise<StoryResult> {
  const stage = await prepare(progress, directory, "demo");
  const clean = await progress.step("clean boot", () => cleanBoot(stage));
  // The TPM that saw the clean boot is the TPM of the tampered ones; a copy of its state lets two of them run at a time.
  const twin = { directory: join(directory, "tpm-twin"), disks: disksIn(join(directory, "twin-disks")) };
  await cp(stage.tpm.directory, twin.directory, { recursive: true });
  await cp(dirname(stage.disks.state), dirname(twin.disks.state), { recursive: true });
  const own = { directory: stage.tpm.directory, disks: stage.disks };
  const { library, policy, initrd } = tamperings(stage, clean.enrolment);
  const tampered = await Promise.all([lane([() => library(own), () => policy(own)]), lane([() => initrd(twin)])]);
  const cleanAgain = await progress.step("clean boot again, same TPM", () => bootAgain(stage, clean.enrolment));
  return summarise(stage, clean, tampered.flat(), cleanAgain);
}

async function lane<T>(acts: readonly (() => Promise<T>)[]): Promise<T[]> {
  const results: T[] = [];
  for (const act of acts) results.push(await act());
  return results;
}

/** Build the image, make the TPM, the token, the policy, the release and the sealed PIN: all before the first boot. */
export async function prepare(
  progress: Progress,
  directory: string,
  variant: ImageVariant,
  differs: MachineDifference = {},
): Promise<Stage> {
  const image = await progress.step(`${variant} image`, () =>
    buildImage({
      variant,
      outDirectory: PLACES.image(variant),
      cacheDirectory: PLACES.cache,
      onStep: (step) => progress.note(step),
    }),
  );
  const tpm = await progress.step("software TPM with EK certificates", () =>
    makeTpmState({ directory: join(directory, "tpm"), caDirectory: PLACES.ca }),
  );
  const machine = await progress.step("token, policy, release, sealed PIN (offline)", async () => {
    await makeDirectory(PLACES.keys, 0o700);
    await endorse(tpm); // whoever could swap the certificate would be sealed to: its chain comes first
    return provisionMachine({
      name: "demo-vm",
      directory: join(directory, "machine"),
      keyDirectory: PLACES.keys,
      cacheDirectory: PLACES.cache,
      ...{ image, differs },
      ekCertificate: tpm.ekCertificates.p384,
    });
  });
  const disks = disksIn(join(directory, "disks"));
  await makeDirectory(dirname(disks.state));
  return { progress, directory, image, tpm, machine, disks };
}

interface CleanBoot {
  readonly launch: LaunchOutcome;
  readonly enrolment: Enrolment;
  readonly verdict: Verdict;
  readonly verdict384: Verdict;
  readonly use: ScopedUse;
  readonly pinCopies: PinCopies;
}

async function cleanBoot({ progress, directory, image, tpm, machine, disks }: Stage): Promise<CleanBoot> {
  const running = await startMachine({
    image,
    contents: machine.contents,
    tpmDirectory: tpm.directory,
    directory: join(directory, "clean"),
    disks,
  });
  try {
    const launch = await progress.step("boot, measure, unseal, log in", () => running.launched());
    requireServing(launch);
    const enrolment = await progress.step("enrol: AK bound to the certified EK", async () =>
      enrol(machine.name, await endorse(tpm), running.control),
    );
    const [verdict, verdict384] = await progress.step("verify the report from outside, both banks", async () => [
      await attest(running.control, enrolment, machine),
      await attest(running.control, enrolment, machine, "sha384"),
    ]);
    const use = await progress.step("sign through scoped sessions; a stranger is refused", () =>
      useScopes(running, machine.token),
    );
    const pinCopies = await progress.step("look for the PIN in all guest memory and files", () =>
      countPinCopies(running, machine.pin, directory),
    );
    return { launch, enrolment, verdict, verdict384, use, pinCopies };
  } finally {
    await running.stop();
  }
}

function tamperings(stage: Stage, enrolment: Enrolment) {
  const { directory, image, machine, progress } = stage;
  const boot = (what: string, short: string, contents: CabinetContents, state: MachineState, esp?: string) =>
    progress.step(`tampered: ${what}`, async () => {
      const { directory: tpmDirectory, disks } = state;
      const order = { image, contents, tpmDirectory, disks, directory: join(directory, short) };
      const running = await startMachine(esp === undefined ? order : { ...order, esp });
      return judgeTampered(what, running, stage, enrolment);
    });
  return {
    library: (tpm: MachineState) =>
      boot("one byte of the PKCS#11 library", "t1", changeLibraryByte(machine.library)(machine.contents), tpm),
    policy: (tpm: MachineState) =>
      boot("one rule added to the policy", "t2", addPolicyRule(INTRUDER_UID)(machine.contents), tpm),
    initrd: async (tpm: MachineState) => {
      const esp = join(directory, "tampered-esp.img");
      await addInitrdFile(image, PLACES.cache, esp);
      return boot("one file added to the initrd", "t3", machine.contents, tpm, esp);
    },
  };
}

async function judgeTampered(
  what: string,
  running: RunningMachine,
  { machine }: Stage,
  enrolment: Enrolment,
): Promise<TamperedBoot> {
  try {
    const launch = await running.launched();
    const { result, claims } = await attest(running.control, enrolment, machine);
    const answers = claims.asserted.unseal;
    const unseal = answers.find(({ command }) => command === "TPM2_Unseal");
    return {
      what,
      unsealed: launch.state === "serving",
      tpmRc: unseal?.rc ?? "not asked",
      answers,
      verdict: result.tier,
      reasons: result.findings.map(({ code, item, expected, got }) => ({ code, item, expected, got })),
      bootPcrsEqual: result.pcrs
        .filter(({ pcr, expected }) => pcr !== 13 && expected !== null)
        .every(({ expected, got }) => expected === got),
    };
  } finally {
    await running.stop();
  }
}

async function bootAgain(
  { directory, image, tpm, machine, disks }: Stage,
  enrolment: Enrolment,
): Promise<StoryResult["cleanAgain"]> {
  const running = await startMachine({
    image,
    contents: machine.contents,
    tpmDirectory: tpm.directory,
    directory: join(directory, "again"),
    disks,
  });
  try {
    const { state } = await running.launched();
    const { result } = await attest(running.control, enrolment, machine);
    return { unsealed: state === "serving", verdict: result.tier };
  } finally {
    await running.stop();
  }
}

function summarise(
  { progress, image, machine }: Stage,
  clean: CleanBoot,
  tampered: readonly TamperedBoot[],
  cleanAgain: StoryResult["cleanAgain"],
): StoryResult {
  const { verdict, verdict384, use, pinCopies } = clean;
  const predictionHolds = {
    sha256: predicted(verdict, machine, "sha256"),
    sha384: predicted(verdict384, machine, "sha384"),
  };
  const signed = use.signatures.every(({ verified }) => verified);
  const denial = use.deniedCaller;
  const denied = denial.denied && denial.auditSeq > 0 && denial.sameBytesSucceedFor > 0;
  const sealed = tampered.length === 3 && tampered.every(stayedSealed);
  const affirmed = [verdict.result.tier, verdict384.result.tier, cleanAgain.verdict].every(
    (tier) => tier === "affirming",
  );
  const hidden = pinCopies.memory === 0 && pinCopies.filesAndLogs === 0 && pinCopies.canary > 0;
  return {
    ok:
      affirmed &&
      predictionHolds.sha256 &&
      predictionHolds.sha384 &&
      signed &&
      denied &&
      hidden &&
      sealed &&
      cleanAgain.unsealed,
    timings: progress.timings,
    launch: clean.launch.phases,
    image: image.manifest,
    verdict: verdict.result.tier,
    assurance: verdict.result.assurance,
    predictionHolds,
    measured: verdict.result.events,
    pcrs: verdict.result.pcrs,
    findings: verdict.result.findings,
    notProven: verdict.result.notProven,
    signature: { verified: signed, nonce: use.nonce, by: use.signatures },
    deniedCaller: denied,
    denial,
    pinCopies,
    tampered,
    cleanAgain,
  };
}

/** Sealed, contraindicated, and refused by the TPM itself: its policy failure code, not a comparison in our code. */
function stayedSealed({ unsealed, tpmRc, verdict, reasons }: TamperedBoot): boolean {
  return (
    !unsealed &&
    /^0x[0-9a-f]{8}$/.test(tpmRc) &&
    tpmRc !== "0x00000000" &&
    verdict === "contraindicated" &&
    reasons.length > 0
  );
}

/** Boot PCRs 4, 9, 11 and 12: predicted before the first boot, equal to what the quote signed. */
function predicted({ result }: Verdict, { prediction }: Machine, bank: "sha256" | "sha384"): boolean {
  const values: Readonly<Record<string, string | undefined>> = prediction.pcrs[bank];
  return [4, 9, 11, 12].every(
    (pcr) => values[pcr] !== undefined && result.pcrs.find((entry) => entry.pcr === pcr)?.got === values[pcr],
  );
}
