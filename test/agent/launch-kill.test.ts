import { readlinkSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { launchEventDigests } from "../../attest/index.ts";
import { AGENT_PCR } from "../../policy/index.ts";
import { openTpm } from "../../seal/index.ts";
import { type LaunchChecks, openLaunchChecks } from "../support/launch-checks.ts";
import { type Boot, type BootOptions, capAsSpawner, type LaunchBench, withTpm } from "../support/launch-fixture.ts";
import { type PreparedUnseal, prepareUnseal, saveContexts, unsealFromContexts } from "../support/prepared-unseal.ts";
import { type Agent, openServiceBench, type ServiceBench } from "../support/service-fixture.ts";
import { NATIVE_DIRECTORY } from "../support/shim-fixture.ts";
import { TPM_CC } from "../support/tpm-bus.ts";

describe("the unsealer of an agent that is killed", () => {
  let service: ServiceBench;
  beforeAll(async () => {
    service = await openServiceBench();
    await (await service.start()).launched(); // the TPM knows the machine from here on
    await service.stopAll();
  });
  afterAll(() => service[Symbol.asyncDispose]());

  const AT: readonly (readonly [string, number, number])[] = [
    ["has no request yet", TPM_CC.pcrExtend, 1],
    ["is at its request", TPM_CC.load, 1],
    ["waits for the word", TPM_CC.policyAuthorize, 2],
  ];
  test.each(AT)("I3 I4: while it %s ends as well, and has unsealed nothing", async (_, code, turn) => {
    const { bus } = service.bench;
    let agent: Agent | null = null;
    let unsealer = -1;
    let seen = 0;
    agent = await service.start({
      fault: (command) => {
        if (command.client !== "agent" || command.code !== code || ++seen !== turn) return null;
        unsealer = agent?.processes().find((process) => process.command === "unsealer")?.pid ?? -1;
        agent?.kill();
        return null;
      },
    });
    expect(await agent.ended).toBe(10);
    expect(unsealer).toBeGreaterThan(0);
    await expect.poll(() => isRunning(unsealer), { timeout: 10_000 }).toBe(false);
    expect(bus.commands.map((command) => command.code)).not.toContain(TPM_CC.unseal);
    bus.arm();
    await bus.flushClient("agent");
    await service.expectClosed(agent);
    await agent.stop();
  });
});

/** A process that has ended has no executable, whether somebody has taken note of that or not. */
function isRunning(pid: number): boolean {
  try {
    return readlinkSync(`/proc/${pid}/exe`) !== "";
  } catch {
    return false;
  }
}

describe("what root prepared while the values were right", () => {
  let checks: LaunchChecks;
  let bench: LaunchBench;
  beforeAll(async () => {
    checks = await openLaunchChecks();
    ({ bench } = checks);
  });
  afterAll(() => bench[Symbol.asyncDispose]());

  const openAsRoot = () => openTpm({ tcti: bench.bus.tcti("other"), nativeDirectory: NATIVE_DIRECTORY });
  const provisioned = () => checks.provisioned;

  test("I3: would open the seal before the cap, so its refusals mean something", async () => {
    await (await checks.boot())[Symbol.asyncDispose]();
    await bench.powerOn();
    await using tpm = await openAsRoot();
    for (const event of provisioned().events) await tpm.pcrExtend(AGENT_PCR, launchEventDigests(event));
    expect(await (await prepareUnseal(tpm.tss, bench.keys, provisioned())).unseal()).toHaveLength(32);
    const saved = await saveContexts(tpm.tss, await prepareUnseal(tpm.tss, bench.keys, provisioned()));
    expect(await unsealFromContexts(tpm.tss, saved)).toHaveLength(32);
  });

  const lastWay: BootOptions["fault"] = ({ client, code }) =>
    client === "agent" && code === TPM_CC.pcrExtend ? "refuse" : null;
  const WAYS: readonly (readonly [string, BootOptions, string])[] = [
    ["that serves", {}, "serving"],
    ["whose token's keys are refused", { killShimAt: "keys" }, "refused"],
    ["whose cap the TPM refuses, so that the spawner caps", { fault: lastWay }, "logging-in"],
  ];

  /** Right before the unsealer's first command all values are right, and the TPM is root's as much as the agent's. */
  async function bootWhilePreparing(options: BootOptions, prepare: () => Promise<void>): Promise<Boot> {
    let prepared = false;
    const fault: BootOptions["fault"] = async (command) => {
      if (command.client === "unsealer" && !prepared) {
        prepared = true;
        await prepare();
      }
      return prepared ? ((await options.fault?.(command)) ?? null) : null;
    };
    await bench.forgetLogins();
    const booted = await checks.boot({ ...options, fault });
    await booted[Symbol.asyncDispose]();
    expect(prepared).toBe(true);
    return booted;
  }

  test.each(WAYS)("I3: a session and an object held open are of no use after a launch %s", async (_, options, end) => {
    await using tpm = await openAsRoot();
    const held: PreparedUnseal[] = [];
    const booted = await bootWhilePreparing(options, async () => {
      held.push(await prepareUnseal(tpm.tss, bench.keys, provisioned()));
    });
    expect(booted.record.state.kind).toBe(end);
    // PolicyPCR also notes the count of PCR changes: the session is void, whatever the values are now.
    await expect(held[0]?.unseal()).rejects.toMatchObject({ rc: 0x128 });
  });

  test.each(WAYS)("I3: and neither are their saved contexts after a launch %s", async (_, options, end) => {
    const tpm = await openAsRoot();
    let saved: readonly Uint8Array[] = [];
    const booted = await bootWhilePreparing(options, async () => {
      saved = await saveContexts(tpm.tss, await prepareUnseal(tpm.tss, bench.keys, provisioned()));
    });
    expect(booted.record.state.kind).toBe(end);
    await expect(unsealFromContexts(tpm.tss, saved)).rejects.toMatchObject({ rc: 0x128 });
    await tpm.close();
  });

  test("I3: nor is any of it after the spawner's own cap, nor with all good digests extended once more", async () => {
    await bench.powerOn();
    await using tpm = await openAsRoot();
    const extendAll = async () => {
      for (const event of provisioned().events) await tpm.pcrExtend(AGENT_PCR, launchEventDigests(event));
    };
    await extendAll();
    const prepared = await prepareUnseal(tpm.tss, bench.keys, provisioned());
    await capAsSpawner(bench.bus);
    await extendAll();
    await expect(prepared.unseal()).rejects.toMatchObject({ rc: 0x128 });
    await expect(withTpm(bench.bus, ({ tss }) => prepareUnseal(tss, bench.keys, provisioned()))).rejects.toMatchObject({
      rc: 0x1c4,
    });
  });
});
