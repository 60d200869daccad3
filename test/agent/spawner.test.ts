import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import {
  chmodSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { join, resolve } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import type { ShimFile, StartedShim } from "../../agent/spawner-client.ts";
import { encodePrepareShim, encodeStartShim, SPAWNER_OPS } from "../../agent/spawner-messages.ts";
import { ByteReader, ByteWriter, concatBytes, fromHex, toHex, utf8 } from "../../policy/index.ts";
import { startSwtpm } from "../support/swtpm.ts";
import {
  buildLastWords,
  buildPrograms,
  closureOf,
  type HostOptions,
  type HostSpawner,
  type Programs,
  shimUid,
  single,
  startSpawner,
} from "./spawner/host.ts";

const PROFILE = utf8("profile of the test\n");
const TOKEN = utf8("token file");
const CABINET = concatBytes(PROFILE, TOKEN);
const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex");
const profileSha256 = fromHex(sha256(PROFILE));

const range = (path: string, offset: number, length: number, writable = false): ShimFile => ({
  path,
  source: { kind: "cabinet", offset, length },
  executable: false,
  writable,
});
const rootFile = (path: string, from: string): ShimFile => ({
  path,
  source: { kind: "root", path: from },
  executable: false,
  writable: false,
});

const NO_DEVICES = { nodes: [], connect: [] } as const;

let programs: Programs;
let shimFiles: readonly ShimFile[];
const running: HostSpawner[] = [];

beforeAll(() => {
  programs = buildPrograms();
  shimFiles = [
    ...closureOf(programs.shim),
    range("/profile", 0, PROFILE.length),
    range("/state/token/object", PROFILE.length, TOKEN.length, true),
  ];
});
afterAll(() => programs.remove());
afterEach(async () => {
  for (const spawner of running.splice(0)) await spawner.stop();
});

async function started(options: HostOptions = {}): Promise<HostSpawner> {
  const spawner = await startSpawner(programs, {
    cabinet: CABINET,
    ...options,
  });
  running.push(spawner);
  return spawner;
}

async function startedShim(spawner: HostSpawner, environment: readonly string[] = []): Promise<StartedShim> {
  await spawner.client.prepareShim(0, shimFiles);
  return spawner.client.startShim({
    id: 0,
    profileSha256,
    environment,
    writable: ["/state"],
    ...NO_DEVICES,
  });
}

/** Everything the stand-in shim says until it says `end`. */
async function saidBy(spawner: HostSpawner, fd: number): Promise<readonly string[]> {
  for (let text = ""; ; ) {
    const bytes = await spawner.read(fd);
    if (bytes.length === 0) return text.split("\n");
    text += new TextDecoder().decode(bytes);
    if (text.endsWith("end\n")) return text.split("\n").slice(0, -2);
  }
}

describe("prepare-shim", () => {
  test("I1: the digest of every file is that of the bytes that were copied, at every length around a block", async () => {
    const data = Uint8Array.from({ length: 300_000 }, (_, index) => (index * 7 + (index >> 8)) & 0xff);
    const lengths = [
      ...Array.from({ length: 200 }, (_, index) => index),
      4095,
      4096,
      262_143,
      262_144,
      262_145,
      299_990,
    ];
    const spawner = await started({ cabinet: data });
    const digests = await spawner.client.prepareShim(
      0,
      lengths.map((length, index) => range(`/f${index}`, 10, length)),
    );
    expect(digests.map(({ sha256: digest, size }) => `${size} ${toHex(digest)}`)).toEqual(
      lengths.map((length) => `${length} ${sha256(data.subarray(10, 10 + length))}`),
    );
  });

  test("the examples of FIPS 180-4 have their published digests", async () => {
    const texts = ["abc", "", "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"];
    const spawner = await started({ cabinet: utf8(texts.join("")) });
    const files = texts.map((text, index) => range(`/f${index}`, texts.slice(0, index).join("").length, text.length));
    expect((await spawner.client.prepareShim(0, files)).map(({ sha256: digest }) => toHex(digest))).toEqual([
      "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
      "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
      "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
    ]);
  });

  test.each([
    ["profile", "relative"],
    ["/a/../b", "with .."],
    ["/a/./b", "with ."],
    ["/a//b", "with an empty component"],
    ["/a/", "with a slash at its end"],
    ["/", "without a name"],
    ["/a\nb", "with a control character"],
    ["/ü", "not ASCII"],
    [`/${"a".repeat(256)}`, "with a component that is too long"],
    ["/d".repeat(17), "too deep"],
  ])("I1: a destination %j (%s) is refused", async (path) => {
    const spawner = await started();
    await expect(spawner.client.prepareShim(0, [range(path, 0, 1)])).rejects.toMatchObject({ code: "ERR_SPAWNER" });
  });

  test("I1: a destination that exists already is refused, so no measured file is replaced by a later one", async () => {
    const spawner = await started();
    await expect(spawner.client.prepareShim(0, [range("/a", 0, 1), range("/a", 1, 1)])).rejects.toThrow(/exists/i);
    await expect(spawner.client.prepareShim(1, [range("/b", 0, 1), range("/b/c", 1, 1)])).rejects.toThrow(/directory/i);
  });

  test("a cabinet range beyond the cabinet's end is refused", async () => {
    const spawner = await started();
    await expect(spawner.client.prepareShim(0, [range("/a", 0, CABINET.length + 1)])).rejects.toThrow(/no data/i);
    await expect(spawner.client.prepareShim(1, [range("/a", 2 ** 52, 1)])).rejects.toThrow(/no data/i);
    await expect(spawner.client.prepareShim(2, [range("/a", 0, 2 ** 40)])).rejects.toThrow(/too large/i);
  });

  test("a source that is no regular file, or that only its owner may read, is refused", async () => {
    const closed = join(programs.directory, "closed");
    writeFileSync(closed, "not for the agent");
    chmodSync(closed, 0o640);
    const spawner = await started();
    for (const [id, path] of ["/", "/dev/zero", closed, "/proc/self/exe", "relative", "/nowhere"].entries()) {
      await expect(spawner.client.prepareShim(id, [rootFile("/a", path)]), path).rejects.toMatchObject({
        code: "ERR_SPAWNER",
      });
    }
  });

  test("a link in the measured root is followed to the file whose bytes are hashed", async () => {
    const link = join(programs.directory, "link");
    symlinkSync(programs.shim, link);
    const spawner = await started();
    const [digest] = await spawner.client.prepareShim(0, [rootFile("/a", link)]);
    expect(toHex(digest?.sha256 ?? new Uint8Array())).toBe(sha256(readFileSync(programs.shim)));
  });
});

describe("start-shim", () => {
  test("I5: the shim is alone: own namespaces and root, one uid, no capability, two descriptors", async () => {
    const spawner = await started();
    const { fds, pid } = await startedShim(spawner, ["SOFTHSM2_CONF=/etc/softhsm2.conf", "EMPTY="]);
    const said = await saidBy(spawner, fds.request);
    expect(said.filter((line) => !line.startsWith("entry "))).toEqual([
      "fds 0 1 2 3 4 5", // 5 is the probe's own copy of 3
      ...[0, 1, 2].map((fd) => `fd${fd} chr 103`),
      "host shim",
      "core 0",
      ...["arg shim", "arg /profile", "env SOFTHSM2_CONF=/etc/softhsm2.conf", "env EMPTY="],
      ...[`uids ${shimUid} ${shimUid} ${shimUid}`, `gids ${shimUid} ${shimUid} ${shimUid}`],
      // Groups of a developer's own account cannot be dropped by a single uid; they mean nothing in its namespace.
      ...(single ? [expect.stringMatching(/^groups /)] : ["groups 0"]),
      ...["pid 1", "ppid 0", "caps 0 0 0", "bounding 0", "no_new_privs 1", "pdeathsig 9"],
      ...["flags / ro nosuid nodev", "flags /state nosuid nodev noexec"],
      ...["try create in / EROFS", "try write /profile EROFS"],
      "try create in /state works",
      ...["try mkdir /lib-new EROFS", "try remount / rw EPERM"],
      ...["try mount proc EPERM", "try sethostname EPERM"],
      ...(single ? ["try setuid 0 works"] : ["try setuid 0 EINVAL"]),
      ...["try open /proc ENOENT", "try open /dev/null ENOENT"],
      ...["try chroot EPERM", "cwd /", "interfaces besides lo 0", "lo down"],
    ]);
    const status = await spawner.client.shimStatus(0);
    expect(status.state).toBe("running");
    expect(status.fields.get("Pid")).toBe(`${pid}`);
    expect(status.fields.get("CapEff")).toBe("0".repeat(16));
    expect(status.fields.get("NoNewPrivs")).toBe("1");
    expect(readFileSync(`/proc/${pid}/oom_score_adj`, "utf8")).toBe("500\n");
    expect(status.ownNamespaces.map((name) => name.replace(/:\[\d+\]$/, ""))).toEqual([
      "cgroup",
      "ipc",
      "mnt",
      "net",
      "pid",
      "user",
      "uts",
    ]);
  });

  test("I1: in the shim's root there is exactly what was asked for, with read-only modes", async () => {
    const spawner = await started();
    const { fds } = await startedShim(spawner);
    const entries = (await saidBy(spawner, fds.request)).flatMap(
      (line) => /^entry (\S+) (\S+) (\S+)$/.exec(line)?.slice(1, 4).join(" ") ?? [],
    );
    const files = shimFiles.map(
      ({ path, executable, writable }) => `${path} ${writable ? 600 : executable ? 555 : 444} file`,
    );
    expect(entries.filter((entry) => entry.endsWith(" file")).sort()).toEqual(files.sort());
    const directories = entries.filter((entry) => !entry.endsWith(" file"));
    expect(
      directories.filter((entry) => !entry.startsWith("/state")).every((entry) => entry.endsWith(" 755 directory")),
    ).toBe(true);
    expect(directories.filter((entry) => entry.startsWith("/state")).sort()).toEqual([
      "/state 700 directory",
      "/state/token 700 directory",
    ]);
  });

  test("I4: the PIN goes from the agent's pipe to the shim, and the pipe ends when the agent closes it", async () => {
    const spawner = await started();
    const { fds } = await startedShim(spawner);
    await saidBy(spawner, fds.request);
    await spawner.write(fds.pin, utf8("\u000412345678"));
    await spawner.close(fds.pin);
    expect(await saidBy(spawner, fds.request)).toEqual(["pin 9 bytes"]);
  });

  test("the status of an ended shim says how it ended", async () => {
    const spawner = await started();
    expect((await spawner.client.shimStatus(0)).state).toBe("never-started");
    const { fds } = await startedShim(spawner);
    await saidBy(spawner, fds.request);
    await spawner.close(fds.pin);
    await saidBy(spawner, fds.request); // closing it with bytes unread would be a reset, not an end
    await spawner.close(fds.request);
    let status = await spawner.client.shimStatus(0);
    for (let tries = 0; status.state === "running" && tries < 500; tries++) {
      await delay(10);
      status = await spawner.client.shimStatus(0);
    }
    expect(status).toMatchObject({
      state: "ended",
      waitStatus: 7 << 8,
      ownNamespaces: [],
    });
  });

  test("I1: a profile other than the measured one is refused", async () => {
    const spawner = await started();
    await spawner.client.prepareShim(0, shimFiles);
    const start = spawner.client.startShim({
      id: 0,
      profileSha256: new Uint8Array(32),
      environment: [],
      writable: ["/state"],
      ...NO_DEVICES,
    });
    await expect(start).rejects.toThrow(/not the profile/);
  });

  test.each([
    "LD_PRELOAD=/x",
    "LD_AUDIT=",
    "GLIBC_TUNABLES=x",
    "GCONV_PATH=/x",
    "MALLOC_CHECK_=1",
    "LOCPATH=/",
    "A",
    "=x",
    "1A=x",
    "A B=x",
    "A=\n",
  ])("I1: the environment entry %j is refused", async (entry) => {
    const spawner = await started();
    await expect(startedShim(spawner, ["GOOD=1", entry])).rejects.toThrow(/environment variable 1/);
  });

  test("a variable given twice is refused", async () => {
    await expect(startedShim(await started(), ["A=1", "A=2"])).rejects.toThrow(/twice/);
  });

  test("I1: a writable directory over measured files, inside another, or that leaves a token file out is refused", async () => {
    for (const [writable, why] of [
      [["/etc", "/state"], /File exists/],
      [["/state", "/state/token"], /inside another/],
      [["/elsewhere"], /in no writable directory/],
      [["/state", "/a/../b"], /normalised/],
    ] as const) {
      const spawner = await started();
      await spawner.client.prepareShim(0, [...shimFiles, range("/etc/conf", 0, 1)]);
      await expect(
        spawner.client.startShim({
          id: 0,
          profileSha256,
          environment: [],
          writable,
          ...NO_DEVICES,
        }),
      ).rejects.toThrow(why);
    }
  });

  test("a shim that cannot be executed is an error, not a started shim", async () => {
    const spawner = await started();
    await spawner.client.prepareShim(0, [range("/profile", 0, PROFILE.length)]);
    await expect(
      spawner.client.startShim({
        id: 0,
        profileSha256,
        environment: [],
        writable: [],
        ...NO_DEVICES,
      }),
    ).rejects.toThrow(/\/shim: No such file/);
  });

  test("I5: two shims run side by side, each with a root of its own", async () => {
    const spawner = await started();
    const first = await startedShim(spawner);
    await spawner.client.prepareShim(1, shimFiles);
    const second = await spawner.client.startShim({
      id: 1,
      profileSha256,
      environment: [],
      writable: ["/state"],
      ...NO_DEVICES,
    });
    await saidBy(spawner, first.fds.request);
    await saidBy(spawner, second.fds.request);
    const [one, two] = [await spawner.client.shimStatus(0), await spawner.client.shimStatus(1)];
    for (const [name, inode] of one.shimNamespaces) expect(two.shimNamespaces.get(name), name).not.toBe(inode);
  });
});

describe("stop-shim", () => {
  const mounts = (spawner: HostSpawner) => readFileSync(`/proc/${spawner.pid}/mountinfo`, "utf8");

  test("I5: a stopped shim is gone when the answer comes, its files too, and the other shims are not touched", async () => {
    const spawner = await started();
    const { pid } = await startedShim(spawner);
    await spawner.client.prepareShim(1, shimFiles);
    const request = { profileSha256, environment: [], writable: ["/state"], ...NO_DEVICES };
    await spawner.client.startShim({ id: 1, ...request });
    expect(mounts(spawner)).toMatch(/shims\/0(\.rw|\/state)? /);
    await spawner.client.stopShim(0);
    expect(existsSync(`/proc/${pid}`)).toBe(false);
    expect(mounts(spawner)).not.toMatch(/shims\/0/);
    expect(mounts(spawner)).toMatch(/shims\/1 /);
    expect(await spawner.client.shimStatus(0)).toMatchObject({ state: "ended", waitStatus: 9 });
    expect((await spawner.client.shimStatus(1)).state).toBe("running");
  });

  test("I5: it may be asked for again, for a shim that never was, and while workloads are served", async () => {
    const spawner = await started();
    await startedShim(spawner);
    await spawner.client.startWorkloads();
    for (const id of [0, 0, 15]) await spawner.client.stopShim(id);
    expect((await spawner.client.shimStatus(15)).state).toBe("never-started");
  });

  test("I4: what was delivered to a shim that ends by itself, or never starts, is gone with it", async () => {
    const spawner = await started();
    const { fds } = await startedShim(spawner);
    await spawner.client.prepareShim(1, shimFiles);
    await spawner.client.stopShim(1);
    await spawner.client.prepareShim(2, shimFiles);
    await expect(
      spawner.client.startShim({ id: 2, profileSha256, environment: [], writable: [], ...NO_DEVICES }),
    ).rejects.toThrow(/in no writable directory/);
    await saidBy(spawner, fds.request);
    await spawner.close(fds.pin);
    await spawner.close(fds.request);
    await expect.poll(() => mounts(spawner), { timeout: 20_000 }).not.toMatch(/shims\//);
  });

  test("sixteen shims run side by side", async () => {
    const spawner = await started();
    for (let id = 0; id < 16; id++) {
      await spawner.client.prepareShim(id, shimFiles);
      await spawner.client.startShim({ id, profileSha256, environment: [], writable: ["/state"], ...NO_DEVICES });
    }
    for (let id = 0; id < 16; id++) expect((await spawner.client.shimStatus(id)).state, `${id}`).toBe("running");
  });
});

test("I5: the filters that a shim has from its spawner are told apart from its own", async () => {
  for (const filters of [0, 2]) {
    const spawner = await started({ filters });
    const inherited =
      Number(/^Seccomp_filters:\s*(\d+)$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1]) + filters;
    expect(await spawner.client.shimStatus(0)).toMatchObject({ state: "never-started", inheritedFilters: inherited });
    await startedShim(spawner);
    const status = await spawner.client.shimStatus(0);
    expect(status.inheritedFilters).toBe(inherited);
    expect(status.fields.get("Seccomp_filters")).toBe(`${inherited}`);
  }
});

describe("peer-exe", () => {
  test("a process is known by the digest of its executable, asked once or twice", async () => {
    const spawner = await started();
    const agent = await spawner.logged(/agent started, pid (\d+)/);
    const pidfd = await spawner.pidfd(agent);
    for (let time = 0; time < 2; time++) {
      const peer = await spawner.client.peerExe(pidfd);
      expect({ ...peer, sha256: toHex(peer.sha256) }).toEqual({
        pid: agent,
        sha256: sha256(readFileSync(programs.agent)),
        path: realpathSync(programs.agent),
      });
    }
  });

  test("a workload is known by the digest of its program, whether that was measured ahead or not", async () => {
    const sleep = realpathSync("/usr/bin/sleep");
    const spawner = await started({ workloads: `nap 2001 - ${sleep} 60\n` });
    await spawner.client.startWorkloads();
    const pidfd = await spawner.pidfd(await spawner.logged(/nap: started as uid \d+, pid (\d+)/));
    for (let time = 0; time < 20; time++) {
      // Before its execve the child is still the spawner itself.
      const peer = await spawner.client.peerExe(pidfd).catch(() => null);
      if (peer?.path === sleep) expect(toHex(peer.sha256)).toBe(sha256(readFileSync(sleep)));
      await delay(5);
    }
    expect((await spawner.client.peerExe(pidfd)).path).toBe(sleep);
  });

  test("I6: a program that was changed without a trace in its times has another digest", async () => {
    const sleep = realpathSync("/usr/bin/sleep");
    const spawner = await started({ workloads: `chameleon 2001 - ${programs.chameleon} ${sleep}\n` });
    await spawner.client.startWorkloads();
    const chameleon = await spawner.logged(/chameleon: started as uid \d+, pid (\d+)/);
    const digestOf = async (pid: number): Promise<string> => {
      const pidfd = await spawner.pidfd(pid);
      for (;;) {
        const peer = await spawner.client.peerExe(pidfd).catch(() => null);
        // Before its execve the child is still the chameleon itself.
        if (peer?.path.startsWith("/memfd:") === true) return toHex(peer.sha256);
      }
    };
    for (const [index, last] of ["a", "b", "c"].entries()) {
      const pid = await spawner.logged(new RegExp(`copy ${index + 1} is (\\d+)\n`));
      expect(await digestOf(pid)).toBe(sha256(concatBytes(readFileSync(sleep), utf8(last))));
      process.kill(chameleon, "SIGUSR1");
    }
  });

  test("a process that has ended is nobody's caller", async () => {
    const spawner = await started();
    const sleeper = spawn("sleep", ["60"]);
    await once(sleeper, "spawn");
    const pidfd = await spawner.pidfd(sleeper.pid ?? -1);
    sleeper.kill("SIGKILL");
    await once(sleeper, "exit");
    await expect(spawner.client.peerExe(pidfd)).rejects.toThrow(/ended/);
  });
});

describe("workloads", () => {
  const uid = single ? 0 : 2001;

  test("each runs as its own user with an environment of its own, and nothing of the launch may follow", async () => {
    const workloads = "# comment\n\nshow 2001 workload.2001 /usr/bin/id -u\nlist 2001 - /usr/bin/env\n";
    const spawner = await started({ workloads });
    expect(await spawner.client.startWorkloads()).toBe(2);
    for (let tries = 0; spawner.log().split("exit code 0").length < 3 && tries < 500; tries++) await delay(10);
    expect(spawner.log()).toMatch(new RegExp(`^${uid}$`, "m"));
    expect(spawner.log()).toMatch(/^PATH=\/usr\/bin:\/bin\nHOME=\/\n(?!\w+=)/m);
    expect((await spawner.client.shimStatus(0)).state).toBe("never-started");
    await expect(spawner.packet(encodePrepareShim(0, [range("/a", 0, 1)]))).rejects.toThrow();
    expect(await spawner.ended()).toBe(11);
  });

  test("I10: a workload is limited in its processes and ends before the agent when memory runs out", async () => {
    const workloads =
      "score 2001 - /usr/bin/cat /proc/self/oom_score_adj\nlimit 2001 - /usr/bin/grep processes /proc/self/limits\n";
    const spawner = await started({ workloads });
    await spawner.client.startWorkloads();
    await expect.poll(() => spawner.log().split("exit code 0").length, { timeout: 20_000 }).toBe(3);
    expect(spawner.log()).toMatch(/^500$/m);
    expect(spawner.log()).toMatch(/^Max processes +256 +256 /m);
    const agent = await spawner.logged(/agent started, pid (\d+)/);
    expect(Number(readFileSync(`/proc/${agent}/oom_score_adj`, "utf8"))).toBeLessThan(500);
  });

  test("I10: a workload writes to a pipe of its own, never to the spawner's terminal", async () => {
    const spawner = await started({ workloads: "out 2001 - /usr/bin/readlink /proc/self/fd/1 /proc/self/fd/2\n" });
    await spawner.client.startWorkloads();
    await expect.poll(() => spawner.log(), { timeout: 20_000 }).toContain("exit code 0");
    const pipes = spawner.log().match(/^pipe:\[\d+\]$/gm) ?? [];
    expect(pipes).toHaveLength(2);
    expect(pipes[0]).toBe(pipes[1]);
    expect(pipes).not.toContain(readlinkSync(`/proc/${spawner.pid}/fd/2`));
  });

  // One workload alone: the spawner passes on what it reads, so another's line may stand in the middle of a long one.
  test("I10: a workload's output reaches the log in full, before the word that it ended", async () => {
    const spawner = await started({ workloads: "count 2002 - /usr/bin/seq 1 40000\n" });
    await spawner.client.startWorkloads();
    await expect.poll(() => spawner.log(), { timeout: 20_000 }).toContain("exit code 0");
    const numbers = spawner.log().match(/^\d+$/gm) ?? [];
    expect(numbers).toEqual(Array.from({ length: 40_000 }, (_, index) => `${index + 1}`));
  });

  test.each([
    "x 0 - /bin/true",
    "x 991 - /bin/true",
    "x 2001 -",
    "x 2001 - true",
    "x 2001 a/b /bin/true",
    "x  2001 - /bin/true",
    "x -1 - /bin/true",
  ])("a list with the line %j starts nothing", async (line) => {
    const spawner = await started({
      workloads: `good 2001 - /usr/bin/env\n${line}\n`,
    });
    await expect(spawner.client.startWorkloads()).rejects.toThrow(/line 2/);
    expect(spawner.log()).not.toMatch(/workload good/);
  });
});

describe("open-state", () => {
  const KEY = concatBytes(Uint8Array.of(0, 96), new Uint8Array(96).fill(7));
  const SIZE = 80 << 20;

  function stateDisk(bytes: Uint8Array = new Uint8Array(), size = SIZE): string {
    const path = join(mkdtempSync(join(programs.directory, "state-")), "disk");
    writeFileSync(path, bytes);
    truncateSync(path, size);
    return path;
  }

  /** Magic, version 1, an id, the disk's size, zeros, checksum (SPAWNER.md). */
  function header(size = SIZE): Uint8Array {
    const fields = new ByteWriter().bytes(utf8("IRONSTAT")).u32(1).bytes(new Uint8Array(16).fill(9)).u64(BigInt(size));
    const start = concatBytes(fields.finish(), new Uint8Array(4028));
    return concatBytes(start, createHash("sha256").update(start).digest());
  }

  async function refusal(state: string | undefined, format: boolean, key = KEY, keepOpen = false): Promise<unknown> {
    const spawner = await started(state === undefined ? {} : { state });
    const { read } = await spawner.pipe(key, keepOpen);
    return spawner.client.openState({ format }, read).then(
      () => "opened",
      (error: { state?: string }) => error.state,
    );
  }

  test("I11: without a disk, on a blank one and on a truncated one the answer says which it is", async () => {
    expect(await refusal(undefined, true)).toBe("state-missing");
    expect(await refusal(stateDisk(), false)).toBe("state-blank");
    expect(await refusal(stateDisk(new Uint8Array(), SIZE - 1), true)).toBe("state-truncated");
    expect(await refusal(stateDisk(header(SIZE + 4096)), true)).toBe("state-truncated");
  });

  test("I11: the header that the document describes is read; every other one is damaged, and none is formatted over", async () => {
    const superblock = utf8("integrt\0");
    // A plain file cannot be mapped, so that a good disk and a good key end at the kernel.
    expect(await refusal(stateDisk(concatBytes(header(), superblock)), false)).toBe("state-kernel");
    expect(await refusal(stateDisk(header()), true)).toBe("state-damaged");
    for (const at of [0, 11, 12, 35, 36, 4063, 4064, 4095]) {
      const changed = header();
      const path = stateDisk(concatBytes(changed.with(at, (changed[at] ?? 0) ^ 1), superblock));
      expect(await refusal(path, true), `${at}`).toBe("state-damaged");
    }
  });

  test.each([
    ["empty", new Uint8Array()],
    ["without its last byte", KEY.subarray(0, -1)],
    ["with a byte too many", concatBytes(KEY, Uint8Array.of(0))],
    ["with another length before it", KEY.with(1, 95)],
    ["longer than a pipe's page", new Uint8Array(8192)],
  ])("I4: a key pipe that is %s is no key", async (_what, bytes) => {
    const path = stateDisk();
    expect(await refusal(path, true, bytes)).toBe("state-key");
    expect(statSync(path).blocks).toBe(0);
  });

  test("I10: a key pipe that does not end is given up after ten seconds, whether its bytes are there or not", async () => {
    const answers = Promise.all([
      refusal(stateDisk(), true, KEY, true),
      refusal(stateDisk(), true, new Uint8Array(), true),
    ]);
    expect(await answers).toEqual(["state-key", "state-key"]);
  });

  test("I3: the agent's end is noticed while its key is waited for", async () => {
    const spawner = await started({ state: stateDisk() });
    const { read } = await spawner.pipe(KEY, true);
    void spawner.client.openState({ format: true }, read).catch(() => undefined);
    await delay(200);
    const begin = performance.now();
    process.kill(await spawner.logged(/agent started, pid (\d+)/), "SIGKILL");
    expect([10, 11]).toContain(await spawner.ended());
    expect(performance.now() - begin).toBeLessThan(5_000);
  });

  test("I4: what the log says about a key is not the key", async () => {
    const spawner = await started({ state: stateDisk() });
    const { read } = await spawner.pipe(concatBytes(utf8("\0\x60"), utf8("SECRET".repeat(17))));
    await expect(spawner.client.openState({ format: true }, read)).rejects.toThrow(/state-key/);
    await expect.poll(() => spawner.log(), { timeout: 20_000 }).toContain("state volume: state-key");
    expect(spawner.log()).not.toContain("SECRET");
  });

  test("I3: a second request, one with the wrong mode, or without the reading end of a pipe is a breach", async () => {
    const blank = stateDisk();
    const cases: readonly ((spawner: HostSpawner) => Promise<unknown>)[] = [
      async (spawner) => {
        await spawner.packet(Uint8Array.of(7, 0), [(await spawner.pipe(KEY)).read]);
        return spawner.packet(Uint8Array.of(7, 0), [(await spawner.pipe(KEY)).read]);
      },
      async (spawner) => spawner.packet(Uint8Array.of(7, 2), [(await spawner.pipe(KEY)).read]),
      async (spawner) => spawner.packet(Uint8Array.of(7), [(await spawner.pipe(KEY)).read]),
      async (spawner) => spawner.packet(Uint8Array.of(7, 0, 0), [(await spawner.pipe(KEY)).read]),
      async (spawner) => spawner.packet(Uint8Array.of(7, 0), [(await spawner.pipe(KEY, true)).write]),
      async (spawner) => spawner.packet(Uint8Array.of(7, 0), [0]),
      async (spawner) => spawner.packet(Uint8Array.of(7, 0)),
      async (spawner) => {
        await spawner.packet(Uint8Array.of(6));
        return spawner.packet(Uint8Array.of(7, 0), [(await spawner.pipe(KEY)).read]);
      },
    ];
    for (const [index, act] of cases.entries()) {
      const spawner = await started({ state: blank });
      await expect(act(spawner), `${index}`).rejects.toThrow();
      expect(await spawner.ended(), `${index}`).toBe(11);
    }
  });
});

test("I3: the document, the spawner's table and the client name the same requests", () => {
  const root = resolve(import.meta.dirname, "../..");
  const document = readFileSync(join(root, "agent/SPAWNER.md"), "utf8");
  const table = readFileSync(join(root, "agent/spawner/requests.c"), "utf8");
  const rows = [...document.matchAll(/^\| (\d+) \| ([A-Z_]+) \| ([a-z, ]+) \| [^|]+ \| ([^|]+) \|/gm)];
  const documented = rows.map(([, op, name = "", phases = "", fds]) => ({
    ...{ op: Number(op), name: name.toLowerCase().replace(/_(.)/g, (_match, letter: string) => letter.toUpperCase()) },
    ...{ phases: phases.split(", "), takesFd: fds !== "none" },
  }));
  const entries = [...table.matchAll(/^ {4}\{(\d+), ([A-Z_| ]+), (true|false), \w+\},$/gm)];
  const built = entries.map(([, op, phases = "", takesFd]) => ({
    ...{ op: Number(op), phases: phases.toLowerCase().replaceAll("phase_", "").split(" | ") },
    takesFd: takesFd === "true",
  }));
  expect(built).toEqual(documented.map(({ name: _name, ...rest }) => rest));
  expect(Object.fromEntries(documented.map(({ name, op }) => [name, op]))).toEqual(SPAWNER_OPS);
});

describe("I3: a breach of the protocol ends in a capped PCR and a restart", () => {
  const prepare = encodePrepareShim(0, [range("/profile", 0, PROFILE.length)]);
  const start = encodeStartShim({
    id: 0,
    profileSha256,
    environment: [],
    writable: [],
    ...NO_DEVICES,
  });
  const breaches: readonly (readonly [string, readonly Uint8Array[]])[] = [
    ["an unknown request", [Uint8Array.of(9)]],
    ["request 0", [Uint8Array.of(0)]],
    ["trailing bytes", [concatBytes(prepare, Uint8Array.of(0))]],
    ["a cut-off request", [prepare.subarray(0, -1)]],
    ["a request without body", [Uint8Array.of(1)]],
    ["PREPARE_SHIM for the same shim twice", [prepare, prepare]],
    ["PREPARE_SHIM for a shim beyond the table", [encodePrepareShim(16, [range("/a", 0, 1)])]],
    ["PREPARE_SHIM without files", [encodePrepareShim(0, [])]],
    ["an unknown file flag", [prepare.with(4, 4)]],
    ["START_SHIM without PREPARE_SHIM", [start]],
    ["START_SHIM for the same shim twice", [prepare, start, start]],
    ["START_SHIM after a PREPARE_SHIM that failed", [encodePrepareShim(0, [range("a", 0, 1)]), start]],
    ["START_WORKLOADS twice", [Uint8Array.of(6), Uint8Array.of(6)]],
    ["START_SHIM after START_WORKLOADS", [prepare, Uint8Array.of(6), start]],
    ["PEER_EXE without a descriptor", [Uint8Array.of(3)]],
    ["SHIM_STATUS beyond the table", [Uint8Array.of(4, 16)]],
    ["STOP_SHIM beyond the table", [Uint8Array.of(8, 16)]],
    ["STOP_SHIM with trailing bytes", [Uint8Array.of(8, 0, 0)]],
    ["START_SHIM after STOP_SHIM", [prepare, Uint8Array.of(8, 0), start]],
    ["a packet that is too long", [new Uint8Array(65_537).fill(1)]],
  ];
  test.each(breaches)("%s", async (_what, packets) => {
    const spawner = await started();
    for (const packet of packets.slice(0, -1)) await spawner.packet(packet);
    await expect(spawner.packet(packets.at(-1) ?? new Uint8Array())).rejects.toThrow();
    expect(await spawner.ended()).toBe(11);
  });

  test("a request from a child of the agent", async () => {
    const spawner = await started();
    await expect(spawner.packetFromChild(Uint8Array.of(4, 0))).rejects.toThrow();
    expect(await spawner.ended()).toBe(11);
  });

  test("a descriptor where none belongs, two of them, or one that is no pidfd", async () => {
    for (const [packet, fds] of [
      [Uint8Array.of(4, 0), [0]],
      [Uint8Array.of(3), [0, 1]],
      [Uint8Array.of(3), [0]],
    ] as const) {
      const spawner = await started();
      await expect(spawner.packet(packet, fds)).rejects.toThrow();
      expect(await spawner.ended()).toBe(11);
    }
  });
});

describe("the cap", () => {
  const BANKS = [
    ["sha1", 0x0004],
    ["sha256", 0x000b],
    ["sha384", 0x000c],
    ["sha512", 0x000d],
  ] as const;
  const capped = (algorithm: string): string => {
    const digest = createHash(algorithm).update("ironclaw: agent lost").digest();
    return createHash(algorithm).update(new Uint8Array(digest.length)).update(digest).digest("hex");
  };

  /** PCR 13 of one bank, by a TPM2_PCR_Read of its own: no TPM library takes part. */
  async function readPcr13(socketPath: string, algorithm: number): Promise<string> {
    const command = new ByteWriter()
      .u16(0x8001)
      .u32(20)
      .u32(0x17e)
      .u32(1)
      .u16(algorithm)
      .u8(3)
      .bytes(Uint8Array.of(0, 0x20, 0));
    const socket = connect(socketPath);
    await once(socket, "connect");
    socket.write(command.finish());
    const [response] = (await once(socket, "data")) as [Uint8Array];
    const ended = once(socket, "close");
    socket.end().destroy();
    await ended;
    const reader = new ByteReader(new Uint8Array(response), "TPM2_PCR_Read");
    reader.bytes(6, "tag, size");
    expect(reader.u32("response code")).toBe(0);
    reader.bytes(4 + 4 + 2 + 4 + 4, "update counter, selection, count");
    return toHex(reader.sized16("digest", 64));
  }

  test.each([
    ["the agent ends in success", 10, (spawner: HostSpawner) => spawner.exitAgent(0)],
    ["the agent fails", 10, (spawner: HostSpawner) => spawner.exitAgent(3)],
    [
      "the agent is killed",
      10,
      async (spawner: HostSpawner) => void process.kill(await spawner.logged(/pid (\d+)/), "SIGKILL"),
    ],
    ["the agent closes its socket", 10, (spawner: HostSpawner) => void spawner.close(3).catch(() => undefined)],
    ["the agent asks for it", 12, (spawner: HostSpawner) => void spawner.client.capAndReboot("because of the test")],
    [
      "the agent breaks the protocol",
      11,
      (spawner: HostSpawner) => void spawner.packet(Uint8Array.of(99)).catch(() => undefined),
    ],
  ])("I3: when %s the agent PCR is capped in every active bank before the restart", async (_what, code, act) => {
    await using tpm = await startSwtpm({ endorsement: "none" });
    const socketPath = tpm.tcti.replace("swtpm:path=", "");
    const spawner = await started({ tpm: `unix:${socketPath}` });
    await act(spawner);
    expect(await spawner.ended()).toBe(code);
    expect(spawner.log()).toMatch(/agent PCR capped/);
    for (const [name, algorithm] of BANKS) expect(await readPcr13(socketPath, algorithm), name).toBe(capped(name));
  });

  test("I3: without a TPM the machine restarts all the same, and the log does not claim a cap", async () => {
    const spawner = await started();
    spawner.exitAgent(0);
    expect(await spawner.ended()).toBe(10);
    expect(spawner.log()).toMatch(/NOT capped/);
  });

  /** As PID 1 of a PID namespace, on a machine that has run for so many seconds. The TPM answers nothing. */
  async function lastWordsAt(uptime: number) {
    const program = buildLastWords(programs);
    const tpm = join(mkdtempSync(join(programs.directory, "last-")), "tpm.sock");
    const server = createServer().listen(tpm);
    await once(server, "listening");
    const now = Number(readFileSync("/proc/uptime", "utf8").split(".")[0]);
    const namespaces = ["--user", "--map-root-user", "--pid", "--fork", "--time", "--boottime", `${uptime - now}`];
    const child = spawn("unshare", [...namespaces, program, `unix:${tpm}`], { stdio: ["ignore", "ignore", "pipe"] });
    let log = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => {
      log += text;
    });
    const closed = once(child, "close");
    const [socket] = (await once(server, "connection")) as [Socket];
    const running = () =>
      readdirSync("/proc").filter((pid) => {
        const exe = /^\d+$/.test(pid) ? readExe(pid) : "";
        return exe === program && !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
      }).length;
    await expect.poll(running, { timeout: 20_000 }).toBe(1);
    socket.destroy();
    server.close();
    await closed;
    return { log, signal: child.signalCode };
  }

  function readExe(pid: string): string {
    try {
      return readlinkSync(`/proc/${pid}/exe`);
    } catch {
      return ""; // it ended meanwhile
    }
  }

  test("I3: PID 1 kills all others before it caps, and reboots no earlier than a minute after the kernel's start", async () => {
    const late = await lastWordsAt(61);
    expect(late.log).toMatch(/pids \d+ \d+\n.*spawner: the test; agent PCR NOT capped, rebooting\n$/s);
    // In a PID namespace this is what a reboot is.
    expect(late.signal).toBe("SIGHUP");
    const early = await lastWordsAt(50);
    expect(early.log).toMatch(/agent PCR NOT capped, rebooting in ([1-9]|10) s\n$/);
    expect(early.signal).toBe("SIGHUP");
  });
});
