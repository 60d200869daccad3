import { execFileSync } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openAudit } from "../../../agent/audit/open.ts";
import { parseConfig } from "../../../agent/config.ts";
import {
  CATALOGUE,
  clockFinding,
  diskFindings,
  documentFindings,
  examine,
  type Finding,
  fail,
  latestRecord,
  MAX_FINDINGS,
  ok,
  permissionFindings,
  policyFindings,
  releaseFindings,
  sealedFindings,
} from "../../../agent/doctor/index.ts";
import { AgentError } from "../../../agent/errors.ts";
import { readInputs } from "../../../agent/launch/inputs.ts";
import { EPOCH_STRIDE, openCabinet, parsePolicy } from "../../../policy/index.ts";
import { memoryMedium, Store } from "../../../seal/index.ts";
import { ENTRY } from "../../support/audit-fixture.ts";
import { type CliFixture, makeCliFixture } from "../../support/cli-fixture.ts";
import { systemTree } from "../../support/system-tree.ts";

let made: CliFixture;
beforeAll(async () => {
  made = await makeCliFixture();
}, 120_000);
afterAll(() => made?.[Symbol.asyncDispose]());

const NOW = new Date();
const DAY = 86_400_000;
const later = (days: number) => new Date(NOW.getTime() + days * DAY);
const short = (findings: readonly Finding[]) => findings.map(({ id, level }) => `${id} ${level}`);
const levelOf = (findings: readonly Finding[], id: Finding["id"]) =>
  findings.filter((found) => found.id === id).map(({ level }) => level);

function inputsOf(change: (bytes: Uint8Array) => void = () => {}) {
  const bytes = new Uint8Array(readFileSync(made.at("cabinet.img")));
  change(bytes);
  return readInputs(
    openCabinet((offset, length) => bytes.slice(offset, offset + length)),
    Store.open(memoryMedium()).store.content,
  );
}

describe("a cabinet", () => {
  test("I2: of good documents is good, and what is not yet so is said of each", async () => {
    const found = documentFindings(await inputsOf(), { epoch: 1n, now: NOW });
    expect(found.filter(({ level }) => level === "fail")).toEqual([]);
    expect(levelOf(found, "cabinet")).toEqual(["ok"]);
    expect(levelOf(found, "release-epoch")).toEqual(["ok"]);
  });

  test("I2 I10: that holds nothing says what is missing, a line for each document", async () => {
    const empty = await readInputs({ slot: () => null, end: 0 }, Store.open(memoryMedium()).store.content);
    const found = documentFindings(empty, { epoch: null, now: NOW });
    expect(found.every(({ level }) => level === "fail")).toBe(true);
    expect(found.map(({ expected }) => expected?.split(":")[0])).toEqual(["anchors", "policy", "module"]);
  });

  test("I2: a policy that waits for its review, or is far from it, says so", () => {
    const policy = parsePolicy(new Uint8Array(readFileSync(made.at("policy.json"))));
    const due = Date.parse(policy.reviewBy);
    expect(levelOf(policyFindings(policy, due - 30 * DAY), "policy-review")).toEqual(["ok"]);
    expect(levelOf(policyFindings(policy, due + 2 * DAY), "policy-review")).toEqual(["warn"]);
    expect(levelOf(policyFindings(policy, due - 400 * DAY), "policy-review")).toEqual(["warn"]);
    const found = policyFindings(policy, due - DAY).filter(({ id }) => id === "policy");
    expect(found[0]).toMatchObject({ level: "warn", got: "unused-key: keys.vault: no scope shows it" });
    const others = found.map(({ got }) => got.split(":")[0]);
    expect(others).toEqual(["unused-key", "unused-caller", "two-schemes"]);
  });

  test("I2: a release that ends soon is a warning, one out of its dates or epoch a failure", async () => {
    const { partial } = await inputsOf();
    const releases = partial.releases ?? [];
    const [release] = releases;
    if (release === undefined) throw new Error("no release in the fixture");
    const days = Math.floor((Date.parse(release.notAfter) - NOW.getTime()) / DAY);
    const dates = [days - 60, days - 10, days + 2, -400].map((day) =>
      levelOf(releaseFindings(releases, later(day), null), "release"),
    );
    expect(dates).toEqual([["ok"], ["warn"], ["fail"], ["fail"]]);
    const counter = (epoch: number) => BigInt(EPOCH_STRIDE * epoch);
    const epochs = [counter(release.epoch), counter(release.epoch + 1)].map((epoch) =>
      releaseFindings(releases, NOW, epoch),
    );
    expect(epochs.map((found) => levelOf(found, "release-epoch"))).toEqual([["ok"], ["fail"]]);
    const second = { ...release, name: "second", epoch: release.epoch + 1 };
    expect(levelOf(releaseFindings([release, second], NOW, counter(release.epoch + 1)), "release-epoch")).toEqual([
      "warn",
    ]);
  });

  test("I2: a release key whose epochs are nearly used up is a warning, and one without any a failure", async () => {
    const { partial } = await inputsOf();
    const [release] = partial.releases ?? [];
    if (release === undefined) throw new Error("no release in the fixture");
    const until = (lastEpoch: number) => [{ ...release, delegation: { ...release.delegation, lastEpoch } }];
    const at = (lastEpoch: number, epoch: bigint) =>
      levelOf(releaseFindings(until(lastEpoch), NOW, epoch), "trust-root");
    expect([at(9, 1n), at(release.epoch + 2, 1n), at(1, BigInt(EPOCH_STRIDE * 2))]).toEqual([
      ["ok"],
      ["warn"],
      ["fail"],
    ]);
  });
});

test("I2 I3: a credential is judged by all but the agent PCR, which is capped after every launch", () => {
  const found = (code: string, item: string, blocks: boolean) =>
    ({ code, item, expected: "a", got: "b", blocks, advice: "do" }) as never;
  const check = (...findings: never[]) => sealedFindings([{ name: "hsm-pin", findings }]);
  expect(short(check(found("agent-pcr-capped", "PCR 13 (sha256)", true)))).toEqual(["sealed ok"]);
  expect(check(found("measurement-changed", "PCR 4 (sha256)", true))).toMatchObject([
    { level: "fail", got: "measurement-changed: b", fix: "do" },
  ]);
  expect(short(check(found("tpm-locked-out", "lockout", false)))).toEqual(["sealed warn"]);
  expect(short(sealedFindings([]))).toEqual(["sealed warn"]);
});

describe("the clock", () => {
  const at = Date.parse("2026-11-26T12:00:00Z");

  test("I8: behind the audit log's last record is a failure; apart from the board's a warning", () => {
    using tree = systemTree();
    expect(clockFinding(tree.files, at, at - 1)).toMatchObject({
      level: "ok",
      got: expect.stringContaining("no clock on the board"),
    });
    expect(clockFinding(tree.files, at, at + 1500)).toMatchObject({
      level: "fail",
      got: expect.stringContaining("2 s behind"),
    });
    using board = systemTree({ "/sys/class/rtc/rtc0/since_epoch": `${at / 1000 - 60}\n` });
    expect(clockFinding(board.files, at, 0).level).toBe("ok");
    expect(clockFinding(board.files, at + 600_000, 0)).toMatchObject({
      level: "warn",
      got: expect.stringContaining("660 s apart"),
    });
  });

  test("I8: is compared with what a real log says, and with nothing where there is none or it is torn", async () => {
    using tree = systemTree();
    expect(latestRecord(tree.files, "/audit")).toBe(0);
    const log = openAudit({ directory: join(tree.root, "audit"), now: () => at, anchor: null });
    await log.append(ENTRY, "durable");
    log.close();
    expect(latestRecord(tree.files, "/audit")).toBe(at);
    writeFileSync(join(tree.root, "audit/0000000000000001.log"), "{", { flag: "a" });
    expect(latestRecord(tree.files, "/audit")).toBe(0);
  });
});

describe("the disks", () => {
  const config = (changes: object) => ({ auditLog: "/audit", stateVolume: true, store: "/store", ...changes });

  test("I8: a log that has no place, or lies on a plain file system, is told from one on its volume; so is a store", () => {
    using tree = systemTree({ "/audit/x": "", "/store": "" });
    expect(short(diskFindings(tree.files, config({})))).toEqual(["disk ok", "disk ok"]);
    expect(short(diskFindings(tree.files, config({ stateVolume: false, store: null })))).toEqual([
      "disk warn",
      "disk warn",
    ]);
    const absent = { auditLog: "/none", store: "/none" };
    expect(short(diskFindings(tree.files, config(absent)))).toEqual(["disk warn", "disk warn"]);
    expect(short(diskFindings(tree.files, config({ ...absent, stateVolume: false })))).toEqual([
      "disk fail",
      "disk warn",
    ]);
  });

  test("I8: room that gets short is a warning, and a failure before signing stops", () => {
    const script = resolve(import.meta.dirname, "../../support/doctor-disk.ts");
    using tree = systemTree();
    mkdirSync(join(tree.root, "audit"));
    const mount = `mount -t tmpfs -o size=4m tmpfs "$0/audit" && exec "$1" "$2" "$0"`;
    const said = execFileSync("unshare", [
      "--user",
      "--map-root-user",
      "--mount",
      "sh",
      "-c",
      mount,
      tree.root,
      process.execPath,
      script,
    ]);
    expect(JSON.parse(said.toString())).toEqual(["ok", "warn", "fail"]);
  });
});

describe("permissions", () => {
  const CONFIG = resolve(import.meta.dirname, "../../../vm-images/guest/etc/ironclaw/agent.json");
  const uid = process.getuid?.() ?? 0;

  async function machineTree() {
    const tree = systemTree({
      "/etc/ironclaw/agent.json": readFileSync(CONFIG, "utf8"),
      "/programs/shim": "",
      "/cabinet": "",
      "/store": "",
    });
    for (const name of ["scopes", "audit"]) mkdirSync(join(tree.root, name));
    const config = {
      ...parseConfig(new Uint8Array(readFileSync(CONFIG))),
      ...{ programs: "/programs", scopes: "/scopes", auditLog: "/audit", store: "/store", cabinet: "/cabinet" },
    };
    const server = createServer().listen(join(tree.root, "scopes/signing.sock"));
    if (!existsSync(join(tree.root, "scopes/signing.sock")))
      await new Promise((done) => server.once("listening", done));
    const set = (path: string, mode: number) => chmodSync(join(tree.root, path), mode);
    for (const [path, mode] of Object.entries(GOOD)) set(path, mode);
    const look = (owner = uid) => permissionFindings(tree.files, config, "/etc/ironclaw/agent.json", owner);
    return {
      ...tree,
      set,
      look,
      [Symbol.dispose]: () => {
        server.close();
        tree[Symbol.dispose]();
      },
    };
  }

  const GOOD = {
    ...{ "etc/ironclaw/agent.json": 0o644, programs: 0o755, "programs/shim": 0o755, scopes: 0o755 },
    ...{ "scopes/signing.sock": 0o666, audit: 0o700, store: 0o600, cabinet: 0o640 },
  } as const;

  test("I1 I8: as they should be are one line", async () => {
    using machine = await machineTree();
    expect(machine.look()).toMatchObject([{ level: "ok", got: "8 files, folders and sockets" }]);
  });

  test.each([
    ["etc/ironclaw/agent.json", 0o664],
    ["programs", 0o777],
    ["programs/shim", 0o775],
    ["scopes", 0o777],
    ["scopes/signing.sock", 0o660],
    ["audit", 0o750],
    ["store", 0o604],
    ["cabinet", 0o642],
  ])("I1 I8: %s with mode %o is named, with what to do", async (path, mode) => {
    using machine = await machineTree();
    machine.set(path, mode);
    expect(machine.look()).toMatchObject([
      { level: "fail", expected: expect.stringContaining(`/${path}: mode 0`), fix: expect.stringMatching(/^chmod 0/) },
    ]);
  });

  test("I1: programs of another owner are named, and a file in a socket's place", async () => {
    using machine = await machineTree();
    expect(machine.look(uid + 1).map(({ fix }) => fix?.split(" ")[0])).toEqual(["chown", "chown", "chown"]);
    writeFileSync(join(machine.root, "scopes/other.sock"), "");
    expect(machine.look()).toMatchObject([{ level: "fail", expected: "/scopes/other.sock: a socket" }]);
  });
});

describe("a look", () => {
  test("I10: that fails is a line of its own, and the others go on", async () => {
    const found = await examine([
      {
        id: "tpm",
        run: () => Promise.reject(new AgentError("ERR_ENVIRONMENT", "a thing", { expected: "it", got: "none" })),
      },
      {
        id: "disk",
        run: () => {
          throw new Error("secret detail");
        },
      },
      { id: "swap", run: () => [ok("swap", "none")] },
    ]);
    expect(short(found)).toEqual(["tpm fail", "disk fail", "swap ok"]);
    expect(found[0]?.got).toBe("ERR_ENVIRONMENT: a thing: expected it, got none");
    expect(JSON.stringify(found)).not.toContain("secret detail");
  });

  test("I10: answers no more than it may, in lines that are no longer than they may be", async () => {
    const many = Array.from({ length: 300 }, () => fail("policy", { got: `\u001b[31m${"x".repeat(9000)}\n` }));
    const found = await examine([{ id: "policy", run: () => many }]);
    expect(found).toHaveLength(MAX_FINDINGS);
    expect(found.at(-1)).toMatchObject({ id: "too-many", got: "101 more" });
    expect(found.every(({ got, fix = "" }) => got.length <= 400 && fix.length <= 400)).toBe(true);
    expect(JSON.stringify(found)).not.toContain("\\u001b");
  });
});

test("the README explains every id, and none that there is not", () => {
  const readme = readFileSync(resolve(import.meta.dirname, "../../../agent/doctor/README.md"), "utf8");
  const rows = [...readme.matchAll(/^\| `([a-z0-9-]+)` \|/gm)].map(([, id]) => id);
  expect(rows.toSorted()).toEqual(Object.keys(CATALOGUE).toSorted());
});
