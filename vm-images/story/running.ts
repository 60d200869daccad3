import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { encodeCabinet } from "../../policy/index.ts";
import type { Image } from "../build.ts";
import { type ControlClient, openControl } from "../control-client.ts";
import { ImageError } from "../errors.ts";
import { LineClient } from "../line-client.ts";
import { bootVm, type Vm } from "../qemu.ts";
import { startSwtpm } from "../swtpm.ts";
import type { CabinetContents } from "./tamper.ts";

const BOOT_TIMEOUT = 480_000;
const POLL = 500;
/** The guest answers `status` only once its agent runs; until then a request goes unanswered, and an early one may be lost. */
const FIRST_ANSWER_TIMEOUT = 3_000;

export interface LaunchOutcome {
  readonly state: string;
  readonly reasons: readonly unknown[];
  /** How long the launch stayed in each state, in milliseconds of the guest. */
  readonly phases: readonly { readonly phase: string; readonly ms: number }[];
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
  /** Resolves with the state in which the launch ended. */
  launched(): Promise<LaunchOutcome>;
  workload(uid: number): Promise<LineClient>;
  stop(): Promise<void>;
}

export interface RunOrder {
  readonly image: Image;
  readonly contents: CabinetContents;
  readonly tpmDirectory: string;
  /** Sockets and logs; its path must be short. */
  readonly directory: string;
  /** Another boot disk than the image's own. */
  readonly esp?: string;
  /** Another root disk. */
  readonly root?: string;
  /** Where the machine keeps its state from one boot to the next; default: disks of its own in `directory`. */
  readonly disks?: { readonly state: string; readonly store: string };
  /** Default 512. */
  readonly memoryMiB?: number;
  /** Further devices, as QEMU's `-device` takes them. */
  readonly extraDevices?: readonly string[];
}

/** Start a software TPM and a machine on it. The TPM's state is in `tpmDirectory`, which serves one machine at a time. */
export async function startMachine(order: RunOrder): Promise<RunningMachine> {
  const { image, directory } = order;
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const cabinet = join(directory, "cabinet.img");
  await writeFile(cabinet, encodeCabinet(order.contents), { mode: 0o600 });
  const tpmSocket = join(directory, "tpm.sock");
  const tpm = await startSwtpm({ directory: order.tpmDirectory, socket: tpmSocket });
  try {
    const vm = await bootVm({
      ...{ cabinet, tpmSocket, directory, ...order.disks },
      esp: order.esp ?? image.esp,
      root: order.root ?? image.root,
      variant: image.manifest.variant,
      ...(order.extraDevices === undefined ? {} : { extraDevices: order.extraDevices }),
      ...(order.memoryMiB === undefined ? {} : { memoryMiB: order.memoryMiB }),
    });
    const control = openControl({
      control: await vm.port("ironclaw.control"),
      report: await vm.port("ironclaw.report"),
    });
    const stop = async () => {
      control.close();
      await vm.stop();
      await tpm.stop();
    };
    return {
      ...{ vm, control, stop },
      files: [
        cabinet,
        vm.consoleLog,
        join(directory, "vars.fd"),
        order.disks?.state ?? join(directory, "state.img"),
        order.disks?.store ?? join(directory, "store.img"),
        join(order.tpmDirectory, "swtpm.log"),
        image.root,
        image.esp,
      ],
      launched: () => waitForLaunch(vm, control),
      workload: async (uid) => new LineClient(await vm.port(`workload.${uid}`), `workload ${uid}`),
      [Symbol.asyncDispose]: stop,
    };
  } catch (error) {
    await tpm.stop();
    throw error;
  }
}

async function waitForLaunch(vm: Vm, control: ControlClient): Promise<LaunchOutcome> {
  const deadline = performance.now() + BOOT_TIMEOUT;
  let ended = "";
  void vm.exited.then(({ code, stderr }) => {
    ended = `the machine ended (${code}) ${stderr}`.trim();
  });
  while (performance.now() < deadline && ended === "") {
    const answer = await control.status(FIRST_ANSWER_TIMEOUT).catch(() => null);
    const state = answer?.["state"];
    if (state === "serving" || state === "refused") {
      const reasons = answer?.["reasons"];
      return { state, reasons: Array.isArray(reasons) ? reasons : [], phases: phaseDurations(answer?.["phases"]) };
    }
    await sleep(POLL);
  }
  throw new ImageError(ended === "" ? "ERR_VM_TIMEOUT" : "ERR_VM_EXITED", "launch", {
    expected: `an answer within ${BOOT_TIMEOUT / 1000} s`,
    got: ended || "none",
    hint: `see ${vm.consoleLog}`,
  });
}

/** The agent says when it entered each state; the last one still lasts and has no duration. Malformed entries are left out. */
function phaseDurations(entered: unknown): LaunchOutcome["phases"] {
  const moments = (Array.isArray(entered) ? entered : []).flatMap((entry: unknown) =>
    typeof entry === "object" && entry !== null && "phase" in entry && "at" in entry && typeof entry.at === "number"
      ? [{ phase: String(entry.phase), at: entry.at }]
      : [],
  );
  return moments.slice(0, -1).map(({ phase, at }, index) => ({ phase, ms: (moments[index + 1]?.at ?? at) - at }));
}
