import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type LaunchChecks, openLaunchChecks } from "../support/launch-checks.ts";
import { afresh, type Boot, type Provisioned } from "../support/launch-fixture.ts";
import { type BusCommand, TPM_CC } from "../support/tpm-bus.ts";
import { casesOf, endsInTime } from "./extent.ts";
import { TPM_FAULTS, type TpmFault } from "./tpm-answers.ts";

const LONG = { timeout: 6 * 3_600_000 };

let checks: LaunchChecks;
beforeAll(async () => {
  checks = await openLaunchChecks();
});
afterAll(() => checks?.bench[Symbol.asyncDispose]());

/** How a launch may end, and what then holds (I3): it serves behind its cap, is refused behind one, or asks the spawner for one and ends. */
async function expectEnded(booted: Boot, machine: Provisioned, isUnlogged: boolean): Promise<void> {
  if (booted.record.state.kind === "serving") return checks.expectClosed(machine);
  // An event that is in the PCR, and of which nobody was told: a verifier sees a log that does not replay.
  if (isUnlogged && booted.record.state.kind === "refused") return checks.expectClosed(machine);
  if (booted.failure === null) return checks.expectRefused(booted, machine);
  expect(booted.failure).toMatchObject({ code: "ERR_TPM" });
  expect(booted.launched).toBeNull();
  expect(booted.capAsked).toEqual(["the cap of a refused launch failed"]);
  return checks.expectClosed(machine);
}

/** Before the TPM was asked to unseal nothing has come out, whatever else went on. */
function expectNothingReleased(booted: Boot, at: BusCommand, unseal: number): void {
  if (booted.record.state.kind === "serving" || at.index >= unseal) return;
  expect(booted.calls).not.toContain("login");
  expect(booted.channelLeft()).toEqual(new Uint8Array());
}

interface Start {
  /** A TPM that has never seen this machine, or one that has. */
  readonly machine: () => Provisioned;
  readonly some: number;
}

const STARTS: Readonly<Record<string, Start>> = {
  "a machine that its TPM knows": { machine: () => checks.provisioned, some: 8 },
  "a machine that is new to its TPM": {
    machine: () => {
      checks.bench.renewTpm();
      return afresh(checks.provisioned);
    },
    some: 4,
  },
};

describe.each(Object.entries(STARTS))("a launch of %s", (_, { machine, some }) => {
  async function tryFault(command: BusCommand, fault: TpmFault, unseal: number): Promise<void> {
    await checks.bench.forgetLogins();
    const provisioned = machine();
    {
      await using booted = await checks.boot(
        { fault: ({ index }) => (index === command.index ? fault : null) },
        provisioned,
      );
      await expectEnded(booted, provisioned, fault.obeyed && command.code === TPM_CC.pcrExtend);
      expectNothingReleased(booted, command, unseal);
      if (fault.kind === "again") expect(booted.record.state.kind).toBe("serving");
    }
    // A try that was cut off is not taken again without an operator; this is the one after his word.
    await checks.bench.forgetLogins();
    await using next = await checks.boot({}, provisioned);
    expect(next.record.state).toMatchObject({ kind: "serving" });
  }

  test(
    "I2 I3 I4: whatever one TPM command is answered, the PIN stays or is used behind the cap, and the next launch serves",
    LONG,
    async () => {
      await checks.bench.forgetLogins();
      await (await checks.boot())[Symbol.asyncDispose]();
      await checks.bench.forgetLogins();
      const provisioned = machine();
      let commands: readonly BusCommand[] = [];
      {
        await using clean = await checks.boot({}, provisioned);
        expect(clean.record.state.kind).toBe("serving");
        commands = clean.commands;
      }
      const unseal = commands.findIndex(({ code }) => code === TPM_CC.unseal);
      const cases = commands.flatMap((command) => TPM_FAULTS.map((fault) => ({ command, fault })));
      const found: string[] = [];
      for (const { command, fault } of casesOf(cases, some)) {
        const where = `${command.client} ${command.index} 0x${command.code.toString(16)} ${fault.name}`;
        await endsInTime(where, tryFault(command, fault, unseal)).catch((error: unknown) =>
          found.push(`${where}: ${error}`),
        );
      }
      expect(found).toEqual([]);
    },
  );
});
