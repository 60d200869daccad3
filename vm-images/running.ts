import { readFile } from "node:fs/promises";
import { dirname, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { printableText } from "../policy/index.ts";
import { type Acceleration, TCG } from "./acceleration.ts";
import { type ControlClient, openControl } from "./control-client.ts";
import { ImageError } from "./errors.ts";
import { LineClient } from "./line-client.ts";
import { isListening } from "./listening.ts";
import { bootVm, type Vm } from "./qemu.ts";
import { type Firmware, vmPaths } from "./qemu-args.ts";
import { startSwtpm } from "./swtpm.ts";
import type { ImageVariant } from "./variants.ts";

const BOOT_TIMEOUT = 480_000;
const POLL = 500;
/** The guest answers `status` only once its agent runs; until then a request goes unanswered, and an early one may be lost. */
const FIRST_ANSWER_TIMEOUT = 3_000;

export interface LaunchPhase {
  readonly phase: string;
  readonly ms: number;
}

export interface LaunchOutcome {
  readonly state: string;
  readonly reasons: readonly unknown[];
  /** How long the launch stayed in each state, in milliseconds of the guest. */
  readonly phases: readonly LaunchPhase[];
}

/** @throws ImageError ERR_VM_REFUSED with the agent's reasons, when a launch that had to serve was refused */
export function requireServing({ state, reasons }: LaunchOutcome): void {
  if (state === "serving") return;
  throw new ImageError("ERR_VM_REFUSED", "launch", { expected: "serving", got: `${state} ${JSON.stringify(reasons)}` });
}

export interface RunningMachine extends AsyncDisposable {
  readonly vm: Vm;
  readonly control: ControlClient;
  /** Files of this run that may have seen what the guest did. */
  readonly files: readonly string[];
  /** Resolves with the state in which the launch ended. @param onPhase told of each state of the launch that has ended */
  launched(onPhase?: (phase: LaunchPhase) => void): Promise<LaunchOutcome>;
  workload(uid: number): Promise<LineClient>;
  stop(): Promise<void>;
}

export interface MachineParts {
  /** The image's disks. */
  readonly esp: string;
  readonly root: string;
  readonly variant: ImageVariant;
  readonly cabinet: string;
  readonly tpmDirectory: string;
  /** Sockets and logs; its path must be short. */
  readonly directory: string;
  /** Where the machine keeps its state from one boot to the next; default: disks of its own in `directory`. */
  readonly disks?: { readonly state: string; readonly store: string };
  /** Further devices, as QEMU's `-device` takes them. */
  readonly extraDevices?: readonly string[];
  readonly memoryMiB?: number;
  readonly acceleration?: Acceleration;
  /** Default: what this machine has, without Secure Boot. */
  readonly firmware?: Firmware;
  /** Further virtio-serial ports. */
  readonly extraPorts?: readonly string[];
}

/** Start a software TPM and a machine on it. The TPM's state is in `tpmDirectory`, which serves one machine at a time. */
export async function bootMachine(parts: MachineParts): Promise<RunningMachine> {
  const { tpmDirectory, disks, acceleration = TCG, ...rest } = parts;
  const paths = vmPaths(resolve(parts.directory));
  await requireNoneRunning(paths.qmp);
  const tpm = await startSwtpm({ directory: tpmDirectory, socket: paths.tpm });
  try {
    const vm = await bootVm({ ...rest, ...disks, acceleration, tpmSocket: paths.tpm });
    const control = openControl({
      control: await vm.port("ironclaw.control"),
      report: await vm.port("ironclaw.report"),
    });
    const stop = async () => {
      control.close();
      await vm.stop();
      await tpm.stop();
    };
    const { state, store } = disks ?? paths;
    return {
      ...{ vm, control, stop },
      files: [
        ...[parts.cabinet, vm.consoleLog, paths.vars, state, store],
        ...[`${tpmDirectory}/swtpm.log`, parts.root, parts.esp],
      ],
      launched: (onPhase) => waitForLaunch(vm, control, onPhase),
      workload: async (uid) => new LineClient(await vm.port(`workload.${uid}`), `workload ${uid}`),
      [Symbol.asyncDispose]: stop,
    };
  } catch (error) {
    await tpm.stop();
    throw error;
  }
}

/** A second machine on the same files would take the first one's sockets and TPM from it. */
async function requireNoneRunning(qmp: string): Promise<void> {
  if (!(await isListening(qmp))) return;
  throw new ImageError("ERR_VM_START", `machine ${dirname(qmp)}`, {
    expected: "none running",
    got: "one that listens",
    hint: "end it first: a machine's folder is for one at a time",
  });
}

async function waitForLaunch(
  vm: Vm,
  control: ControlClient,
  onPhase: (phase: LaunchPhase) => void = () => {},
): Promise<LaunchOutcome> {
  const deadline = performance.now() + BOOT_TIMEOUT;
  let ended = "";
  void vm.exited.then(({ code, stderr }) => {
    ended = `the machine ended (${code}) ${stderr}`.trim();
  });
  let told = 0;
  while (performance.now() < deadline && ended === "") {
    const answer = await control.status(FIRST_ANSWER_TIMEOUT).catch(() => null);
    const state = answer?.["state"];
    const phases = phaseDurations(answer?.["phases"]);
    for (const phase of phases.slice(told)) onPhase(phase);
    told = Math.max(told, phases.length);
    if (state === "serving" || state === "refused") {
      const reasons = answer?.["reasons"];
      return { state, reasons: Array.isArray(reasons) ? reasons : [], phases };
    }
    await sleep(POLL);
  }
  throw new ImageError(ended === "" ? "ERR_VM_TIMEOUT" : "ERR_VM_EXITED", "launch", {
    expected: `an answer within ${BOOT_TIMEOUT / 1000} s`,
    got: `${ended || "none"}; on its console: ${await lastWords(vm.consoleLog)}`,
    hint: `see ${vm.consoleLog}`,
  });
}

/** A panic's reason is some twenty lines above its end. What a guest wrote is printed as such: no control characters. */
async function lastWords(consoleLog: string): Promise<string> {
  const lines = (await readFile(consoleLog, "latin1").catch(() => "")).split(/[\r\n]+/).filter((line) => line !== "");
  const told = [...lines.filter((line) => /Oops|BUG|panic/.test(line)).slice(0, 2), ...lines.slice(-2)];
  return told.length === 0 ? "nothing" : told.map((line) => printableText(line.slice(0, 160))).join(" | ");
}

/** The agent says when it entered each state; the last one still lasts and has no duration. Malformed entries are left out. */
function phaseDurations(entered: unknown): readonly LaunchPhase[] {
  const moments = (Array.isArray(entered) ? entered : []).flatMap((entry: unknown) =>
    typeof entry === "object" && entry !== null && "phase" in entry && "at" in entry && typeof entry.at === "number"
      ? [{ phase: String(entry.phase), at: entry.at }]
      : [],
  );
  return moments.slice(0, -1).map(({ phase, at }, index) => ({ phase, ms: (moments[index + 1]?.at ?? at) - at }));
}
