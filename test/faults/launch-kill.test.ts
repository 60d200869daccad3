import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { changeModule } from "../support/launch-documents.ts";
import { type Agent, type AgentOptions, openServiceBench, type ServiceBench } from "../support/service-fixture.ts";
import { type BusCommand, TPM_CC } from "../support/tpm-bus.ts";
import { casesOf } from "./extent.ts";

describe("an agent that is killed during its launch, below the real spawner", () => {
  let service: ServiceBench;
  beforeAll(async () => {
    service = await openServiceBench();
  });
  afterAll(() => service[Symbol.asyncDispose]());
  afterEach(() => service.stopAll());

  /** Of some seventy. */
  const SOME = 12;
  /** With a spare, whose log-in comes after that of the first shim. */
  const policy: NonNullable<AgentOptions["policy"]> = (draft) => changeModule(draft, { spares: 1 });

  interface Kill {
    readonly code: number;
    /** At which one of its kind. */
    readonly turn: number;
    /** Before it reaches the TPM, or as soon as it has. */
    readonly when: "before" | "after";
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

  async function expectCapped({ code, turn, when }: Kill): Promise<void> {
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

  /** Each write of a login record, each extend, and the first of every other kind. */
  function turnsBefore(code: number, last: number): readonly number[] {
    const each = code === TPM_CC.nvWrite || code === TPM_CC.pcrExtend;
    return Array.from({ length: each ? last + 1 : 1 }, (_, turn) => turn);
  }

  test("I3: before the first and after the last command of a kind, before any extend and any write, leaves a capped PCR", {
    timeout: 1_200_000,
  }, async () => {
    const all = (await firstLaunch()).filter(({ client }) => client === "agent");
    // Up to the last extend, the cap: what comes behind it is no launch any more.
    const commands = all.slice(0, all.findLastIndex(({ code }) => code === TPM_CC.pcrExtend) + 1);
    const codes = [...new Set(commands.map(({ code }) => code))];
    expect(codes).toEqual(
      expect.arrayContaining([TPM_CC.nvDefineSpace, TPM_CC.nvIncrement, TPM_CC.import, TPM_CC.unseal, TPM_CC.nvWrite]),
    );
    const kills = codes.flatMap((code): readonly Kill[] => {
      const last = commands.filter((command) => command.code === code).length - 1;
      const before = turnsBefore(code, last).map((turn) => ({ code, turn, when: "before" as const }));
      // After the last extend, the cap, the launch has ended: that agent serves.
      return [...before, { code, turn: code === TPM_CC.pcrExtend ? last - 1 : last, when: "after" }];
    });
    for (const kill of casesOf(kills, SOME)) await expectCapped(kill);
  });
});
