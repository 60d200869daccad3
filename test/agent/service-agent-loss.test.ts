import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { type LostRecord, openStoreFile, readLostRecord, Store } from "../../seal/index.ts";
import type { PolicyDraft } from "../support/launch-documents.ts";
import { type Agent, openServiceBench, type ServiceBench } from "../support/service-fixture.ts";

let service: ServiceBench;
beforeAll(async () => {
  service = await openServiceBench();
});
afterAll(() => service[Symbol.asyncDispose]());
afterEach(() => service.stopAll());

type How = Pick<PolicyDraft, "onLoginLost">["onLoginLost"];
const KILLED: LostRecord = { cause: "lost", reason: "the agent ended (wait status 0x9)" };

/** A boot of a machine whose store counts so many losses; the boot before may have noted one more. */
const boot = (onLoginLost: How, store: number, lost: LostRecord | null) =>
  service.start({ store, lost, policy: (draft) => void Object.assign(draft, { onLoginLost }) });

/** What the machine's store says now. */
function stored({ directory }: Agent): { readonly losses: number; readonly noted: LostRecord | null } {
  const medium = openStoreFile(join(directory, "store"), { create: false });
  const { content } = Store.open(medium).store;
  const noted = readLostRecord(medium);
  medium.close();
  return { losses: content.recoveries ?? 0, noted };
}

const codesOf = ({ reasons }: Record<string, unknown>) =>
  (reasons as readonly { code: string }[]).map(({ code }) => code);

describe("an agent that is killed while it serves", () => {
  test("I3 I11: leaves a capped machine and a note of it; the next boot counts that, once, and launches at once", async () => {
    const first = await boot("reboot", 0, null);
    expect(await first.launched()).toMatchObject({ state: "serving" });
    first.kill();
    expect(await first.ended).toBe(10);
    const { noted } = stored(first);
    // its end is seen by its process or by its socket, whichever the kernel shows first
    const reason = expect.stringMatching(/^the agent (ended \(wait status 0x9\)|closed its socket)$/);
    expect([stored(first).losses, noted]).toEqual([0, { cause: "lost", reason }]);
    await service.expectClosed(first);

    const second = await boot("reboot", 0, noted);
    expect(await second.launched()).toMatchObject({ state: "serving", reasons: [] });
    expect(stored(second)).toEqual({ losses: 1, noted: null });
  });

  test("I2 I3 I9 I11: for the second time in a row is waited for: the launch is refused, capped, unseals nothing, and its report says why", async () => {
    const agent = await boot("reboot", 1, KILLED);
    const status = await agent.launched();
    expect(status).toMatchObject({ state: "refused", reasons: [{ code: "agent-lost", got: KILLED.reason }] });
    expect((status["phases"] as readonly { phase: string }[]).map(({ phase }) => phase)).toEqual([
      "loading",
      "booted",
      "measuring",
      "refused",
    ]);
    expect(agent.shimPids()).toEqual([]);
    await expect.poll(() => agent.console()).toContain("agent lost, reboot in 30 s");
    const { claims } = await service.verified(agent, await service.enrolled(agent), "sha384");
    expect(claims.measured.launch).toBe("refused");
    expect(claims.asserted.reasons.map(({ code }) => code)).toEqual(["agent-lost"]);
    await service.expectClosed(agent);
    expect(stored(agent)).toEqual({ losses: 2, noted: null });
  });

  test("I11: in the boot that waits is one loss more: the wait cannot be cut short", async () => {
    const waiting = await boot("reboot", 1, KILLED);
    expect(await waiting.launched()).toMatchObject({ state: "refused" });
    waiting.kill();
    expect(await waiting.ended).toBe(10);
    const { losses, noted } = stored(waiting);
    const next = await boot("reboot", losses, noted);
    expect(codesOf(await next.launched())).toEqual(["agent-lost"]);
    await expect.poll(() => next.console()).toContain("agent lost, reboot in 60 s");
  });

  test("I11: for the sixth time in a row ends the trying, by name", async () => {
    const agent = await boot("reboot", 5, KILLED);
    const status = await agent.launched();
    expect([status["state"], codesOf(status)]).toEqual(["refused", ["agent-lost", "recovery-limit"]]);
    expect(agent.console()).not.toContain("reboot in");
  });

  test("I11: where the policy says `stop` ends it the first time; the operator's own restart launches again", async () => {
    const agent = await boot("stop", 0, KILLED);
    const status = await agent.launched();
    expect([status["state"], codesOf(status)]).toEqual(["refused", ["agent-lost"]]);
    expect(agent.console()).not.toContain("reboot in");
    const { losses, noted } = stored(agent);
    await agent.stop(); // the power is switched off: no agent was lost
    expect(noted).toBeNull();
    const restarted = await boot("stop", losses, null);
    expect(await restarted.launched()).toMatchObject({ state: "serving", reasons: [] });
  });
});

test("I2 I11: a changed policy is refused as such: the loss is no reason to reboot by what nobody released", async () => {
  const agent = await service.start({
    ...{ store: 1, lost: KILLED },
    slots: (slots) => {
      const policy = new TextDecoder().decode(slots.get("policy"));
      slots.set("policy", new TextEncoder().encode(policy.replace(`"onLoginLost":"stop"`, `"onLoginLost":"reboot"`)));
    },
  });
  const status = await agent.launched();
  expect([status["state"], codesOf(status)]).toEqual(["refused", expect.arrayContaining(["measurement-changed"])]);
  expect(codesOf(status)).not.toContain("agent-lost");
  expect(agent.console()).not.toContain("reboot in");
});
