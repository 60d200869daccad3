import { chmodSync, copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { inspect } from "node:util";
import { expect } from "vitest";
import { predictAgentPcr, type Reason } from "../../attest/index.ts";
import { toBase64, toHex, utf8 } from "../../policy/index.ts";
import {
  type BenchOptions,
  type Boot,
  type BootOptions,
  eventsOf,
  LAUNCH_PIN,
  type LaunchBench,
  openLaunchBench,
  type Provisioned,
  withinReach,
} from "./launch-fixture.ts";

/** The TPM's own refusal: PCR values that are not the approved ones, then a policy that does not hold. */
export const REFUSED_BY_TPM = [
  expect.objectContaining({ command: "TPM2_PolicyPCR", rc: "0x000001c4" }),
  expect.objectContaining({ command: "TPM2_Unseal", rc: "0x0000099d" }),
];

/** A bench with one machine on it, and what must hold after every launch. */
export interface LaunchChecks {
  readonly bench: LaunchBench;
  readonly provisioned: Provisioned;
  /** One launch. Whatever else it shows, nothing that it leaves behind may hold the PIN (I4). */
  boot(options?: BootOptions, machine?: Provisioned): Promise<Boot>;
  /** Nobody can reach a released value from here, in either bank, and the TPM says no to the real unsealer (I3). */
  expectClosed(machine?: Provisioned): Promise<void>;
  /** Refused, and the agent PCR is the replay of a log that ends with the cap (I3). */
  expectRefused(booted: Boot, machine?: Provisioned): Promise<void>;
}

export async function openLaunchChecks(options: BenchOptions = {}): Promise<LaunchChecks> {
  const bench = await openLaunchBench(options);
  const provisioned = await bench.provision();
  const expectClosed = async (machine = provisioned) => {
    const present = await bench.agentPcr();
    for (const bank of ["sha256", "sha384"] as const) {
      expect(withinReach(present[bank], bank, machine.events)).toBe(false);
    }
    const { answer, received } = await bench.attack(machine);
    expect(answer).toEqual({ kind: "refused", answers: REFUSED_BY_TPM });
    expect(received).toEqual(new Uint8Array());
  };
  return {
    ...{ bench, provisioned, expectClosed },
    boot: async (options = {}, machine = provisioned) => {
      const booted = await bench.boot(machine, options);
      expectNoPin(booted);
      return booted;
    },
    expectRefused: async (booted, machine = provisioned) => {
      expect(booted.failure).toBeNull();
      expect(booted.launched).toBeNull();
      expect(booted.record.state.kind).toBe("refused");
      expect(reasonsOf(booted)).not.toEqual([]);
      const events = await booted.log.locked(async (records) => eventsOf(records));
      expect(events.at(-1)).toMatchObject({ kind: "cap", name: "refused" });
      const usedBefore = reasonOf(booted, "agent-pcr-used") !== undefined;
      if (!usedBefore) expect(await bench.agentPcr()).toEqual(predictAgentPcr(events));
      await expectClosed(machine);
    },
  };
}

function expectNoPin({ record, failure, launched }: Boot): void {
  const told = inspect({ record, failure, keys: launched?.keys }, { depth: 12, maxArrayLength: null });
  const pin = utf8(LAUNCH_PIN);
  for (const form of [LAUNCH_PIN, toHex(pin), toBase64(pin)]) expect(told).not.toContain(form);
}

export function reasonsOf({ record: { state } }: Boot): readonly Reason[] {
  return state.kind === "refused" ? state.reasons : [];
}

export function reasonOf(booted: Boot, code: string, item?: string): Reason | undefined {
  return reasonsOf(booted).find((found) => found.code === code && (item === undefined || found.item === item));
}

/** How often the TPM was given this command. */
export function asked(booted: Boot, code: number): number {
  return booted.commands.filter((command) => command.code === code).length;
}

/** A directory of programs with another unsealer: a shell script, or none. */
export function programsWith(bench: LaunchBench, name: string, script: string | null): string {
  const directory = join(bench.directory, `programs-${name.replace(/\W/g, "-")}`);
  mkdirSync(directory);
  for (const file of ["shim", "local.profile"]) copyFileSync(join(bench.programs, file), join(directory, file));
  const unsealer = join(directory, "unsealer");
  if (script !== null) {
    writeFileSync(unsealer, `#!/bin/sh\n${script}\n`);
    chmodSync(unsealer, 0o755);
  }
  return directory;
}
