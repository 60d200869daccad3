import { type ChildProcess, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir, uptime } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { type ConnectedProcess, createPeerIdentity, verifySamePeer } from "../../agent/identity.ts";
import { openProcesses, parseNamespaces, parseStart, parseUnit } from "../../agent/processes.ts";
import { SIGNER_PEER } from "../support/broker-fixture.ts";
import { native } from "../support/shim-fixture.ts";

const addon = native();
const digest = new Uint8Array(32).fill(0x5e);

let directory: string;
let child: ChildProcess;
let pid: number;
let connected: ConnectedProcess;

/** A process that connects, and its pidfd. */
beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), "identity-"));
  const path = join(directory, "s");
  const fd = addon.listen(path);
  const accepted = new Promise<ConnectedProcess>((resolve) => {
    const listener = addon.accept(fd, (stream, connector) => {
      resolve({ ...connector, pidfd: stream.pidfd() ?? -1, accepted: uptime() });
      stream.close();
      listener.close();
    });
  });
  child = spawn(process.execPath, [
    "-e",
    `require("node:net").connect(${JSON.stringify(path)}).on("error", () => {}); setInterval(() => {}, 1e6)`,
  ]);
  pid = child.pid ?? 0;
  connected = await accepted;
});
afterEach(() => {
  child.kill("SIGKILL");
  addon.closeFd(connected.pidfd);
  rmSync(directory, { recursive: true });
});

/** A /proc that says something else of that process than the kernel does. */
function otherProc(files: { cgroup?: string; stat?: string; status?: string }): string {
  const folder = join(directory, "proc", `${pid}`);
  mkdirSync(folder, { recursive: true });
  for (const file of ["cgroup", "stat", "status"] as const) {
    writeFileSync(join(folder, file), files[file] ?? readFileSync(`/proc/${pid}/${file}`));
  }
  mkdirSync(join(directory, "proc", "self"), { recursive: true });
  writeFileSync(join(directory, "proc", "self", "status"), readFileSync("/proc/self/status"));
  return join(directory, "proc");
}

const identify = (change: Partial<ConnectedProcess> = {}, proc = "/proc", executablePid = pid) =>
  createPeerIdentity({
    executableOf: async () => ({ pid: executablePid, sha256: digest }),
    isAlive: (fd) => addon.isAlive(fd),
    processes: openProcesses(proc),
  })({ ...connected, ...change });

describe("peer identity", () => {
  it("I6: user, group and process are what the kernel recorded at connect, and the pidfd is that process's", async () => {
    expect(connected).toMatchObject({ pid, uid: process.getuid?.(), gid: process.getgid?.() });
    expect(readFileSync(`/proc/self/fdinfo/${connected.pidfd}`, "utf8")).toContain(`\nPid:\t${pid}\n`);
    const exe = `sha256:${"5e".repeat(32)}`;
    expect(await identify()).toMatchObject({ pid, uid: connected.uid, gid: connected.gid, exe });
  });

  it("I6: an executable of another process than the pidfd's is none of this peer's", async () => {
    await expect(identify({}, "/proc", pid + 1)).rejects.toMatchObject({ code: "ERR_SPAWNER" });
  });

  it("I10: the executable of a peer whose user or unit is no caller's is not looked at", async () => {
    let asked = 0;
    const identifyOther = createPeerIdentity({
      executableOf: async () => {
        asked += 1;
        return { pid, sha256: digest };
      },
      isAlive: (fd) => addon.isAlive(fd),
      processes: openProcesses(),
    });
    expect(await identifyOther({ ...connected, mayCall: () => false })).toMatchObject({ pid, exe: "unknown" });
    expect(asked).toBe(0);
    const other = identifyOther({ ...connected, mayCall: (uid) => uid === connected.uid });
    expect((await other).exe).toBe(`sha256:${"5e".repeat(32)}`);
    expect(asked).toBe(1);
  });

  it("I6: the unit is the last component of the cgroup v2 path", async () => {
    const proc = otherProc({ cgroup: "1:cpu:/other.service\n0::/system.slice/signer.service\n" });
    expect((await identify({}, proc)).unit).toBe("signer.service");
    expect((await identify({}, otherProc({ cgroup: "0::/\n" }))).unit).toBeNull();
  });

  it("I6: what /proc said of the number is not believed once the process has ended", async () => {
    const proc = otherProc({ cgroup: "0::/system.slice/signer.service\n" });
    child.kill("SIGKILL");
    await new Promise((resolve) => child.once("exit", resolve));
    await expect(identify({}, proc)).rejects.toMatchObject({ code: "ERR_FOREIGN_SENDER" });
    await expect(identify()).rejects.toThrow("process cgroup: cannot be read");
  });

  it("I6: where only its number names it, a process that started after the connection was accepted is another one", async () => {
    expect(await identify({ byNumber: true })).toMatchObject({ pid });
    const started = openProcesses().startOf(pid);
    expect(await identify({ byNumber: true, accepted: started })).toMatchObject({ pid });
    const reused = identify({ byNumber: true, accepted: started - 0.01 });
    await expect(reused).rejects.toThrow("peer process: expected one older than its connection");
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    const younger = stat.replace(` ${Math.round(started * 100)} `, ` ${Math.round(connected.accepted * 100) + 1} `);
    await expect(identify({ byNumber: true }, otherProc({ stat: younger }))).rejects.toMatchObject({
      code: "ERR_FOREIGN_SENDER",
    });
    await expect(identify({ byNumber: true }, otherProc({ stat: "1 (x)" }))).rejects.toMatchObject({
      code: "ERR_ENVIRONMENT",
    });
  });

  it("I6: a process in a PID namespace of its own is no peer: its owner could forge who sends", async () => {
    const own = readFileSync(`/proc/${pid}/status`, "latin1");
    const inner = own.replace(/^NSpid:.*$/m, (line) => `${line}\t1`);
    await expect(identify({}, otherProc({ status: inner }))).rejects.toThrow(
      "peer PID namespace: expected the agent's",
    );
    await expect(identify({}, otherProc({ status: "Name:\tx\n" }))).rejects.toMatchObject({ code: "ERR_ENVIRONMENT" });
  });

  it("I6: another executable or another unit is another peer; the same ones are the same", () => {
    verifySamePeer(SIGNER_PEER, { ...SIGNER_PEER });
    for (const change of [{ exe: "sha256:00" as const }, { unit: "other.service" }])
      expect(() => verifySamePeer(SIGNER_PEER, { ...SIGNER_PEER, ...change })).toThrow(/^peer (executable|unit): /);
  });
});

describe("what /proc says", () => {
  it.each([
    ["0::/system.slice/signer.service\n", "signer.service"],
    ["0::/a/b@c:1.service", "b@c:1.service"],
    ["12:pids:/x.service\n1:name=systemd:/y.service\n", null],
    ["0::/\n", null],
    ["0::/signer.service (deleted)\n", null],
    ["0::/system.slice/signer.service/\n", null],
    [`0::/${"x".repeat(256)}\n`, null],
    ["", null],
  ])("I6: in %j the unit is %j", (text, unit) => {
    expect(parseUnit(text)).toBe(unit);
  });

  it("I6: a program cannot give itself another start time by its name", () => {
    const rest = Array.from({ length: 49 }, (_, index) => `${index + 4}`).join(" ");
    for (const name of ["node", "a) S 1 2 3", "((", "a b"]) expect(parseStart(`77 (${name}) S ${rest}`)).toBe(0.22);
  });

  it("I6: PID namespaces are counted at NSpid, and a program's name is not taken for it", () => {
    expect(parseNamespaces("Name:\tNSpid:\t1\nNSpid:\t77\nNSpgid:\t1\t2\n")).toBe(1);
    expect(parseNamespaces("Name:\tx\nNSpid:\t77\t5\t1\n")).toBe(3);
    for (const text of ["", "Name:\tNSpid:\t1\n", "NSpid:\n", "NSpid:\t\n", "NSpid:\t1x\n"])
      expect(() => parseNamespaces(text)).toThrow("process status NSpid");
  });

  it("I10: every text gives a unit's name or none, and a time or a typed error", () => {
    fc.assert(
      fc.property(fc.string(), fc.string(), (before, after) => {
        const unit = parseUnit(`${before}\n0::/${after}`);
        expect(unit === null || /^[\w:.\\@-]{1,255}$/.test(unit)).toBe(true);
        let time = 0;
        try {
          time = parseStart(`${before})${after}`);
        } catch (error) {
          expect(error).toMatchObject({ code: "ERR_ENVIRONMENT" });
        }
        expect(Number.isFinite(time) && time >= 0).toBe(true);
      }),
    );
  });
});
