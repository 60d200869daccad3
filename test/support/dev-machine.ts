import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect } from "vitest";
import { type CelRecord, type Enrolment, parseCel, parseEvidence } from "../../attest/index.ts";
import { type Anchors, parseAnchors, parseBundle, type Release, verifyRelease } from "../../policy/index.ts";
import { openStoreFile, Store, unsealRequest, verifySealedPackage } from "../../seal/index.ts";
import { TCG } from "../../vm-images/acceleration.ts";
import { Progress } from "../../vm-images/story/progress.ts";
import { type RunningMachine, startMachine } from "../../vm-images/story/running.ts";
import { prepare } from "../../vm-images/story/story.ts";
import { attest, endorse, enrol, type Verdict } from "../../vm-images/story/verifier.ts";
import { DevShell } from "./dev-shell.ts";

export const AGENT_UID = 990;
export const SHIM_UID = 991;
/** One that works and one in reserve. */
export const SHIMS = 2;

export const guestProgram = (name: string) => join(import.meta.dirname, name);

/** A `dev` machine of the demo that serves, with a root shell in it, its first report, and what an attacker may have of it. */
export interface DevMachine extends AsyncDisposable {
  readonly directory: string;
  readonly stage: Awaited<ReturnType<typeof prepare>>;
  readonly running: RunningMachine;
  readonly enrolment: Enrolment;
  readonly verdict: Verdict;
  readonly shell: DevShell;
  readonly release: Release;
  /** The agent's, of that report. */
  readonly agentLog: readonly CelRecord[];
  /** To the unsealer, as the launch made it. */
  readonly request: Uint8Array;
}

/** What describes a part of it gets: the machine is there once the tests run. */
export type Dev = () => DevMachine;

export async function openDevMachine(): Promise<DevMachine> {
  const directory = await mkdtemp(join(tmpdir(), "ironclaw-"));
  await using made = new AsyncDisposableStack();
  made.defer(() => rm(directory, { recursive: true, force: true }));
  const stage = await prepare(new Progress({ write: () => true }), directory, "dev");
  const { image, tpm, machine } = stage;
  const anchors = parseAnchors(machine.anchors);
  const release = await verifyRelease(machine.release, anchors.releaseRoot);
  const vm = join(directory, "vm");
  const running = await startMachine({
    ...{ image, contents: machine.contents, tpmDirectory: tpm.directory, directory: vm },
    acceleration: { ...TCG, processors: 2 }, // the one machine of the tests with more than one
  });
  made.defer(() => running.stop());
  expect(await running.launched()).toMatchObject({ state: "serving", reasons: [] });
  const enrolment = await enrol(machine.name, await endorse(tpm), running.control);
  const verdict = await attest(running.control, enrolment, machine);
  const agentLog = parseCel(parseEvidence(verdict.report).agentLog);
  const shell = await DevShell.open(await running.vm.port("ironclaw.shell"));
  made.defer(() => shell.close());
  const sealed = slotOf(stage.machine, "sealed");
  const request = await genuineRequest(join(vm, "store.img"), { sealed, anchors, release });
  const whole = made.move();
  return {
    ...{ directory, stage, running, enrolment, verdict, shell, release, agentLog, request },
    [Symbol.asyncDispose]: () => whole.disposeAsync(),
  };
}

/** What the machine's cabinet holds there. */
export function slotOf({ contents }: DevMachine["stage"]["machine"], name: "policy" | "sealed"): Uint8Array {
  const bytes = contents.get(name);
  if (bytes === undefined) throw new Error(`no slot ${name}`);
  return bytes;
}

interface Documents {
  readonly sealed: Uint8Array;
  readonly anchors: Anchors;
  readonly release: Release;
}

/** With the private area that it imported, which the machine's store holds and any disk thief has. */
async function genuineRequest(store: string, { sealed, anchors, release }: Documents): Promise<Uint8Array> {
  const pin = parseBundle(sealed).find(({ path }) => path === "/hsm-pin.json")?.bytes ?? new Uint8Array();
  const medium = openStoreFile(store);
  try {
    const { content } = Store.open(medium).store;
    const imported = content.entries.find(({ name }) => name === "hsm-pin")?.imported;
    if (imported == null) throw new Error("store: no imported private area of hsm-pin");
    return unsealRequest({ sealed: await verifySealedPackage(pin, anchors), imported, release, anchors });
  } finally {
    medium.close();
  }
}

/** Ids of the processes that run under this uid, the oldest first. */
export async function processesOf({ shell }: DevMachine, uid: number): Promise<string[]> {
  const list = await shell.output(
    "cd /proc; for p in [0-9]*; do echo \"$(sed -n 's/^Uid:.\\([0-9]*\\).*/\\1/p' $p/status) $p\"; done",
  );
  const owners = list.split("\n").map((line) => line.split(" "));
  const own = owners.flatMap(([owner, pid = ""]) => (Number(owner) === uid ? [pid] : []));
  return own.sort((a, b) => Number(a) - Number(b));
}
