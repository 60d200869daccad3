import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { changeModule } from "../support/launch-documents.ts";
import { type Agent, type AgentOptions, openServiceBench, type ServiceBench } from "../support/service-fixture.ts";
import { type BusCommand, TPM_CC } from "../support/tpm-bus.ts";
import { isExhaustive } from "./extent.ts";

/** Kinds of command that leave something in the TPM or take something out of it; a run of all tests has no time for the others. */
const CHANGING: ReadonlySet<number> = new Set([
  ...[TPM_CC.nvDefineSpace, TPM_CC.nvIncrement, TPM_CC.nvWrite, TPM_CC.import, TPM_CC.unseal, TPM_CC.pcrExtend],
]);

describe("an agent that is killed during its launch, below the real spawner", () => {
  let service: ServiceBench;
  beforeAll(async () => {
    service = await openServiceBench();
  });
  afterAll(() => service[Symbol.asyncDispose]());
  afterEach(() => service.stopAll());

  /** With a spare, whose log-in comes after that of the first shim. */
  const policy: NonNullable<AgentOptions["policy"]> = (draft) => changeModule(draft, { spares: 1 });

  interface Step {
    readonly code: number;
    /** Which one of its kind. */
    readonly turn: number;
  }

  /** The commands of a first launch: with provisioning, import, unseal, log-in, cap. */
  async function firstLaunch(): Promise<readonly BusCommand[]> {
    service.bench.renewTpm();
    const agent = await service.start({ policy });
    expect(await agent.launched()).toMatchObject({ state: "serving" });
    const commands = [...service.bench.bus.commands];
    await agent.stop();
    return commands;
  }

  /** Killed at this step: before it reaches the TPM, or as soon as it has. */
  async function expectCapped({ code, turn }: Step, when: "before" | "after"): Promise<void> {
    const { bus } = service.bench;
    service.bench.renewTpm();
    let agent: Agent | null = null;
    let seen = 0;
    agent = await service.start({
      policy,
      fault: (command) => {
        if (command.client !== "agent" || command.code !== code || seen++ !== turn) return null;
        agent?.kill();
        return when === "before" ? "refuse" : null;
      },
    });
    const { ended } = agent;
    const launched = agent.launched().then(({ state }) => `the launch ended: ${state}`);
    expect([code, turn, when, await Promise.race([ended, launched.catch(() => ended)])]).toEqual([
      code,
      turn,
      when,
      10,
    ]);
    expect(agent.console()).toContain("agent PCR capped, rebooting");
    bus.arm();
    await bus.flushClient("agent"); // it and its unsealer are gone
    await service.expectClosed(agent);
    await agent.stop();
  }

  /** Each write of a login record, some extends, and the first of every other kind. */
  function turnsBefore(code: number, last: number): readonly number[] {
    if (code === TPM_CC.nvWrite) return Array.from({ length: last + 1 }, (_, turn) => turn);
    return code === TPM_CC.pcrExtend ? [0, last >> 1, last - 1, last] : [0];
  }

  test("I3: at the first and the last command of each kind, and at each extend, leaves a capped PCR", {
    timeout: 1_200_000,
  }, async () => {
    const all = (await firstLaunch()).filter(({ client }) => client === "agent");
    // Up to the last extend, the cap: what comes behind it is no launch any more.
    const commands = all.slice(0, all.findLastIndex(({ code }) => code === TPM_CC.pcrExtend) + 1);
    const codes = [...new Set(commands.map(({ code }) => code))];
    expect(codes).toEqual(
      expect.arrayContaining([TPM_CC.nvDefineSpace, TPM_CC.nvIncrement, TPM_CC.import, TPM_CC.unseal, TPM_CC.nvWrite]),
    );
    for (const code of codes.filter((kind) => isExhaustive() || CHANGING.has(kind))) {
      const last = commands.filter((command) => command.code === code).length - 1;
      const before = turnsBefore(code, last);
      for (const turn of before) await expectCapped({ code, turn }, "before");
      // After the last extend, the cap, the launch has ended: that agent serves.
      await expectCapped({ code, turn: code === TPM_CC.pcrExtend ? last - 1 : last }, "after");
    }
  });
});
