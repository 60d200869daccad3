import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { defaultQuotePcrs, type Enrolment } from "../../attest/index.ts";
import { LOSING_FAULTS } from "../faults/tpm-answers.ts";
import { childrenOf } from "../support/process-tree.ts";
import { type Agent, openServiceBench, type ServiceBench } from "../support/service-fixture.ts";
import { type BusAnswer, TPM_CC } from "../support/tpm-bus.ts";

// A connection on which one command was not answered takes no other. The agent below the real spawner, as in the guest.

const CHOSEN = LOSING_FAULTS.filter(({ name }) =>
  ["half of the answer", "the other tag", "a closed connection"].includes(name),
);
/** Nothing comes back; `obeyed`: and yet it was done. */
const lost = (obeyed: boolean): BusAnswer => ({ obeyed, answer: () => Buffer.alloc(0), hangsUp: true });

let service: ServiceBench;
beforeAll(async () => {
  service = await openServiceBench();
});
afterAll(() => service[Symbol.asyncDispose]());
afterEach(() => service.stopAll());

async function serving(): Promise<{ agent: Agent; enrolment: Enrolment }> {
  service.bench.renewTpm(); // what was frozen stays frozen
  const agent = await service.start();
  expect(await agent.launched()).toMatchObject({ state: "serving" });
  service.bench.bus.arm();
  return { agent, enrolment: await service.enrolled(agent) };
}

/** Does this to the next command of the kind; tells how many there were. */
function failNext(code: number, fault: BusAnswer): () => number {
  let seen = 0;
  service.bench.bus.arm(({ client, code: got }) => (client === "agent" && got === code && seen++ === 0 ? fault : null));
  return () => seen;
}

const challenge = (agent: Agent) =>
  agent.ask({ op: "challenge", nonce: "ab".repeat(32), bank: "sha256", pcrs: [...defaultQuotePcrs] });
const reasonsOf = async (agent: Agent) => (await agent.ask({ op: "status" }))["reasons"];
const codesOf = async (agent: Agent) => ((await reasonsOf(agent)) as { code: string }[]).map(({ code }) => code);
const linesOf = (agent: Agent, start: string) =>
  agent
    .console()
    .split("\n")
    .filter((line) => line.includes(start));

async function expectReports(agent: Agent, enrolment: Enrolment): Promise<void> {
  await expect.poll(() => linesOf(agent, "TPM: opened again").length).toBe(linesOf(agent, "tpm-lost: ").length);
  expect((await service.verified(agent, enrolment, "sha256")).claims.measured.launch).toBe("serving");
  expect(await codesOf(agent)).toEqual([]);
}

describe("an agent that serves and loses the connection to its TPM", () => {
  test("I8 I9: reports again, freezes and signs its log again, without a new boot, whatever cut the connection off", async () => {
    const { agent, enrolment } = await serving();
    for (const fault of CHOSEN) {
      failNext(TPM_CC.quote, fault);
      expect([fault.name, await challenge(agent)]).toMatchObject([
        fault.name,
        { ok: false, error: { code: "ERR_TPM" } },
      ]);
      await expectReports(agent, enrolment);
    }
    expect(linesOf(agent, "tpm-lost: Quote: ")).toHaveLength(CHOSEN.length);
    failNext(TPM_CC.nvSetBits, lost(false));
    expect(await agent.ask({ op: "freeze", all: true })).toMatchObject({ ok: false });
    await expectReports(agent, enrolment);
    expect(await agent.ask({ op: "freeze", all: true })).toMatchObject({
      ok: true,
      all: true,
      bits: "0000000000000001",
    });
    const statements = async () => {
      const { records } = await agent.ask({ op: "audit", from: 1, limit: 100 });
      return (records as { statement: { kind: string } | null }[]).map(({ statement }) => statement?.kind);
    };
    await expect.poll(statements, { timeout: 30_000, interval: 500 }).toContain("checkpoint");
  });

  test("I9: goes on without a report while it has no descriptor for a connection, says so, and reports when it has", async () => {
    const { agent, enrolment } = await serving();
    const pid = childrenOf(agent.pid)[0] ?? 0;
    const before = /^Max open files +(\S+) /m.exec(readFileSync(`/proc/${pid}/limits`, "latin1"))?.[1] ?? "";
    limitDescriptors(pid, `${firstFree(pid)}`);
    expect(await challenge(agent)).toMatchObject({ ok: false });
    await expect.poll(() => codesOf(agent)).toEqual(["tpm-unreachable"]);
    limitDescriptors(pid, before);
    await expect.poll(() => codesOf(agent), { timeout: 20_000 }).toEqual([]);
    await expectReports(agent, enrolment);
    expect(linesOf(agent, "tpm-unreachable: ")).toHaveLength(1);
  });

  test.each([false, true])(
    "I9: sends no extend twice; its report is refused where the TPM has an event that the log has not (obeyed: %s)",
    async (obeyed) => {
      const { agent, enrolment } = await serving();
      const extends_ = failNext(TPM_CC.pcrExtend, lost(obeyed));
      expect(await agent.ask({ op: "freeze", all: true })).toMatchObject({ ok: false });
      await expect.poll(() => linesOf(agent, "TPM: opened again").length).toBe(1);
      const verified = service.verified(agent, enrolment, "sha256");
      if (obeyed)
        await expect(verified).rejects.toMatchObject({ reasons: [{ code: "pcr-replay", item: "PCR 13 (sha256)" }] });
      else expect((await verified).claims.measured.launch).toBe("serving");
      expect(extends_()).toBe(1);
    },
  );

  test("I3: takes no TPM that was reset meanwhile, and says so", async () => {
    const { agent } = await serving();
    await service.bench.machine.restart();
    failNext(TPM_CC.quote, lost(false));
    expect(await challenge(agent)).toMatchObject({ ok: false });
    await expect
      .poll(() => reasonsOf(agent))
      .toMatchObject([{ code: "tpm-unreachable", got: expect.stringContaining("ContextLoad") }]);
    await delay(500); // three more tries
    expect(await codesOf(agent)).toEqual(["tpm-unreachable"]);
    expect(await challenge(agent)).toMatchObject({ ok: false });
  });
});

test.each([TPM_CC.pcrExtend, TPM_CC.nvRead])(
  "I3: a launch that loses its connection opens no other: it is capped, and the machine reboots (command %i of TPM_CC)",
  async (code) => {
    service.bench.renewTpm();
    const agent = await service.start({
      fault: (command) => (command.client === "agent" && command.code === code ? lost(false) : null),
    });
    expect(await agent.ended).toBe(12);
    expect(agent.console()).toContain("the cap of a refused launch failed; agent PCR capped, rebooting");
    expect(agent.console()).not.toContain("tpm-lost");
    service.bench.bus.arm();
    await service.bench.bus.flushClient("agent");
    await service.expectClosed(agent);
  },
);

/** The soft limit of a running process (prlimit(2)). */
function limitDescriptors(pid: number, soft: string): void {
  execFileSync("prlimit", ["--pid", `${pid}`, `--nofile=${soft}:`]);
}

/** Below it nothing is free: with this limit the process can open nothing. */
function firstFree(pid: number): number {
  const open = new Set(readdirSync(`/proc/${pid}/fd`).map(Number));
  let number = 0;
  while (open.has(number)) number++;
  return number;
}
