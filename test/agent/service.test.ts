import { readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { parseTpmPublic, pcrBanks } from "../../attest/index.ts";
import { encodeBundle, fromBase64, parseBundle, parsePolicy, toBase64, utf8 } from "../../policy/index.ts";
import { DEVICES, LAUNCH_PIN, type LaunchBench } from "../support/launch-fixture.ts";
import { INITIALIZE_VALUES, openRawClient } from "../support/rpc-client.ts";
import { tpmTool } from "../support/seal-fixture.ts";
import { openServiceBench, type ServiceBench } from "../support/service-fixture.ts";
import { SOFTHSM } from "../support/shim-fixture.ts";
import { TPM_CC } from "../support/tpm-bus.ts";

let service: ServiceBench;
let bench: LaunchBench;
beforeAll(async () => {
  service = await openServiceBench();
  ({ bench } = service);
});
afterAll(() => service[Symbol.asyncDispose]());
afterEach(() => service.stopAll());

const start: ServiceBench["start"] = (...args) => service.start(...args);
const enrolled: ServiceBench["enrolled"] = (...args) => service.enrolled(...args);
const verified: ServiceBench["verified"] = (...args) => service.verified(...args);
const expectClosed: ServiceBench["expectClosed"] = (...args) => service.expectClosed(...args);

describe("the agent below the real spawner", () => {
  test("I2 I9: launches, serves, and proves it to a verifier in both banks", async () => {
    const agent = await start();
    expect(await agent.launched()).toMatchObject({ ok: true, state: "serving", reasons: [], devices: [...DEVICES] });
    const enrolment = await enrolled(agent);
    for (const bank of ["sha256", "sha384"] as const) {
      const { claims, agentLog } = await verified(agent, enrolment, bank);
      expect(claims.measured.launch).toBe("serving");
      expect(agentLog.map(({ event }) => event).slice(0, agent.provisioned.events.length)).toEqual(
        agent.provisioned.events,
      );
      const [shim, ...others] = claims.asserted.shims;
      expect(others).toEqual([]);
      expect(shim).toMatchObject({ role: "active", id: 0, process: { capabilities: "0".repeat(16) } });
      expect((shim?.process?.seccompFilters ?? 0) - (shim?.process?.inheritedFilters ?? 0)).toBe(3);
      const kinds = shim?.process?.namespaces.map((name) => name.split(":")[0]);
      expect(kinds).toEqual(["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"]);
    }
    await expectClosed(agent);
    expect(agent.console()).toContain("agent: serving");
    expect(agent.console()).not.toContain(LAUNCH_PIN);
  });

  test("I6: says that it serves once a client can connect to every scope", async () => {
    const agent = await start();
    const states = new Set<unknown>();
    while (!states.has("serving")) states.add((await agent.ask({ op: "status" }))["state"]);
    const doors = readdirSync(join(agent.directory, "scopes"));
    expect(doors).toHaveLength(parsePolicy(agent.provisioned.slots.get("policy") ?? new Uint8Array()).scopes.length);
    for (const door of doors) {
      const client = await openRawClient(join(agent.directory, "scopes", door), 0);
      expect((await client.call("C_Initialize", INITIALIZE_VALUES)).rv).toBeDefined();
      client.end();
    }
  });

  test("I6: a launch whose doors cannot be opened never says so", async () => {
    const agent = await start();
    // Long before the launch comes to it.
    writeFileSync(join(agent.directory, "scopes", "release-signing.sock"), "");
    const states = new Set<unknown>();
    const asked = (async () => {
      for (;;) states.add((await agent.ask({ op: "status" }))["state"]);
    })();
    await expect(asked).rejects.toThrow(/the agent ended/);
    expect(states).toContain("capping");
    expect(states).not.toContain("serving");
    expect(agent.console()).not.toContain("agent: serving");
  });

  test("I9: attests with an RSA key where its configuration says so, and a release for another one refuses that launch", async () => {
    const agent = await start({ config: (text) => text.replace('"p256"', '"rsa2048"') });
    expect(await agent.launched()).toMatchObject({ state: "refused" });
    const enrolment = await enrolled(agent);
    expect(parseTpmPublic(fromBase64(enrolment.akPublic, "akPublic")).kind).toBe("rsa");
    for (const bank of pcrBanks) {
      expect((await verified(agent, enrolment, bank)).claims.measured.launch).toBe("refused");
    }
  });

  test("I10: enrolments that are asked for while the launch runs are answered, and disturb it in nothing", async () => {
    const agent = await start();
    // Each opens the endorsement key beside the launch, which opens it too.
    for (let round = 0; round < 4; round++) await enrolled(agent);
    expect(await agent.launched()).toMatchObject({ state: "serving", reasons: [] });
  });

  test("I10: answers after junk on its control port, and says no to what it does not know", async () => {
    const agent = await start();
    await agent.launched();
    expect(await agent.say("junk")).toMatchObject({ id: null, ok: false, error: { code: "ERR_POLICY_MALFORMED" } });
    expect(await agent.say('{"id":1,"op":"unseal"}')).toMatchObject({ error: { code: "ERR_CONTROL_MALFORMED" } });
    expect(await agent.say("x".repeat(100_000))).toMatchObject({ error: { code: "ERR_POLICY_MALFORMED" } });
    const blob = toBase64(new Uint8Array(100));
    expect(await agent.ask({ op: "activate", credentialBlob: blob, encryptedSecret: blob })).toMatchObject({
      error: { code: "ERR_TPM" },
    });
    expect(await agent.ask({ op: "audit", from: 1, limit: 10 })).toMatchObject({ ok: true, records: [] });
    expect(await agent.ask({ op: "status" })).toMatchObject({ ok: true, state: "serving" });
  });

  test("I6 I8: a peer that no rule names is denied, and the denial is in the audit log", async () => {
    const agent = await start();
    await agent.launched();
    const socket = join(agent.directory, "scopes", "release-signing.sock");
    const stranger = await openRawClient(socket);
    expect((await stranger.call("C_Initialize", INITIALIZE_VALUES)).call).toBeNull();
    stranger.end();
    expect(await agent.audited()).toEqual([
      expect.objectContaining({
        seq: 1,
        scope: "release-signing",
        operation: "connect",
        decision: "deny",
        step: "caller",
      }),
    ]);
  });

  test("I2: refuses a library that differs in one byte, goes on answering, and its report verifies", async () => {
    const agent = await start({
      slots: (slots) => {
        const files = parseBundle(slots.get("module") ?? new Uint8Array());
        const changed = files.map(({ path, bytes }): [string, Uint8Array] => [
          path,
          path === SOFTHSM ? bytes.map((byte, index) => (index === 5000 ? byte ^ 1 : byte)) : bytes,
        ]);
        slots.set("module", encodeBundle(changed));
      },
    });
    const status = await agent.launched();
    expect(status).toMatchObject({ state: "refused" });
    expect(status["reasons"]).toContainEqual(expect.objectContaining({ code: "library-mismatch", item: SOFTHSM }));
    const { claims } = await verified(agent, await enrolled(agent), "sha256");
    expect(claims.asserted.unseal.map(({ rc }) => rc)).toEqual(["0x000001c4", "0x0000099d"]);
    expect(claims.asserted.shims).toEqual([]);
    await expectClosed(agent);
    expect(agent.console()).toContain(`agent: refused: library-mismatch ${SOFTHSM}`);
  });

  test("I1: a token file that would lie beside the library is not accepted by the spawner, and the launch is refused", async () => {
    const agent = await start({
      slots: (slots) => {
        const files = parseBundle(slots.get("token") ?? new Uint8Array());
        const planted: [string, Uint8Array] = ["/usr/lib/softhsm/libplanted.so", utf8("planted")];
        slots.set("token", encodeBundle([planted, ...files.map(({ path, bytes }) => [path, bytes] as const)]));
      },
    });
    const status = await agent.launched();
    expect(status).toMatchObject({ state: "refused" });
    expect(status["reasons"]).toContainEqual(expect.objectContaining({ code: "ERR_SPAWNER" }));
    await expectClosed(agent);
  });

  test("I2: without a usable endorsement key it refuses by name, and goes on answering, but makes no report", async () => {
    await tpmTool(bench.machine, "tpm2_changeauth", "-c", "endorsement", "x");
    try {
      const agent = await start();
      const status = await agent.launched();
      expect(status).toMatchObject({ state: "refused" });
      expect(status["reasons"]).toContainEqual(expect.objectContaining({ code: "endorsement-auth-set" }));
      expect(await agent.ask({ op: "check" })).toMatchObject({
        ok: true,
        credentials: [
          {
            findings: expect.arrayContaining([expect.objectContaining({ code: "endorsement-auth-set", blocks: true })]),
          },
        ],
      });
      for (const request of [
        { op: "endorsement" },
        { op: "records" },
        { op: "challenge", nonce: "ab".repeat(32), bank: "sha256", pcrs: [0, 13] },
      ])
        expect(await agent.ask(request)).toMatchObject({ ok: false, error: { code: "ERR_ENVIRONMENT" } });
    } finally {
      await service.stopAll();
      await tpmTool(bench.machine, "tpm2_changeauth", "-c", "endorsement", "-p", "x");
    }
  });

  test("I3: when the agent cannot cap, the spawner does, and ends the machine", async () => {
    const agent = await start({
      fault: ({ client, code }) => (client === "agent" && code === TPM_CC.pcrExtend ? "refuse" : null),
    });
    expect(await agent.ended).toBe(12);
    expect(agent.console()).toContain("the cap of a refused launch failed; agent PCR capped, rebooting");
    bench.bus.arm();
    await expectClosed(agent);
  });

  test("I3: an agent that ends before its launch leaves a capped PCR", async () => {
    const agent = await start({ config: (text) => text.replace('"version": 1', '"version": 2') });
    expect(await agent.ended).toBe(10);
    expect(agent.console()).toMatch(/agent configuration: version.*agent PCR capped, rebooting/s);
    await expectClosed(agent);
  });
});
