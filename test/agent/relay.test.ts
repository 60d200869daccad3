import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, statSync, writeFileSync } from "node:fs";
import type { Socket } from "node:net";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { ShimFile } from "../../agent/spawner-client.ts";
import { type Door, openDoor, PROFILE } from "./spawner/door.ts";
import { type HostSpawner, single } from "./spawner/host.ts";
import {
  echo,
  exchange,
  isAlive,
  programs,
  relayPid,
  started,
  statusOf,
  target,
  withEndpoints,
} from "./spawner/relay-bench.ts";

/** As the machine sees it: with a single uid that is whoever runs the test. */
const relayUser = single ? [process.getuid?.(), process.getgid?.()] : [992, 992];

describe("reach", () => {
  test("I5: a shim reaches its endpoints over IPv4, IPv6 and a path, each its own target", async () => {
    const path = join(mkdtempSync(join(programs.directory, "target-")), "sock");
    const say = (name: string) => (socket: Socket) => void socket.write(name);
    const four = await target({ host: "127.0.0.1" }, say("four"));
    const six = await target({ host: "::1" }, say("six"));
    await target(path, say("path"));
    execFileSync("chmod", ["755", join(path, "..")]);
    const { door } = await withEndpoints([
      { listen: "127.0.0.1:1500", to: `127.0.0.1:${four.port}` },
      { listen: "[::1]:1500", to: `[::1]:${six.port}` },
      { listen: "/run/hsm/daemon.sock", to: path },
      { listen: "127.0.0.1:80", to: path },
    ]);
    for (const [listen, name] of [
      ["127.0.0.1:1500", "four"],
      ["[::1]:1500", "six"],
      ["/run/hsm/daemon.sock", "path"],
      ["127.0.0.1:80", "path"],
    ])
      expect(await door.ask(`receive ${await door.number(`connect ${listen}`)}`), listen).toBe(name);
  });

  test("I5: nothing else is reached: no other port, no other address, no socket of the machine, abstract or by path", async () => {
    const open = await target({ host: "0.0.0.0" }, echo);
    const path = join(programs.directory, "not-an-endpoint.sock");
    await target(path, echo);
    await target("\0ironclaw-relay-test", echo);
    const { door } = await withEndpoints([{ listen: "127.0.0.1:1500", to: `127.0.0.1:${open.port}` }]);
    expect(await exchange(door, await door.number("connect 127.0.0.1:1500"), "here")).toBe("here");
    expect(await door.ask(`connect 127.0.0.1:${open.port}`)).toBe("ECONNREFUSED");
    expect(await door.ask("connect [::1]:1500")).toBe("ECONNREFUSED");
    expect(await door.ask("connect 192.0.2.1:1500")).toBe("ENETUNREACH");
    expect(await door.ask("connect [2001:db8::1]:1500")).toBe("ENETUNREACH");
    expect(await door.ask("connect @ironclaw-relay-test")).toBe("ECONNREFUSED");
    expect(await door.ask(`connect ${path}`)).toBe("ENOENT");
  });

  test("I5: a shim without endpoints has no loopback and no relay, and one with paths only has no loopback", async () => {
    const spawner = await started();
    const alone = await openDoor(spawner, programs);
    expect(await alone.ask("loopback")).toBe("down");
    expect(await alone.ask("connect 127.0.0.1:1500")).toBe("ENETUNREACH");
    expect(spawner.log()).not.toContain("relay");
    const paths = await openDoor(spawner, programs, { id: 1, connect: [{ listen: "/run/s", to: "/run/nobody" }] });
    expect(await paths.ask("loopback")).toBe("down");
    const ports = await openDoor(spawner, programs, {
      ...{ id: 2, connect: [{ listen: "127.0.0.1:1", to: "/run/nobody" }] },
    });
    expect(await ports.ask("loopback")).toBe("up");
  });

  test("I5: two shims with the same endpoint have a relay and a loopback each", async () => {
    const { port } = await target({ host: "127.0.0.1" }, echo);
    const connect = [{ listen: "127.0.0.1:1500", to: `127.0.0.1:${port}` }];
    const { spawner, door } = await withEndpoints(connect);
    const other = await openDoor(spawner, programs, { id: 15, connect });
    await spawner.client.stopShim(0);
    expect(isAlive(door.pid)).toBe(false);
    expect(await exchange(other, await other.number("connect 127.0.0.1:1500"), "mine")).toBe("mine");
  });

  test("I5: the endpoint's path in the shim is a socket of the shim's user that it can neither remove nor change", async () => {
    const { door } = await withEndpoints([{ listen: "/run/hsm/sock", to: "/run/nobody" }]);
    const entries = (await door.ask("list /run")).split(";");
    expect(entries.filter((entry) => entry.includes(" s "))).toEqual([`/run/hsm/sock s 600 ${single ? 0 : 991}`]);
    expect(await door.ask("unlink /run/hsm/sock")).toBe("EROFS");
    expect(await door.ask("chmod /run/hsm/sock")).toBe("EROFS");
  });
});

describe("START_SHIM refuses", () => {
  const good = { listen: "127.0.0.1:1500", to: "192.0.2.7:1500" };
  test.each([
    [{ ...good, listen: "127.0.0.2:1500" }, "a listener on another loopback address"],
    [{ ...good, listen: "0.0.0.0:1500" }, "a listener on every address"],
    [{ ...good, listen: "[::]:1500" }, "a listener on every IPv6 address"],
    [{ ...good, listen: "127.0.0.1:0" }, "port 0"],
    [{ ...good, listen: "127.0.0.1:65536" }, "a port that is none"],
    [{ ...good, listen: "127.0.0.1:01500" }, "a port in a second spelling"],
    [{ ...good, listen: "127.0.0.1" }, "no port"],
    [{ ...good, listen: "/run/../sock" }, "a path that is not normalised"],
    [{ ...good, listen: `/${"a".repeat(107)}` }, "a path that is too long for a socket", "breach"],
    [{ ...good, listen: "/state/sock" }, "a path in a writable directory"],
    [{ ...good, listen: "/profile" }, "a path that exists"],
    [{ ...good, listen: "/profile/sock" }, "a path below a file"],
    [{ ...good, to: "hsm.example:1500" }, "a name"],
    [{ ...good, to: "localhost:1500" }, "a name of this machine"],
    [{ ...good, to: "0.0.0.0:1500" }, "the unspecified address"],
    [{ ...good, to: "[::]:1500" }, "the unspecified IPv6 address"],
    [{ ...good, to: "[::ffff:192.0.2.7]:1500" }, "an IPv4 address in IPv6's clothes"],
    [{ ...good, to: "[2001:DB8::1]:1500" }, "an address in a second spelling"],
    [{ ...good, to: "[fe80::1%eth0]:1500" }, "an address with a zone"],
    [{ ...good, to: "2001:db8::1:1500" }, "an IPv6 address without brackets"],
    [{ ...good, to: "192.0.2.7" }, "a target without a port"],
    [{ ...good, to: "run/sock" }, "a relative path"],
    [{ ...good, to: "" }, "an empty target"],
  ])("I5: the endpoint %j (%s)", async (endpoint, _what, how = "refusal") => {
    const spawner = await started();
    const start = openDoor(spawner, programs, { connect: [endpoint], writable: ["/state"] });
    if (how === "refusal") await expect(start).rejects.toThrow(/spawner refused/);
    else await expect(start).rejects.toThrow(/errno|ended/);
    expect(spawner.log()).not.toMatch(/relay \d+: ready/);
  });

  test("I5: two endpoints with one listener, by port or by path", async () => {
    const spawner = await started();
    await expect(openDoor(spawner, programs, { connect: [good, good] })).rejects.toThrow(/already in use/);
    const path = { ...good, listen: "/run/sock" };
    await expect(openDoor(spawner, programs, { id: 1, connect: [path, path] })).rejects.toThrow(/already in use/);
  });

  test("a ninth endpoint is a breach", async () => {
    const spawner = await started();
    const connect = Array.from({ length: 9 }, (_, index) => ({ ...good, listen: `127.0.0.1:${index + 1}` }));
    await expect(openDoor(spawner, programs, { connect })).rejects.toThrow();
    expect(await spawner.ended()).toBe(11);
  });

  test("I5: with a relay that is missing, or does not confine itself, there is no shim", async () => {
    const silent = join(mkdtempSync(join(programs.directory, "relay-")), "relay");
    writeFileSync(silent, "#!/bin/sh\nexit 0\n", { mode: 0o755 });
    for (const relay of ["/nowhere/relay", silent]) {
      const spawner = await started({ relay });
      await expect(openDoor(spawner, programs, { connect: [good] }), relay).rejects.toThrow(/relay/);
      await expect.poll(async () => (await spawner.client.shimStatus(0)).state, { timeout: 20_000 }).toBe("ended");
    }
  });
});

describe("the relay's process", () => {
  test("I5: it has its own user, no capability, no new privileges, a filter, no dump, and only its listeners", async () => {
    const { port } = await target({ host: "127.0.0.1" }, echo);
    const { spawner } = await withEndpoints([
      { listen: "127.0.0.1:1500", to: `127.0.0.1:${port}` },
      { listen: "/run/s", to: "/run/nobody" },
    ]);
    const pid = await relayPid(spawner);
    const status = statusOf(pid);
    const field = (name: string) => new RegExp(`^${name}:[ \\t]*(.*)$`, "m").exec(status)?.[1];
    expect(["Uid", "Gid"].map(field)).toEqual(relayUser.map((id) => Array(4).fill(id).join("\t")));
    if (!single) expect(field("Groups")).toBe("");
    for (const set of ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]) expect(field(set), set).toBe("0".repeat(16));
    const inherited = /^Seccomp_filters:\s*(\d+)/m.exec(statusOf(spawner.pid))?.[1];
    expect([field("NoNewPrivs"), field("Seccomp")]).toEqual(["1", "2"]);
    expect(Number(field("Seccomp_filters")) - Number(inherited)).toBe(1);
    expect(readFileSync(`/proc/${pid}/oom_score_adj`, "utf8")).toBe("500\n");
    expect(readFileSync(`/proc/${pid}/environ`, "utf8")).toBe("IRONCLAW_LOG=plain:info\0");
    const words = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
    expect(words).toEqual(["relay", "0", `127.0.0.1:${port}`, "/run/nobody", ""]);
    const fds = readdirSync(`/proc/${pid}/fd`).map((fd) => readlinkSync(`/proc/${pid}/fd/${fd}`));
    expect(fds.map((link) => link.replace(/\[\d+\]/, ""))).toEqual([
      ...["/dev/null", "/dev/null", "pipe:", "socket:", "socket:"],
    ]);
    // Not dumpable: the kernel gives its files to root, whoever it runs as.
    if (!single) expect(statSync(`/proc/${pid}/environ`).uid).toBe(0);
    const limits = readFileSync(`/proc/${pid}/limits`, "utf8");
    for (const limit of ["core file size", "processes", "file size", "locked memory", "msgqueue size"])
      expect(limits, limit).toMatch(new RegExp(`^Max ${limit} +0 +0 `, "m"));
    expect(limits).toMatch(/^Max open files +140 +140 /m);
  });

  test("I5: a relay that was taken over opens no file, starts nothing, and connects to its targets' ports only", async () => {
    const { port } = await target({ host: "127.0.0.1" }, echo);
    const other = await target({ host: "127.0.0.1" }, echo);
    await target("\0ironclaw-relay-escape", echo);
    const filtered = [
      ...["open", "read", "write", "execve", "fork", "mmap", "kill", "ioctl", "bind", "sendmsg", "recvmsg", "io_uring"],
      ...["x32", "datagram", "netlink", "multipath", "sendto"],
    ];
    const run = (targets: readonly string[], attempts: readonly string[]) =>
      execFileSync(programs.relayEscape, [...targets, "--", ...attempts], { encoding: "utf8" })
        .trim()
        .split("\n");
    const mine = `127.0.0.1:${port}`;
    expect(run([mine, "/run/nobody"], filtered)).toEqual(filtered.map((attempt) => `${attempt} SYS`));
    expect(run([mine, "/run/nobody"], [mine, `127.0.0.1:${other.port}`, "abstract"])).toEqual([
      `${mine} works`,
      `127.0.0.1:${other.port} EACCES`,
      "abstract EPERM",
    ]);
    // A family that no target has is no way out either.
    expect(run([mine], [`[::1]:${port}`, "/run/nobody"])).toEqual([`[::1]:${port} SYS`, "/run/nobody SYS"]);
    expect(run(["/run/nobody"], [mine, "/run/nobody"])).toEqual([`${mine} SYS`, "/run/nobody ENOENT"]);
  });

  test("I5: a relay that is killed comes back while its shim lives, and what it carried is cut", async () => {
    const { port } = await target({ host: "127.0.0.1" }, echo);
    const { spawner, door } = await withEndpoints([{ listen: "127.0.0.1:1500", to: `127.0.0.1:${port}` }]);
    let pid = await relayPid(spawner);
    for (let time = 0; time < 3; time++) {
      const fd = await door.number("connect 127.0.0.1:1500");
      expect(await exchange(door, fd, "words")).toBe("words");
      process.kill(pid, "SIGKILL");
      expect(await door.ask(`receive ${fd}`)).toMatch(/^(end|ECONNRESET)$/);
      pid = await relayPid(spawner, pid);
    }
    expect(spawner.log().match(/relay 0: ended, signal 9; again in (\d+) ms/g)).toEqual([
      "relay 0: ended, signal 9; again in 100 ms",
      "relay 0: ended, signal 9; again in 200 ms",
      "relay 0: ended, signal 9; again in 400 ms",
    ]);
    expect(await exchange(door, await door.number("connect 127.0.0.1:1500"), "again")).toBe("again");
  });

  test("I5: the relay ends with its shim, however that ends, and no other one is started", async () => {
    const connect = [{ listen: "127.0.0.1:1500", to: "192.0.2.7:1500" }];
    const endings: readonly ((spawner: HostSpawner, door: Door) => unknown)[] = [
      (_spawner, door) => process.kill(door.pid, "SIGKILL"),
      (spawner, door) => spawner.close(door.fd),
      (spawner) => spawner.client.stopShim(0),
    ];
    for (const end of endings) {
      const { spawner, door } = await withEndpoints(connect);
      const pid = await relayPid(spawner);
      await end(spawner, door);
      await expect.poll(() => isAlive(pid), { timeout: 20_000 }).toBe(false);
      await expect.poll(() => spawner.log(), { timeout: 20_000 }).toMatch(/shim 0: ended/);
      expect(spawner.log()).not.toMatch(/again in/);
      expect(spawner.log().match(/relay 0: ready/g)).toHaveLength(1);
    }
  });
});

describe("the end", () => {
  const files: readonly ShimFile[] = [
    {
      path: "/state/credential",
      source: { kind: "cabinet", offset: 0, length: PROFILE.length },
      executable: false,
      writable: true,
    },
  ];
  const connect = [{ listen: "127.0.0.1:1500", to: "192.0.2.7:1500" }];

  test.each([
    ["the agent is killed", async (spawner: HostSpawner) => void process.kill(await agentOf(spawner), "SIGKILL")],
    [
      "the agent breaks the protocol",
      async (spawner: HostSpawner) => void spawner.packet(Uint8Array.of(99)).catch(() => undefined),
    ],
    ["the agent asks for it", async (spawner: HostSpawner) => spawner.client.capAndReboot("test")],
    ["the spawner is told to end", async (spawner: HostSpawner) => void process.kill(spawner.pid, "SIGTERM")],
    ["the spawner is killed", async (spawner: HostSpawner) => void process.kill(spawner.pid, "SIGKILL")],
  ])("I4: when %s, every shim with what it started, and every relay, is gone", async (_what, end) => {
    const spawner = await started();
    const doors = [
      await openDoor(spawner, programs, { connect, files, writable: ["/state"] }),
      await openDoor(spawner, programs, { id: 9 }),
    ];
    for (const door of doors) expect(await door.number("fork")).toBe(0);
    const inside = doors.flatMap(({ pid }) =>
      readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8").trim().split(" ").map(Number),
    );
    const all = [...doors.map(({ pid }) => pid), ...inside, await relayPid(spawner)];
    expect(all).toHaveLength(5);
    expect(all.every(isAlive)).toBe(true);
    await end(spawner);
    await spawner.ended();
    await expect.poll(() => all.filter(isAlive), { timeout: 20_000 }).toEqual([]);
  });

  test("I4: they are gone while the TPM has not answered yet", async () => {
    const tpm = join(mkdtempSync(join(programs.directory, "tpm-")), "sock");
    const { sockets } = await target(tpm, () => undefined);
    const spawner = await started({ tpm: `unix:${tpm}` });
    const door = await openDoor(spawner, programs, { connect });
    const all = [door.pid, await relayPid(spawner)];
    process.kill(await agentOf(spawner), "SIGKILL");
    await expect.poll(() => all.filter(isAlive), { timeout: 20_000 }).toEqual([]);
    await expect.poll(() => sockets.size, { timeout: 20_000 }).toBe(1);
    expect(isAlive(spawner.pid)).toBe(true);
    for (const socket of sockets) socket.destroy();
    await spawner.ended();
    expect(spawner.log()).toContain("agent PCR NOT capped");
  });
});

const agentOf = (spawner: HostSpawner): Promise<number> => spawner.logged(/agent started, pid (\d+)/);
