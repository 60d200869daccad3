import { copyFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { beforeAll, describe, expect, test } from "vitest";
import type { ShimDigest, ShimFile, StartedShim } from "../../agent/spawner-client.ts";
import { toHex, utf8 } from "../../policy/index.ts";
import {
  CABINET,
  NO_DEVICES,
  openSpawnerBench,
  PROFILE,
  profileSha256,
  range,
  rootFile,
  sha256,
  TOKEN,
} from "./spawner/bench.ts";
import { closureOf, type HostSpawner, shimUid, single } from "./spawner/host.ts";

const bench = openSpawnerBench();
let shimFiles: readonly ShimFile[];
beforeAll(() => {
  shimFiles = [
    ...closureOf(bench.programs.shim),
    range("/profile", 0, PROFILE.length),
    range("/state/token/object", PROFILE.length, TOKEN.length, true),
  ];
});

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

describe("two shims of the same files", () => {
  const program = () => {
    const path = join(bench.programs.directory, "changing");
    copyFileSync(bench.programs.shim, path);
    return path;
  };
  const filesWith = (path: string) =>
    shimFiles.map((file) => (file.path === "/shim" ? { ...rootFile("/shim", path), executable: true } : file));
  const shimDigest = (files: readonly ShimFile[], digests: readonly ShimDigest[]) =>
    toHex(digests[files.findIndex(({ path }) => path === "/shim")]?.sha256 ?? new Uint8Array());

  test("I1: have the bytes that were hashed for the first, though the source has changed, and the second runs", async () => {
    const path = program();
    const files = filesWith(path);
    const spawner = await bench.started();
    const first = shimDigest(files, await spawner.client.prepareShim(0, files));
    writeFileSync(path, "another program");
    expect(shimDigest(files, await spawner.client.prepareShim(1, files))).toBe(first);
    expect(first).toBe(sha256(readFileSync(bench.programs.shim)));
    for (const id of [0, 1]) {
      const request = { id, profileSha256, environment: [], writable: ["/state"], ...NO_DEVICES };
      const { fds } = await spawner.client.startShim(request);
      expect(await saidBy(spawner, fds.request)).not.toEqual([]);
    }
  });

  test("I1: are read again once the first has been started or stopped, and have the digest of what is there then", async () => {
    const path = program();
    const files = filesWith(path);
    const spawner = await bench.started();
    await spawner.client.prepareShim(0, files);
    await spawner.client.startShim({ id: 0, profileSha256, environment: [], writable: ["/state"], ...NO_DEVICES });
    writeFileSync(path, "another program");
    const another = sha256(utf8("another program"));
    expect(shimDigest(files, await spawner.client.prepareShim(1, files))).toBe(another);
    await spawner.client.stopShim(1);
    writeFileSync(path, "a third one");
    expect(shimDigest(files, await spawner.client.prepareShim(2, files))).toBe(sha256(utf8("a third one")));
  });

  test("I1: a range of the cabinet at another place is another source", async () => {
    const spawner = await bench.started();
    const [one] = await spawner.client.prepareShim(0, [range("/a", 0, 4)]);
    const [two] = await spawner.client.prepareShim(1, [range("/a", 1, 4)]);
    expect(toHex(one?.sha256 ?? new Uint8Array())).toBe(sha256(CABINET.subarray(0, 4)));
    expect(toHex(two?.sha256 ?? new Uint8Array())).toBe(sha256(CABINET.subarray(1, 5)));
  });
});

describe("start-shim", () => {
  test("I5: the shim is alone: own namespaces and root, one uid, no capability, two descriptors", async () => {
    const spawner = await bench.started();
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
    const spawner = await bench.started();
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
    const spawner = await bench.started();
    const { fds } = await startedShim(spawner);
    await saidBy(spawner, fds.request);
    await spawner.write(fds.pin, utf8("\u000412345678"));
    await spawner.close(fds.pin);
    expect(await saidBy(spawner, fds.request)).toEqual(["pin 9 bytes"]);
  });

  test("the status of an ended shim says how it ended", async () => {
    const spawner = await bench.started();
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
    const spawner = await bench.started();
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
    const spawner = await bench.started();
    await expect(startedShim(spawner, ["GOOD=1", entry])).rejects.toThrow(/environment variable 1/);
  });

  test("a variable given twice is refused", async () => {
    await expect(startedShim(await bench.started(), ["A=1", "A=2"])).rejects.toThrow(/twice/);
  });

  test("I1: a writable directory over measured files, inside another, or that leaves a token file out is refused", async () => {
    for (const [writable, why] of [
      [["/etc", "/state"], /File exists/],
      [["/state", "/state/token"], /inside another/],
      [["/elsewhere"], /in no writable directory/],
      [["/state", "/a/../b"], /normalised/],
    ] as const) {
      const spawner = await bench.started();
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
    const spawner = await bench.started();
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
    const spawner = await bench.started();
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
    const spawner = await bench.started();
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
    const spawner = await bench.started();
    await startedShim(spawner);
    await spawner.client.startWorkloads();
    for (const id of [0, 0, 15]) await spawner.client.stopShim(id);
    expect((await spawner.client.shimStatus(15)).state).toBe("never-started");
  });

  test("I4: what was delivered to a shim that ends by itself, or never starts, is gone with it", async () => {
    const spawner = await bench.started();
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
    const spawner = await bench.started();
    for (let id = 0; id < 16; id++) {
      await spawner.client.prepareShim(id, shimFiles);
      await spawner.client.startShim({ id, profileSha256, environment: [], writable: ["/state"], ...NO_DEVICES });
    }
    for (let id = 0; id < 16; id++) expect((await spawner.client.shimStatus(id)).state, `${id}`).toBe("running");
  });
});

test("I5: the filters that a shim has from its spawner are told apart from its own", async () => {
  for (const filters of [0, 2]) {
    const spawner = await bench.started({ filters });
    const inherited =
      Number(/^Seccomp_filters:\s*(\d+)$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1]) + filters;
    expect(await spawner.client.shimStatus(0)).toMatchObject({ state: "never-started", inheritedFilters: inherited });
    await startedShim(spawner);
    const status = await spawner.client.shimStatus(0);
    expect(status.inheritedFilters).toBe(inherited);
    expect(status.fields.get("Seccomp_filters")).toBe(`${inherited}`);
  }
});
