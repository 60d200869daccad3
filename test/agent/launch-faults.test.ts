import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { readAnchor } from "../../seal/tpm-records.ts";
import { type LaunchChecks, openLaunchChecks, programsWith, reasonOf, reasonsOf } from "../support/launch-checks.ts";
import {
  afresh,
  type BootOptions,
  type LaunchBench,
  type Provisioned,
  type SpawnerStep,
} from "../support/launch-fixture.ts";
import { type BusCommand, type BusFault, TPM_CC } from "../support/tpm-bus.ts";

/** What leaves something behind in the TPM: whether it was done or not, nobody was told. */
const CHANGES: ReadonlySet<number> = new Set([
  ...[TPM_CC.nvDefineSpace, TPM_CC.nvIncrement, TPM_CC.nvWrite],
  ...[TPM_CC.loadExternal, TPM_CC.startAuthSession, TPM_CC.import],
]);
/** Takes one packet, in a script that stands for the unsealer. */
const HEAR = "head -c1 >/dev/null";
const SWEEP = { timeout: 240_000 };

let checks: LaunchChecks;
let bench: LaunchBench;
let provisioned: Provisioned;
beforeAll(async () => {
  checks = await openLaunchChecks();
  ({ bench, provisioned } = checks);
});
// A try that a fault cut off is not taken again; here each launch stands for itself.
beforeEach(() => bench.forgetLogins());
afterAll(() => bench[Symbol.asyncDispose]());

const boot: LaunchChecks["boot"] = (...args) => checks.boot(...args);
const expectClosed: LaunchChecks["expectClosed"] = (...args) => checks.expectClosed(...args);
const expectRefused: LaunchChecks["expectRefused"] = (...args) => checks.expectRefused(...args);

/** Fails a command that is known by how many of its kind its client has sent before: agent and unsealer ask at the same time, one now and then before the other. */
function at(step: BusCommand, clean: readonly BusCommand[], fault: BusFault) {
  const isLike = ({ client, code }: BusCommand) => client === step.client && code === step.code;
  let before = clean.filter((command) => isLike(command) && command.index < step.index).length;
  return (command: BusCommand): BusFault => (isLike(command) && before-- === 0 ? fault : null);
}

describe("a fault at an extend of a launch whose machine is known to the TPM", () => {
  test("I3: an extend that was done but not answered ends in refused and capped", SWEEP, async () => {
    await (await boot())[Symbol.asyncDispose](); // the first one on this TPM takes more commands
    await bench.forgetLogins();
    await using clean = await boot();
    const extends_ = clean.commands.filter(({ code }) => code === TPM_CC.pcrExtend);
    for (const step of [0, 3, provisioned.events.length - 1, -4, -3, -1].map((index) => extends_.at(index))) {
      if (step === undefined) throw new Error("fewer extends");
      await bench.forgetLogins();
      await using booted = await boot({ fault: at(step, clean.commands, "lose") });
      expect(booted.record.state.kind).toBe("refused");
      await expectClosed();
    }
  });
});

describe("a fault during the first launch on a TPM", () => {
  const firstBoot = async (options: BootOptions = {}) => {
    bench.renewTpm();
    const machine = afresh(provisioned);
    return { machine, booted: await boot(options, machine) };
  };
  const clean = async () => {
    const { booted } = await firstBoot();
    await using _ = booted;
    expect(booted.record.state.kind).toBe("serving");
    const last = booted.commands.findLastIndex(({ code }) => code === TPM_CC.nvSetBits);
    const imports = booted.commands.findIndex(({ code }) => code === TPM_CC.import);
    // From opening the EK to closing its session, around the import itself.
    const importing = booted.commands.slice(imports - 5, imports + 2);
    return { commands: booted.commands, provisioning: booted.commands.slice(0, last + 1), importing };
  };

  test.each(["refuse", "lose"] as const)(
    "I3 I11: provisioning and import that break off at any command that changes the TPM (%s) refuse, and the next boot completes them",
    SWEEP,
    async (fault) => {
      const { commands, provisioning, importing } = await clean();
      expect(provisioning.filter(({ code }) => code === TPM_CC.nvDefineSpace)).toHaveLength(4);
      for (const step of [...provisioning, ...importing].filter(({ code }) => CHANGES.has(code))) {
        const { booted, machine } = await firstBoot({ fault: at(step, commands, fault) });
        await using _ = booted;
        expect(booted.record.state.kind).toBe("refused");
        await using next = await boot({}, machine);
        expect([step, next.record.state]).toEqual([step, expect.objectContaining({ kind: "serving" })]);
        // Nothing is left out: a machine with a state volume would need this one too.
        expect((await readAnchor(next.tpm.tss)).kind).toBe("none");
      }
    },
  );
});

describe("a fault outside the TPM", () => {
  test.each(["prepareShim", "startShim"] satisfies SpawnerStep[])(
    "I3: a spawner that refuses %s ends the launch refused and capped",
    async (step) => {
      const refusal = () => Promise.reject(new Error(`${step}: no`));
      await using booted = await boot({ spawner: () => ({ [step]: refusal }) });
      await expectRefused(booted);
      expect(reasonsOf(booted).map(({ got }) => got)).toContain(`${step}: no`);
    },
  );

  test("I3: a spawner that reports too few digests ends the launch refused and capped", async () => {
    const short: BootOptions["spawner"] = (real) => ({
      prepareShim: async (id, files) => (await real.prepareShim(id, files)).slice(1),
    });
    await using booted = await boot({ spawner: short });
    await expectRefused(booted);
    expect(reasonOf(booted, "ERR_SPAWNER")).toBeDefined();
  });

  test.each(["open", "probe", "load", "login", "keys", "sign", "arm"] as const)(
    "I3: a shim that is killed before %s ends the launch refused and capped",
    async (step) => {
      await using booted = await boot({ killShimAt: step });
      await expectRefused(booted);
      expect(reasonsOf(booted).map(({ code }) => code)).toEqual(["ERR_SHIM_GONE"]);
      // READY may have been sent before the kill; the first request then finds nobody.
      expect(step === "open" ? ["open", "probe"] : [step]).toContain(booted.calls.at(-1));
    },
  );

  test.each([
    ["is missing", null],
    ["prints garbage", `${HEAR}; echo '{"kind":"relea'`],
    ["prints nothing", `${HEAR}; exit 0`],
    ["does not hear its request", "exit 0"],
    ["is killed", `${HEAR}; kill -9 $$`],
    ["waits, and is killed when it is told to ask", `${HEAR}; echo '{"kind":"waiting"}'; ${HEAR}; kill -9 $$`],
    ["waits, and then waits again", `${HEAR}; echo '{"kind":"waiting"}'; ${HEAR}; echo '{"kind":"waiting"}'; ${HEAR}`],
    ["prints without end", `${HEAR}; exec cat /dev/zero`],
  ])("I3: an unsealer that %s ends the launch refused and capped", async (name, script) => {
    await using booted = await boot({ programs: programsWith(bench, name, script) });
    await expectRefused(booted);
    expect(reasonsOf(booted).map(({ code }) => code)).toEqual(["ERR_UNSEALER"]);
    expect(booted.calls).not.toContain("login");
  });

  test("I3: an unsealer that says released and wrote no PIN ends the launch refused and capped", async () => {
    const programs = programsWith(bench, "lies", `${HEAR}; echo '{"kind":"released","ms":1}'`);
    await using booted = await boot({ programs });
    await expectRefused(booted);
    expect(reasonsOf(booted).map(({ code }) => code)).toEqual(["pin-not-tried"]);
  });

  test(
    "I3: when the TPM fails the cap too, the spawner is told to cap and reboot, and the launch rejects",
    SWEEP,
    async () => {
      await using clean = await boot();
      for (const from of [0, 3, 18, clean.commands.length - 1]) {
        await bench.forgetLogins();
        await using booted = await boot({
          fault: ({ client, index }) => (client === "agent" && index >= from ? "refuse" : null),
        });
        expect(booted.failure).toMatchObject({ code: "ERR_TPM" });
        expect(booted.launched).toBeNull();
        expect(booted.record.state.kind).not.toMatch(/serving|refused/);
        expect(booted.capAsked).toEqual(["the cap of a refused launch failed"]);
        await expectClosed();
      }
    },
  );
});
