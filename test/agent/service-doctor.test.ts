import { existsSync } from "node:fs";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { Finding } from "../../agent/doctor/index.ts";
import { INITIALIZE_VALUES, openRawClient, ulongs } from "../support/rpc-client.ts";
import { tpmTool } from "../support/seal-fixture.ts";
import { type Agent, openServiceBench, type ServiceBench } from "../support/service-fixture.ts";
import { TPM_CC } from "../support/tpm-bus.ts";

let service: ServiceBench;
beforeAll(async () => {
  service = await openServiceBench();
});
afterAll(() => service[Symbol.asyncDispose]());
afterEach(() => service.stopAll());

const look = async (agent: Agent): Promise<readonly Finding[]> => {
  const { ok, findings } = await agent.ask({ op: "doctor" });
  expect(ok).toBe(true);
  return findings as readonly Finding[];
};
const of = (findings: readonly Finding[], id: Finding["id"]) => findings.filter((found) => found.id === id);
const wrong = (findings: readonly Finding[]) => findings.filter(({ level }) => level === "fail");

/** Commands that ask, and the three that make the endorsement key's Name known and let go of it: none of them counts anywhere. */
const READS: readonly number[] = [
  ...[TPM_CC.getCapability, TPM_CC.pcrRead, TPM_CC.nvRead, TPM_CC.nvReadPublic, TPM_CC.readPublic],
  ...[TPM_CC.createPrimary, TPM_CC.flushContext],
];

describe("a machine that serves", () => {
  test("I2 I9: finds nothing wrong with itself, and proves that nobody else has extended its PCR", async () => {
    const agent = await service.start();
    await agent.launched();
    const found = await look(agent);
    expect(wrong(found)).toEqual([]);
    expect(of(found, "agent")).toMatchObject([{ level: "ok", got: "serving" }]);
    expect(of(found, "agent-pcr")).toMatchObject([
      { level: "ok", got: expect.stringMatching(/^the agent alone: its \d+ events/) },
    ]);
    expect(of(found, "sealed")).toMatchObject([{ level: "ok", got: expect.stringContaining("hsm-pin would unseal") }]);
    expect(of(found, "landlock")).toMatchObject([{ got: expect.stringMatching(/^ABI \d/) }]);
    // No image of ours, and it says so.
    expect(of(found, "root-not-verified")).toMatchObject([{ level: "warn" }]);
  });

  test("I11: looks without a try, an authorisation or a change at its TPM, and starts no process", async () => {
    const agent = await service.start();
    await agent.launched();
    const processes = agent.processes();
    service.bench.bus.arm();
    await look(agent);
    const codes = new Set(service.bench.bus.commands.map(({ code }) => code));
    expect([...codes].filter((code) => !READS.includes(code))).toEqual([]);
    expect(codes.size).toBeGreaterThan(3);
    expect(agent.processes()).toEqual(processes);
  });

  test("I2: says so when somebody else extends its PCR, in one bank, and when PCRs of the boot go on", async () => {
    const agent = await service.start();
    await agent.launched();
    await tpmTool(service.bench.machine, "tpm2_pcrextend", `13:sha384=${"5a".repeat(48)}`);
    await tpmTool(service.bench.machine, "tpm2_pcrextend", `7:sha256=${"5a".repeat(32)}`);
    expect(wrong(await look(agent))).toMatchObject([
      { id: "agent-pcr", got: expect.stringContaining("sha384") },
      { id: "event-log", got: "another value in PCR 7 (sha256)" },
    ]);
  });

  test("I6 I8: lists who is connected, and ends one connection when it is told to, which is in its log", async () => {
    const agent = await service.start();
    await agent.launched();
    const door = `${agent.directory}/scopes/release-signing.sock`;
    await expect.poll(() => existsSync(door), { timeout: 60_000 }).toBe(true); // made once it serves
    const client = await openRawClient(door);
    await client.call("C_Initialize", INITIALIZE_VALUES);
    // In this bench every caller is nobody: refused, and told so.
    expect((await client.call("C_OpenSession", ulongs(1n, 4n))).rv).toBe(0x200n);
    const { sessions } = (await agent.ask({ op: "sessions" })) as { sessions: { session: number }[] };
    expect(sessions).toMatchObject([
      { scope: "release-signing", door: "p11kit", standing: "refused", refused: 1, operations: 0 },
    ]);
    const session = sessions[0]?.session;
    expect(await agent.ask({ op: "end-session", session })).toMatchObject({ ok: true, session });
    await expect(client.call("C_OpenSession", ulongs(1n, 4n))).rejects.toThrow("closed");
    expect(await agent.ask({ op: "end-session", session })).toMatchObject({
      ok: false,
      error: { code: "ERR_ENVIRONMENT" },
    });
    expect(await agent.audited()).toContainEqual(
      expect.objectContaining({ operation: "end", scope: "release-signing" }),
    );
  });
});

describe("a machine that does not serve", () => {
  test("I3 I10: says why, with the advice, and shows what it can of the rest", async () => {
    const agent = await service.start({ slots: (slots) => slots.delete("release") });
    expect(await agent.launched()).toMatchObject({ state: "refused", frozen: null });
    const found = await look(agent);
    expect(of(found, "agent")[0]).toMatchObject({
      level: "fail",
      got: expect.stringContaining("refused: release-missing"),
    });
    expect(of(found, "release")[0]).toMatchObject({
      level: "fail",
      fix: expect.stringContaining("put a signed release"),
    });
    expect(of(found, "agent-pcr")).toMatchObject([{ level: "ok" }]);
    expect(await agent.ask({ op: "sessions" })).toMatchObject({ ok: true, sessions: [], more: 0 });
  });
});

describe("a machine that was frozen", () => {
  test("I8: shows in status and to a doctor what is frozen", async () => {
    const agent = await service.start();
    expect(await agent.launched()).toMatchObject({ frozen: { all: false, scopes: [] } });
    await agent.ask({ op: "freeze", all: true });
    expect(await agent.ask({ op: "status" })).toMatchObject({ state: "serving", frozen: { all: true } });
    expect(of(await look(agent), "frozen")).toMatchObject([{ level: "fail", got: "everything" }]);
    // The next boot would unseal nothing: the last test of this file.
    expect(of(await look(agent), "sealed")).toMatchObject([{ level: "fail", got: expect.stringMatching(/^frozen: /) }]);
  });
});
