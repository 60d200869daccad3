import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { AGENT_UID, type Finding } from "../../../agent/doctor/index.ts";
import { startApprovalMachine } from "../../support/approval-machine.ts";
import { cli } from "../../support/cli.ts";
import { type CliFixture, expectComplaint, makeCliFixture } from "../../support/cli-fixture.ts";
import { GOOD, lineOf, OURS } from "../../support/host-configurations.ts";
import { createSoftHsmToken, SOFTHSM_LIBRARY, type SoftHsmToken } from "../../support/softhsm.ts";
import { type SoftwareTpm, startSwtpm } from "../../support/swtpm.ts";
import { tpmTool } from "../../support/tpm-tools.ts";

let made: CliFixture;
let tpm: SoftwareTpm;
let directory: string;
beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "doctor-"));
  [made, tpm] = [await makeCliFixture({ machine: true }), await startSwtpm()];
}, 120_000);
afterAll(async () => {
  await made?.[Symbol.asyncDispose]();
  await tpm?.[Symbol.asyncDispose]();
  rmSync(directory, { recursive: true, force: true });
});
const at = (name: string) => join(directory, name);

async function look(...words: string[]): Promise<{ code: number; ok: boolean; findings: readonly Finding[] }> {
  const { code, out, err } = await cli(["doctor", ...words, "--json"]);
  expect(err).toBe("");
  return { code, ...JSON.parse(out) };
}
const levels = (findings: readonly Finding[], id: string) =>
  findings.filter((found) => found.id === id).map(({ level }) => level);

describe("doctor on a host that prepares a machine", () => {
  test("I2: has its documents read as a launch would read them; nothing of the host is looked at", async () => {
    const { code, ok, findings } = await look("--cabinet", made.at("cabinet.img"));
    expect({ code, ok }).toEqual({ code: 0, ok: true });
    expect(new Set(findings.map(({ id }) => id))).toEqual(
      new Set(["cabinet", "policy", "policy-review", "release", "trust-root"]),
    );
  });

  test("I2: says that what is sealed for one TPM does not open at another, and exits with 4", async () => {
    const { code, ok, findings } = await look("--cabinet", made.at("cabinet.img"), "--tcti", tpm.tcti);
    expect({ code, ok }).toEqual({ code: 4, ok: false });
    expect(levels(findings, "tpm")).toEqual(["ok"]);
    expect(levels(findings, "agent-pcr")).toEqual(["ok"]);
    expect(findings.filter(({ id }) => id === "sealed")).toContainEqual(
      expect.objectContaining({
        level: "fail",
        got: expect.stringMatching(/^tpm-replaced: /),
        fix: expect.stringContaining("seal the credential again"),
      }),
    );
  });

  test("I10: a cabinet that is none, and a TPM that is not there, are lines of their own", async () => {
    const { findings } = await look("--cabinet", made.at("random"), "--tcti", "swtpm:path=/nonexistent");
    expect(findings).toMatchObject([{ id: "tpm", level: "fail", got: expect.stringContaining("ERR_TPM_UNAVAILABLE") }]);
    const none = await look("--cabinet", made.at("none"));
    expect(none.findings).toMatchObject([
      { id: "cabinet", level: "fail", got: expect.stringContaining("no such file") },
    ]);
    const alone = await look("--cabinet", made.at("random"));
    expect(alone.findings).toMatchObject([
      { id: "cabinet", level: "fail", got: expect.stringContaining("ERR_CABINET") },
    ]);
  });
});

describe("doctor on a system with the agent", () => {
  const configuration = () => {
    const guest = JSON.parse(
      readFileSync(resolve(import.meta.dirname, "../../../vm-images/guest/etc/ironclaw/agent.json"), "utf8"),
    );
    mkdirSync(at("audit"), { recursive: true, mode: 0o700 });
    writeFileSync(at("store"), "", { mode: 0o600 });
    writeFileSync(
      at("agent.json"),
      JSON.stringify({
        ...guest,
        tcti: tpm.tcti,
        cabinet: made.at("cabinet.img"),
        store: null,
        auditLog: at("audit"),
        scopes: at("scopes"),
        firmwareLog: at("none"),
      }),
    );
    return at("agent.json");
  };

  test("I2 I9: looks at all of it, and asks for the agent's own word where only that is a proof", async () => {
    const config = configuration();
    const before = await look("--config", config);
    expect(before.code).toBe(4);
    for (const id of [
      "configuration",
      "tpm",
      "agent-pcr",
      "event-log",
      "landlock",
      "root-not-verified",
      "clock",
      "disk",
      "cabinet",
      "sealed",
    ])
      expect([id, levels(before.findings, id).length > 0]).toEqual([id, true]);
    expect(levels(before.findings, "agent-pcr")).toEqual(["ok"]);
    expect(levels(before.findings, "event-log")).toEqual(["fail"]);
  });

  test("I2: a process that calls itself the agent does not turn a failed proof into a warning; one of the agent's user does", async () => {
    const config = configuration();
    const proof = async (identity: { readonly uid?: number; readonly gid?: number }) => {
      const words = ["-c", "read nothing", "agent", "--config", config];
      const shell = spawn("sh", words, { stdio: ["pipe", "ignore", "ignore"], ...identity });
      try {
        await once(shell, "spawn");
        const { findings } = await look("--config", config);
        return { pid: shell.pid, found: findings.filter(({ id }) => id === "agent-pcr") };
      } finally {
        shell.kill("SIGKILL");
        await once(shell, "close");
      }
    };
    await tpmTool(tpm, "tpm2_pcrextend", `13:sha384=${"5a".repeat(48)}`);
    expect((await proof({})).found).toMatchObject([{ level: "fail", got: expect.stringMatching(/^somebody has/) }]);
    if (process.getuid?.() === 0) {
      const stranger = await proof({ uid: 4711, gid: AGENT_UID });
      expect(stranger.found).toMatchObject([{ level: "fail" }]);
      const { pid, found } = await proof({ uid: AGENT_UID, gid: AGENT_UID });
      expect(found).toMatchObject([{ level: "warn", got: `an agent that runs, process ${pid}` }]);
    }
    await tpm.restart();
  });

  test("I10: a configuration that is none is no finding but an error, as for the agent", async () => {
    expectComplaint(await cli(["doctor", "--config", made.at("random")]), 3, "configuration");
  });
});

describe("doctor and a running machine", () => {
  test("I2: shows what the machine answers, with levels and fixes for people", async () => {
    const { code, findings } = await look("--machine", made.at("machine"));
    expect(code).toBe(0);
    expect(levels(findings, "tpm")).toEqual(["ok"]);
    const { out } = await cli(["doctor", "--machine", made.at("machine")]);
    expect(out).toMatch(/^ok {4}tpm +the TPM: family 2\.0/);
    expect(out).toMatch(/^warn {2}tpm-owner .*: expected both set, got empty: owner, lockout/m);
    expect(out).toMatch(/^ +fix: `ironclaw enrol --escrow FILE`/m);
    expect(out).toMatch(/^\d+ ok, \d+ to look at, 0 wrong$/m);
  });

  test("I2: lets the agent's own word stand where it has looked itself", async () => {
    const { findings } = await look(
      "--machine",
      made.at("machine"),
      "--cabinet",
      made.at("cabinet.img"),
      "--tcti",
      tpm.tcti,
    );
    expect(levels(findings, "tpm")).toEqual(["ok"]);
    expect(levels(findings, "sealed")).toContain("fail");
  });
});

describe("doctor and an HSM's library", () => {
  let token: SoftHsmToken;
  beforeAll(async () => {
    mkdirSync(at("softhsm"));
    token = await createSoftHsmToken({ directory: at("softhsm"), pin: "4711", label: "signing" });
    process.env["SOFTHSM2_CONF"] = at("softhsm/softhsm2.conf");
  });
  afterAll(async () => {
    delete process.env["SOFTHSM2_CONF"];
    await token?.close();
  });

  function library(name: string, body: string): string {
    writeFileSync(at(`${name}.c`), `#include <stdlib.h>\n#include <unistd.h>\n${body}\n`);
    execFileSync("gcc", ["-shared", "-fPIC", "-o", at(`${name}.so`), at(`${name}.c`)]);
    return at(`${name}.so`);
  }

  test("I11: finds its token without a log-in, and says which one is not there", async () => {
    const good = await look("--module", SOFTHSM_LIBRARY, "--token", "signing");
    expect(good).toMatchObject({
      code: 0,
      findings: [{ id: "hsm", level: "ok", got: expect.stringContaining(token.serial) }],
    });
    const other = await look("--module", SOFTHSM_LIBRARY, "--token", "other");
    expect(other).toMatchObject({ code: 4, findings: [{ level: "fail", got: "signing" }] });
  });

  test("I11: sees that somebody tried a wrong PIN, and tries none itself", async () => {
    const wrong = [
      "--module",
      SOFTHSM_LIBRARY,
      "--login",
      "--pin",
      "0000",
      "--token-label",
      "signing",
      "--list-objects",
    ];
    expect(() => execFileSync("pkcs11-tool", wrong, { stdio: "ignore" })).toThrow();
    for (let times = 0; times < 2; times += 1) {
      const { findings } = await look("--module", SOFTHSM_LIBRARY, "--token", "signing");
      expect(findings).toMatchObject([{ level: "warn", got: expect.stringMatching(/^one at least: signing/) }]);
    }
  });

  test("I10: a library that is none, crashes, or ends the process is a line, and the command goes on", async () => {
    const crash = library("crash", "__attribute__((constructor)) static void now(void) { abort(); }");
    const ends = library("ends", "__attribute__((constructor)) static void now(void) { _exit(0); }");
    for (const module of ["/nonexistent.so", made.at("random"), crash, ends]) {
      const { code, findings } = await look("--module", module);
      expect({ code, findings }).toMatchObject({ code: 4, findings: [{ id: "hsm", level: "fail" }] });
    }
  });
});

describe("doctor and a host's configuration", () => {
  test("I5: names what it gives beyond the policy, each with its fix", async () => {
    writeFileSync(at("good.xml"), GOOD);
    writeFileSync(at("ours"), lineOf(OURS));
    writeFileSync(
      at("open.xml"),
      GOOD.replace("<rng", "<interface type='network'><source network='default'/></interface><rng"),
    );
    const open = await look("--host", at("open.xml"));
    expect(open.code).toBe(4);
    expect(open.findings).toContainEqual(
      expect.objectContaining({
        id: "host",
        level: "fail",
        got: expect.stringMatching(/^network: /),
        fix: expect.any(String),
      }),
    );
    const policy = await look("--host", at("ours"), "--policy", made.at("policy.json"));
    expect(policy.findings.every(({ id }) => id === "host")).toBe(true);
    expect(policy.findings.some(({ got }) => got.includes("/sys"))).toBe(false); // nothing is named by its place
    writeFileSync(at("none"), "<domain>");
    expect((await look("--host", at("none"))).findings).toMatchObject([
      { id: "host", level: "fail", got: expect.stringContaining("ERR_HOST_MALFORMED") },
    ]);
  });
});

test("I5: says on whose /sys a device was judged that is named by its place, and of another host's knows nothing", async () => {
  writeFileSync(at("passed"), lineOf([...OURS, "-device", "vfio-pci,host=0000:00:00.0"]));
  const here = await look("--host", at("passed"));
  expect(here.findings).toContainEqual(
    expect.objectContaining({
      id: "host",
      level: "ok",
      got: expect.stringContaining(`/sys of this host, ${hostname()}`),
    }),
  );
  const elsewhere = await look("--host", at("passed"), "--elsewhere");
  expect(elsewhere.findings.some(({ got }) => got.includes(hostname()))).toBe(false);
  expect(elsewhere.findings).toContainEqual(
    expect.objectContaining({
      id: "host",
      level: "fail",
      got: expect.stringMatching(/vfio-pci.*nobody looked what is there/),
    }),
  );
});

test("I10: options that belong to another one are refused without it", async () => {
  for (const line of [
    ["--token", "x"],
    ["--policy", "x"],
    ["--elsewhere"],
    ["--store", "x"],
    ["--config", made.at("policy.json"), "--tcti", "x"],
    ["--config", made.at("policy.json"), "--cabinet", "x"],
  ])
    expectComplaint(await cli(["doctor", ...line]), 2, "--");
});

describe("sessions and status of a machine", () => {
  test("I6: are lists of what it says; a session that is not there is refused", async () => {
    const empty = await cli(["sessions", "--machine", made.at("machine")]);
    expect(empty).toMatchObject({ code: 0, out: expect.stringMatching(/^session +scope +door +uid\/pid unit/) });
    expect(JSON.parse((await cli(["sessions", "--machine", made.at("machine"), "--json"])).out)).toEqual({
      sessions: [],
      more: 0,
    });
    expectComplaint(await cli(["sessions", "end", "7", "--machine", made.at("machine")]), 4, "end-session");
    expectComplaint(await cli(["sessions", "end", "07", "--machine", made.at("machine")]), 2, "SESSION");
  });

  test("I8: what is frozen stands in the status, and a machine that is frozen as a whole does not serve", async () => {
    const whole = await startStatusMachine({ state: "serving", tokens: [], frozen: { all: true, scopes: [] } });
    expect(await cli(["status", "--machine", whole.directory])).toMatchObject({
      code: 1,
      out: expect.stringMatching(/^frozen: everything$/m),
    });
    whole.say({
      state: "serving",
      tokens: [],
      frozen: { all: false, scopes: ["vault", "raw"] },
      violations: { socket: 2 },
    });
    expect(await cli(["status", "--machine", whole.directory])).toMatchObject({
      ...{
        code: 0,
        out: expect.stringMatching(/^frozen: vault, raw\nattempts at what the sandbox denies: socket 2$/m),
      },
    });
    whole.say({ state: "serving", tokens: [], frozen: null });
    expect((await cli(["status", "--machine", whole.directory])).out).not.toContain("frozen");
    await whole[Symbol.asyncDispose]();
  });
});

/** A machine that answers `status` with what it is told to. */
async function startStatusMachine(status: object) {
  let said = status;
  const machine = await startApprovalMachine({ pending: () => [], approve: () => Promise.reject(new Error("none")) });
  machine.answer = async (line) => JSON.stringify({ id: JSON.parse(line).id, ok: true, ...said });
  return Object.assign(machine, {
    say: (next: object) => {
      said = next;
    },
  });
}
