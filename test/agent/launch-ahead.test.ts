import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type LaunchChecks, openLaunchChecks } from "../support/launch-checks.ts";
import { afresh, type BootOptions, type LaunchBench } from "../support/launch-fixture.ts";
import { TPM_CC } from "../support/tpm-bus.ts";

let checks: LaunchChecks;
let bench: LaunchBench;
beforeAll(async () => {
  checks = await openLaunchChecks();
  ({ bench } = checks);
  await (await checks.boot())[Symbol.asyncDispose](); // the TPM knows the machine from here on
});
afterAll(() => bench[Symbol.asyncDispose]());

const count = (client: "agent" | "unsealer", code: number) =>
  bench.bus.commands.filter((command) => command.client === client && command.code === code).length;
const comes = (client: "agent" | "unsealer", code: number) =>
  expect.poll(() => count(client, code), { timeout: 10_000 }).toBeGreaterThan(0);

/** Whoever is waited for here goes on only when the other has come so far: one after the other the launch would be refused. */
async function expectServing(options: BootOptions, machine = checks.provisioned): Promise<void> {
  await bench.forgetLogins();
  await using booted = await checks.boot(options, machine);
  expect(booted.record.state).toMatchObject({ kind: "serving" });
  await checks.expectClosed(machine);
}

describe("what a launch does at the same time", () => {
  test("I1: the TPM tells its state while files are copied, and what was copied is extended when all was", async () => {
    let extended = -1;
    await expectServing({
      spawner: (real) => ({
        prepareShim: async (id, files) => {
          const digests = await real.prepareShim(id, files);
          await comes("agent", TPM_CC.readPublic);
          extended = count("agent", TPM_CC.pcrExtend);
          return digests;
        },
      }),
    });
    expect(extended, "configuration, anchors, policy").toBe(3);
  });

  test("I2: a sealed credential is imported while files are copied, where the TPM would unseal it", async () => {
    const machine = afresh(checks.provisioned);
    const untilImported: BootOptions["spawner"] = (real) => ({
      prepareShim: async (id, files) => {
        await comes("agent", TPM_CC.import);
        return real.prepareShim(id, files);
      },
    });
    await expectServing({ spawner: untilImported }, machine);
  });

  test("I2: nothing is imported where the TPM would unseal under none of the releases", async () => {
    const late = Date.parse("2100-01-01T00:00:00Z");
    const machine = afresh(checks.provisioned);
    await using booted = await checks.boot({ now: late }, machine);
    expect(booted.commands.map(({ code }) => code)).not.toContain(TPM_CC.import);
    await checks.expectRefused(booted, machine);
  });

  test("I2 I4: the unsealer does what it can while the library is loaded, and asks for the PIN when that has ended", async () => {
    let unsealed = -1;
    await expectServing({
      onShimStep: async (step) => {
        if (step === "login") expect(count("unsealer", TPM_CC.unseal)).toBe(1);
        if (step !== "load") return;
        await comes("unsealer", TPM_CC.policyAuthorize);
        unsealed = count("unsealer", TPM_CC.unseal);
      },
    });
    expect(unsealed).toBe(0);
  });

  test("I3: a library that cannot be loaded ends the unsealer that waits, and nothing was unsealed", async () => {
    await bench.forgetLogins();
    await using booted = await checks.boot({ killShimAt: "load", onShimStep: untilLoaded });
    expect(booted.commands.map(({ code }) => code)).toContain(TPM_CC.load);
    expect(booted.commands.map(({ code }) => code)).not.toContain(TPM_CC.unseal);
    expect(booted.channelLeft()).toEqual(new Uint8Array());
    await checks.expectRefused(booted);
  });
});

async function untilLoaded(step: string): Promise<void> {
  if (step === "load") await comes("unsealer", TPM_CC.load);
}
