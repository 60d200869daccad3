import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openStoreFile, readLostRecord, Store } from "../../seal/index.ts";
import { scanFiles } from "../../vm-images/pin-scan.ts";
import { countHalves } from "../../vm-images/story/pin-copies.ts";
import { Progress } from "../../vm-images/story/progress.ts";
import { type RunningMachine, startMachine } from "../../vm-images/story/running.ts";
import { prepare } from "../../vm-images/story/story.ts";
import { DevShell } from "../support/dev-shell.ts";
import type { ScanOrder, ScanResult } from "../support/guest-scan.ts";
import type { StrikeOrder } from "../support/guest-strike.ts";
import { counted, inAllEncodings, maskedNeedle, newCanary, nothing, pinNeedles } from "../support/pin-needles.ts";

// Boots of one `dev` machine, each struck in the middle of its log-in. Root of the guest stops the agent before it asks for the PIN, has a
// program lie in wait (support/guest-strike.ts), and lets it go on. The order matters: what hands the PIN to the token is written down in the
// TPM, and no later boot would ask for it again.

const directory = mkdtempSync(join(tmpdir(), "crash-"));
const program = (name: string) => join(import.meta.dirname, "../support", name);
const SHIM_UID = 991;

let stage: Awaited<ReturnType<typeof prepare>>;
beforeAll(async () => {
  stage = await prepare(new Progress({ write: () => true }), directory, "dev");
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

interface Struck {
  readonly running: RunningMachine;
  readonly shell: DevShell;
  readonly console: () => string;
  /** A value that lies in the guest's memory in every encoding. */
  readonly canary: string;
  readonly agent: number;
}

/** The machine before its agent has asked for anything, with the agent stopped. */
async function bootStopped(name: string): Promise<Struck> {
  const { image, machine, tpm, disks } = stage;
  const running = await startMachine({
    ...{ image, contents: machine.contents, tpmDirectory: tpm.directory, directory: join(directory, name), disks },
  });
  const console = () => readFileSync(running.vm.consoleLog, "latin1");
  // the guest's memory stays as it is when the spawner reboots
  await running.vm.qmp("set-action", { shutdown: "pause" });
  const shell = await DevShell.open(await running.vm.port("ironclaw.shell"), 50);
  const agent = Number(/agent started, pid (\d+)/.exec(console())?.[1]);
  await shell.output(`kill -STOP ${agent}`);
  expect(await shell.output(`sed -n 's/^State:.\\(.\\).*/\\1/p' /proc/${agent}/status`)).toBe("T");
  const canary = newCanary(stage.machine.pin.length);
  await shell.put("/tmp/planted", inAllEncodings(canary));
  return { running, shell, console, canary, agent };
}

async function strike({ shell, agent }: Struck, how: Pick<StrikeOrder, "holder" | "victim">): Promise<unknown> {
  const [needle] = pinNeedles(stage.machine.pin);
  if (needle === undefined) throw new Error("no needle");
  return shell.program(program("guest-strike.ts"), { ...how, agent, needle } satisfies StrikeOrder);
}

/** No copy in all of the guest's memory, which holds the canary in every encoding, and in no disk and no log. */
async function expectNoPin({ running, canary }: Struck): Promise<void> {
  const dump = join(directory, "memory.dump");
  await running.vm.dumpMemory(dump);
  const pin = Buffer.from(stage.machine.pin).toString("latin1");
  const [found] = await scanFiles([dump], canary);
  expect([found?.utf8, found?.utf16le, found?.utf16be].map((count) => (count ?? 0) > 0)).toEqual([true, true, true]);
  expect(await countHalves([dump], pin)).toBe(0);
  expect(await countHalves(running.files, pin)).toBe(0);
  rmSync(dump);
}

/** The same as root in the guest finds it, file by file: console, kernel log and audit log are readable there. */
async function expectNoPinInside({ shell, canary }: Struck): Promise<void> {
  const needles = pinNeedles(stage.machine.pin);
  await shell.output("dmesg >/tmp/kernel-log; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline >/tmp/arguments; true");
  const order: ScanOrder = {
    needles: [...needles, maskedNeedle("canary", Buffer.from(canary))],
    places: ["/run", "/tmp", "/etc", "/var", await shell.output("readlink /run/ironclaw/cabinet")],
  };
  const { processes, files } = (await shell.program(program("guest-scan.ts"), order)) as ScanResult;
  const names = needles.map(({ name }) => name);
  for (const found of [...processes, ...files]) expect(counted(found, names)).toEqual(names.map(() => nothing));
  expect(processes.some(({ uid }) => uid === SHIM_UID)).toBe(false);
  const planted = files.filter(({ counts }) => (counts["canary"] ?? nothing).utf8 > 0);
  expect(planted.map(({ path }) => path)).toEqual(["/tmp/planted"]);
  expect(files.map(({ path }) => path)).toContain("/run/ironclaw/state/audit/0000000000000001.log");
}

describe("a machine that is struck in the middle of its log-in", () => {
  it("I4 I11: whose unsealer is killed with the PIN in hand is refused, and holds no copy anywhere", async () => {
    const struck = await bootStopped("unsealer");
    try {
      expect(await strike(struck, { holder: "unsealer", victim: "unsealer" })).toEqual({ struck: 1 });
      expect(struck.console()).toContain("strike: the unsealer holds it");
      const { state, phases } = await struck.running.launched();
      expect(state).toBe("refused");
      expect(phases.map(({ phase }) => phase)).not.toContain("logging-in");
      await expectNoPinInside(struck);
      await expectNoPin(struck);
    } finally {
      await struck.running.stop();
    }
  });

  it("I3 I4 I11: whose agent is killed while the unsealer holds the PIN is capped, notes that, and holds no copy anywhere", async () => {
    const struck = await bootStopped("agent");
    try {
      strike(struck, { holder: "unsealer", victim: "agent" }).catch(() => undefined); // it ends with all the others
      await expect.poll(struck.console, { timeout: 300_000 }).toMatch(/agent PCR capped, rebooting/);
      expect(struck.console()).toContain("strike: the unsealer holds it");
      await expect.poll(() => lossIn(stage.disks.store), { timeout: 60_000 }).toMatchObject({ cause: "lost" });
      await expectNoPin(struck);
    } finally {
      await struck.running.stop();
    }
  });

  it("I4 I11: whose shim is killed with the PIN in its memory is refused, has counted the agent before, and holds no copy anywhere", async () => {
    const struck = await bootStopped("shim");
    try {
      expect(await strike(struck, { holder: "shim", victim: "shim" })).toEqual({ struck: 1 });
      expect(struck.console()).toContain("strike: the shim holds it");
      const { state, phases } = await struck.running.launched();
      expect([state, phases.at(-1)?.phase]).toEqual(["refused", "logging-in"]);
      await expectNoPinInside(struck);
      await expectNoPin(struck);
      const { store } = Store.open(openStoreFile(stage.disks.store));
      expect([store.content.recoveries, lossIn(stage.disks.store)]).toEqual([1, null]);
    } finally {
      await struck.running.stop();
    }
  });
});

function lossIn(path: string) {
  const medium = openStoreFile(path);
  try {
    return readLostRecord(medium);
  } finally {
    medium.close();
  }
}
