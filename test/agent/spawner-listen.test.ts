import { closeSync, openSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { native } from "../support/shim-fixture.ts";
import { openSpawnerBench } from "./spawner/bench.ts";
import { buildStart, type Inherited } from "./spawner/host.ts";

// Sockets that a service manager opened, through the real spawner to whatever is the agent.
const bench = openSpawnerBench(buildStart);
const VARIABLES = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

let listening: readonly number[] = [];
let round = 0;
beforeEach(() => {
  round += 1;
  listening = ["one", "two"].map((name) => native().listen(join(bench.programs.directory, `${name}-${round}.sock`)));
});
afterEach(() => {
  for (const fd of listening) closeSync(fd);
});

const named = (names: string, count: string | number = names.split(":").length): Record<string, string> => ({
  LISTEN_FDS: `${count}`,
  LISTEN_FDNAMES: names,
});

async function agentOf(inherited?: Inherited) {
  const spawner = await bench.started(inherited === undefined ? {} : { inherited });
  const pid = await spawner.logged(/agent started, pid (\d+)/);
  const link = (fd: number | string, of: number | string = pid) => readlinkSync(`/proc/${of}/fd/${fd}`);
  const environment = readFileSync(`/proc/${pid}/environ`, "utf8")
    .split("\0")
    .filter((entry) => entry !== "");
  return { spawner, pid, link, environment, fds: readdirSync(`/proc/${pid}/fd`).map(Number) };
}

describe("inherited sockets", () => {
  test("I6: lie behind the agent's own descriptors, in their order, and three variables name them for it alone", async () => {
    const { spawner, pid, link, environment } = await agentOf({
      fds: listening,
      variables: named("vault.sock:a-1.sock"),
    });
    expect([link(4), link(5)]).toEqual(listening.map((fd) => link(fd, "self")));
    expect(environment.slice(4)).toEqual([`LISTEN_PID=${pid}`, "LISTEN_FDS=2", "LISTEN_FDNAMES=vault.sock:a-1.sock"]);
    const held = readdirSync(`/proc/${spawner.pid}/fd`).map((fd) => link(fd, spawner.pid));
    expect(held).not.toContain(link(4));
  });

  test("I6: of none the agent hears nothing, whatever else is open or in the environment", async () => {
    const { environment, link, fds } = await agentOf({
      fds: [listening[0] ?? 0],
      variables: { LISTEN_FDNAMES: "a.sock" },
    });
    expect(environment).toEqual(["PATH=/usr/bin:/bin", "HOME=/", "OPENSSL_CONF=", "IRONCLAW_LOG=plain:info"]);
    expect(VARIABLES.some((name) => environment.some((entry) => entry.startsWith(name)))).toBe(false);
    expect(fds.map((fd) => link(fd))).not.toContain(link(listening[0] ?? 0, "self"));
  });

  test("I6: as many as there may be scopes are handed on", async () => {
    const [first = 0] = listening;
    const names = Array.from({ length: 64 }, (_, index) => `${index}`.padEnd(48, "z"));
    const fds = names.map(() => first);
    const { link, environment } = await agentOf({
      fds,
      variables: named(names.map((name) => `${name}.sock`).join(":")),
    });
    expect([link(4), link(67)]).toEqual([link(first, "self"), link(first, "self")]);
    expect(environment.find((entry) => entry.startsWith("LISTEN_FDNAMES="))).toHaveLength(15 + 64 * 54 - 1);
  });

  const refused = (inherited: Inherited) => expect(bench.started({ inherited })).rejects;

  test("I6: variables for another process are refused, before anything is started or capped", async () => {
    for (const pid of ["1", "", "0$$", "$$x"])
      await refused({ fds: listening, variables: named("a.sock:b.sock"), pid }).toThrow(
        /^spawner ended: [^\n]*inherited sockets: LISTEN_PID is not this process\n$/,
      );
  });

  test.each(["0", "-1", "65", "02", "2 ", "x", "", "4294967297", "99999999999999999999"])(
    "I6: LISTEN_FDS=%j is refused",
    async (count) => {
      await refused({ fds: listening, variables: named("a.sock:b.sock", count) }).toThrow(
        /LISTEN_FDS: expected 1 to 64/,
      );
    },
  );

  test.each([
    "a.sock",
    "a.sock:b.sock:c.sock",
    "a.sock:",
    ":a.sock",
    "a:b",
    "a.sock:.sock",
    "a.sock:b.socket",
    "a.sock:B.sock",
    "a.sock:-b.sock",
    "a.sock:b/c.sock",
    "a.sock:../b.sock",
    "a.sock:b c.sock",
    "a.sock:b\nLD_PRELOAD=x.sock",
    "a.sock:\u00fc.sock",
    `a.sock:${"b".repeat(49)}.sock`,
    `a.sock:${"b".repeat(100_000)}`,
    "",
  ])("I6: names that are no two scopes' are refused: %j", async (names) => {
    await refused({ fds: listening, variables: named(names, 2) }).toThrow(
      /LISTEN_FDNAMES: expected <scope>\.sock for each/,
    );
  });

  test("I6: what is no Unix stream socket that listens is refused: a file, a connected socket, nothing", async () => {
    const file = openSync("/dev/null", "r");
    const [first = 0] = listening;
    for (const fds of [[file, first], [first, file], ["pipe", first], [first]] as const)
      await refused({ fds: [...fds], variables: named("a.sock:b.sock") }).toThrow(
        /expected Unix stream sockets that listen/,
      );
    closeSync(file);
  });
});
