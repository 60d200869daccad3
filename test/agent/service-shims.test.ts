import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { pcrBanks } from "../../attest/index.ts";
import type { SlotName } from "../../policy/index.ts";
import { openStoreFile, Store } from "../../seal/index.ts";
import { changeModule } from "../support/launch-documents.ts";
import type { PolicyDraft } from "../support/launch-fixture.ts";
import { type Agent, type AgentOptions, openServiceBench, type ServiceBench } from "../support/service-fixture.ts";
import { TPM_CC } from "../support/tpm-bus.ts";

let service: ServiceBench;
beforeAll(async () => {
  service = await openServiceBench();
});
afterAll(() => service[Symbol.asyncDispose]());
afterEach(() => service.stopAll());

/** A machine that serves under this policy. */
async function serve(
  spares: number,
  how: Partial<Pick<PolicyDraft, "onViolation" | "onLoginLost">> = {},
  options: AgentOptions = {},
): Promise<Agent> {
  const agent = await service.start({
    ...options,
    policy: (draft) => {
      changeModule(draft, { spares });
      Object.assign(draft, how);
    },
  });
  expect(await agent.launched()).toMatchObject({ state: "serving", reasons: [] });
  return agent;
}

const kill = (agent: Agent, at: number) => process.kill(agent.shimPids()[at] ?? 0, "SIGKILL");
const statusOf = (agent: Agent) => agent.ask({ op: "status" });
const shims = (...roles: readonly string[]) => roles.map((role, id) => expect.objectContaining({ id, role }));

function plugIn(agent: Agent): void {
  const device = join(agent.directory, "pci/99");
  mkdirSync(device);
  writeFileSync(join(device, "vendor"), "0x8086\n");
  writeFileSync(join(device, "device"), "0x10d3\n");
}

describe("a machine with a spare shim, below the real spawner", () => {
  test("I5 I9: shows both to a verifier, and after the first was killed that the spare has taken over, in either bank", async () => {
    const agent = await serve(1);
    const enrolment = await service.enrolled(agent);
    expect(await statusOf(agent)).toMatchObject({
      tokens: [{ name: "launch-bench", served: true, shims: shims("active", "spare"), reasons: [] }],
      violations: {},
    });
    const before = (await service.verified(agent, enrolment, "sha256")).claims.asserted;
    expect(before.shims).toMatchObject(shims("active", "spare"));
    for (const { process: seen } of before.shims) {
      expect((seen?.seccompFilters ?? 0) - (seen?.inheritedFilters ?? 0)).toBe(3);
      expect(seen?.capabilities).toBe("0".repeat(16));
    }
    const namespaces = before.shims.map(({ process: seen }) => seen?.namespaces);
    expect(namespaces[0]).not.toEqual(namespaces[1]);
    kill(agent, 0);
    await expect
      .poll(() => statusOf(agent), { timeout: 10_000 })
      .toMatchObject({
        state: "serving",
        tokens: [{ served: true, shims: shims("ended", "active") }],
      });
    for (const bank of pcrBanks) {
      const { claims, agentLog } = await service.verified(agent, enrolment, bank);
      expect(claims.measured.launch).toBe("serving");
      expect(claims.asserted.shims).toMatchObject([
        { id: 0, role: "ended", process: null },
        { id: 1, role: "active" },
      ]);
      expect(claims.asserted.incidents).toMatchObject([{ what: "replacement", token: "launch-bench", from: 0, to: 1 }]);
      expect(agentLog.at(-1)?.event).toMatchObject({ kind: "shim-replaced", name: "launch-bench" });
    }
    expect(await agent.audited()).toMatchObject([{ operation: "shim", scope: "launch-bench", decision: "allow" }]);
    await service.expectClosed(agent);
  });

  test("I4: a credential file is unsealed once, into the own directory of each of them", async () => {
    const path = "/var/lib/softhsm/tokens/tls-key.pem";
    const label = { name: "tls-key", kind: "file", tokenSerial: null } as const;
    const agent = await service.start({
      policy: (draft) => changeModule(draft, { spares: 2, files: { [path]: "tls-key" } }),
      credentials: [{ label, secret: new Uint8Array(3000).fill(0x5a) }],
    });
    expect(await agent.launched()).toMatchObject({ state: "serving", reasons: [] });
    expect(service.bench.bus.commands.filter(({ code }) => code === TPM_CC.unseal)).toHaveLength(2);
    expect(agent.shimPids()).toHaveLength(3);
  });

  test("I5 I9: without any left stops, says why, and its report still verifies", async () => {
    const agent = await serve(1, { onLoginLost: "stop" });
    const enrolment = await service.enrolled(agent);
    kill(agent, 1);
    kill(agent, 0);
    await expect
      .poll(() => statusOf(agent), { timeout: 10_000 })
      .toMatchObject({
        state: "stopped",
        reasons: [{ code: "login-lost", item: "launch-bench" }],
        tokens: [{ served: false, shims: shims("ended", "ended") }],
      });
    const { claims } = await service.verified(agent, enrolment, "sha384");
    expect(claims.measured.launch).toBe("stopped");
    expect(claims.asserted.reasons).toMatchObject([{ code: "login-lost" }]);
    expect(claims.asserted.incidents.at(-1)).toMatchObject({ what: "replacement", to: -1 });
  });

  test("I3 I11: without any left is capped and ends where its policy says reboot, and the store has counted that", async () => {
    const agent = await serve(0, { onLoginLost: "reboot" }, { store: 0 });
    const kept = () => Store.open(openStoreFile(join(agent.directory, "store"), { create: false })).store.content;
    const credentials = () => kept().entries.map(({ name, state }) => `${name} ${state}`);
    // What follows a launch that serves is done behind its sockets.
    await expect.poll(credentials, { timeout: 60_000 }).toEqual(["hsm-pin served"]);
    kill(agent, 0);
    expect(await agent.ended).toBe(12);
    expect(agent.console()).toContain("login lost: token launch-bench");
    expect(kept().recoveries).toBe(1);
    expect(credentials()).toEqual(["hsm-pin served"]);
    await service.expectClosed(agent);
  });
});

describe("an HSM that stays away after a reboot for it", () => {
  const without = (slots: Map<SlotName, Uint8Array>) => void slots.delete("token");
  const recovering = {
    store: 1,
    slots: without,
    policy: (draft: PolicyDraft) => void Object.assign(draft, { onLoginLost: "reboot" }),
  };

  test("I11: is waited for by the next reboot, half a minute later, which is counted before", async () => {
    const agent = await service.start(recovering);
    expect(await agent.launched()).toMatchObject({ state: "refused", reasons: [{ code: "hsm-absent" }] });
    await expect.poll(() => agent.console()).toContain("the HSM is still away, reboot in 30 s");
    const { store } = Store.open(openStoreFile(join(agent.directory, "store"), { create: false }));
    expect(store.content.recoveries).toBe(2);
    await service.expectClosed(agent);
  });

  test("I11: leads to no reboot of a machine that had none before", async () => {
    const agent = await service.start({ ...recovering, store: 0 });
    expect(await agent.launched()).toMatchObject({ state: "refused", reasons: [{ code: "hsm-absent" }] });
    expect(await statusOf(agent)).toMatchObject({ state: "refused" });
    expect(agent.console()).not.toContain("reboot");
  });
});

describe("an HSM that is still away after the fifth reboot for it", () => {
  test("I9 I11: is waited for no more, and `status` and report say so", async () => {
    const agent = await service.start({
      store: 5,
      slots: (slots: Map<SlotName, Uint8Array>) => void slots.delete("token"),
      policy: (draft) => void Object.assign(draft, { onLoginLost: "reboot" }),
    });
    expect(await agent.launched()).toMatchObject({ state: "refused" });
    await expect
      .poll(() => statusOf(agent), { timeout: 10_000 })
      .toMatchObject({ state: "refused", reasons: [{ code: "hsm-absent" }, { code: "recovery-limit" }] });
    const { claims } = await service.verified(agent, await service.enrolled(agent), "sha256");
    expect(claims.asserted.reasons.map(({ code }) => code)).toEqual(["hsm-absent", "recovery-limit"]);
    expect(agent.console()).toContain("recovery-limit");
  });
});

describe("devices that can be listed no more", () => {
  test("I5: stop every token under `kill`, and `status` is still answered", async () => {
    const agent = await serve(0, { onViolation: "kill" });
    rmSync(join(agent.directory, "pci"), { recursive: true });
    await expect
      .poll(() => statusOf(agent), { timeout: 20_000 })
      .toMatchObject({ ok: true, state: "stopped", devices: null, reasons: [{ code: "devices-unreadable" }] });
  });
});

describe("a device that comes while the machine serves", () => {
  test("I5 I9: stops every token under `kill`, and the report says which device", async () => {
    const agent = await serve(1, { onViolation: "kill" });
    const enrolment = await service.enrolled(agent);
    plugIn(agent);
    await expect
      .poll(() => statusOf(agent), { timeout: 10_000 })
      .toMatchObject({
        state: "stopped",
        reasons: [{ code: "device-foreign", item: "8086:10d3" }],
      });
    await expect.poll(() => agent.shimPids()).toEqual([]);
    const { claims } = await service.verified(agent, enrolment, "sha256");
    expect(claims.measured.launch).toBe("stopped");
    expect(claims.asserted.incidents).toEqual([{ what: "device", device: "8086:10d3", change: "added" }]);
  });

  test("I5 I9: is told under `report`, and the machine serves on", async () => {
    const agent = await serve(0, { onViolation: "report" });
    const enrolment = await service.enrolled(agent);
    plugIn(agent);
    const incidents = async () => (await service.verified(agent, enrolment, "sha256")).claims.asserted.incidents;
    await expect.poll(incidents, { timeout: 10_000 }).toMatchObject([{ what: "device", change: "added" }]);
    expect(await statusOf(agent)).toMatchObject({ state: "serving", tokens: [{ served: true }] });
  });
});
