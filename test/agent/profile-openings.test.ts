import { chmodSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openPairBench, type Pair, type PairBench } from "../support/relay-pair.ts";
import { buildHostile } from "../support/shim-fixture.ts";

const [EPERM, ENOENT, EACCES, ENOTTY, EROFS, ENOSYS, ECONNREFUSED] = [1, 2, 13, 25, 30, 38, 111];
const LIBUSB = "/usr/lib/x86_64-linux-gnu/libusb-1.0.so.0";

let bench: PairBench;
let module: string;

beforeAll(async () => {
  bench = await openPairBench();
  module = buildHostile(bench, "openings", "module");
  chmodSync(module, 0o755);
});
afterAll(() => bench.remove());

/** What the module's attempts were answered, under a shipped profile in the real root, and what of it was shown. */
async function tried(list: string, change: Partial<Pair> = {}) {
  const { tokens, shown, probe } = await bench.run({
    profile: "relay",
    library: module,
    environment: [`OPENINGS=${list}`],
    connect: [{ listen: "127.0.0.1:1500", to: "192.0.2.1:1500" }],
    ...{ token: "none of them", pin: "0000", data: "00" },
    ...change,
  });
  const answers = tokens.map((label): [string, number] => {
    const at = label.lastIndexOf(" ");
    return [label.slice(0, at), Number(label.slice(at))];
  });
  expect(answers.length).toBeGreaterThan(0);
  return { answers: Object.fromEntries(answers), shown, probe: new Map(probe.map(({ name, errno }) => [name, errno])) };
}

function expectAll(answers: Readonly<Record<string, number>>, errno: number): void {
  for (const [name, answer] of Object.entries(answers)) expect(answer, name).toBe(errno);
}

describe("what relay opens", () => {
  test("streams are opened and set up, and where nobody listens there is nobody", async () => {
    const { answers, shown } = await tried("relay-opens");
    const { "connect to nobody": connected, ...others } = answers;
    expectAll(others, 0);
    expect(connected).toBe(ECONNREFUSED);
    expect(shown).toEqual({});
  });

  test("I5: no other socket is opened, and every attempt is shown", async () => {
    const { answers, shown } = await tried("relay-sockets");
    expect(Object.keys(answers)).toHaveLength(13);
    expectAll(answers, EPERM);
    expect(shown).toEqual({ socket: 12, socketpair: 1 });
  });

  test("I5: a stream cannot listen, be bound, sent to an address, carry descriptors or be driven past its few options", async () => {
    const { answers, shown } = await tried("relay-calls");
    expect(Object.keys(answers)).toHaveLength(15);
    expectAll(answers, EPERM);
    expect(shown).toEqual({ listen: 1, accept4: 1 });
  });

  test("I5: of a socket's options a few are read: not who is at the other end, nor what the kernel seldom gives", async () => {
    const { answers, shown } = await tried("relay-options");
    const { error, type, "nodelay is": nodelay, ...others } = answers;
    expect([error, type, nodelay]).toEqual([0, 0, 0]);
    expect(Object.keys(others)).toHaveLength(5);
    expectAll(others, EPERM);
    expect(shown).toEqual({});
  });

  test("I5: under the profile local the same module opens nothing at all", async () => {
    const { answers, shown } = await tried("relay-opens", { profile: "local", connect: [] });
    for (const name of ["tcp over ipv4", "tcp over ipv6", "unix stream", "connect to nobody"])
      expect(answers[name], name).toBe(EPERM);
    expect(shown).toEqual({ socket: 4, connect: 1 });
  });
});

describe("threads", () => {
  test.each(["relay", "usb"] as const)(
    "I5: %s starts no process: what differs from a thread's flags is denied and shown",
    async (profile) => {
      const { answers, shown, probe } = await tried("processes", { profile, connect: [] });
      const { clone3, ...others } = answers;
      expectAll(others, EPERM);
      expect(clone3).toBe(ENOSYS);
      expect(shown).toEqual({ fork: 1, clone: 4 });
      expect(probe.get("clone")).toBe(EPERM);
      expect(probe.get("clone3")).toBe(ENOSYS);
    },
  );

  test.each(["relay", "usb"] as const)(
    "I5: under %s a thread from before ARM is under the serve filter after it",
    async (profile) => {
      const result = await bench.run({
        ...{ profile, library: module, environment: ["OPENINGS=threads"], connect: [] },
        ...{ token: "thread 0", pin: "0000", data: "00" },
      });
      expect(result.failed).toBeNull();
      expect(result.exitCode).toBe(77);
    },
  );

  test("I5: under local no thread is started", async () => {
    const { answers, shown } = await tried("threads", { profile: "local", connect: [] });
    expect(answers["thread"]).not.toBe(0);
    expect(shown).toEqual({ clone3: 1 });
  });
});

describe("what usb opens", () => {
  test("I5: libusb starts; of the nodes only the policy's is there, for USB requests alone; no stream, no other netlink", async () => {
    const { answers, shown } = await tried("usb", {
      profile: "usb",
      connect: [],
      nodes: ["/dev/null"],
      opened: [LIBUSB],
    });
    expect(answers).toEqual({
      ...{ libusb: 0, "bind to events": 0, "open a node": 0, "write to a node": 0 },
      // past filter and Landlock: /dev/null is no USB device
      "usb request": ENOTTY,
      ...{ "terminal request": EPERM, reset: EPERM, "driver request": EPERM },
      "pidfd of the other end": EPERM,
      ...{ "bind an address": EPERM, connect: EPERM, "netlink route": EPERM, tcp: EPERM },
      "make a file in /dev": expect.toSatisfy((errno: number) => [EACCES, EROFS].includes(errno)),
      "remove a node": expect.toSatisfy((errno: number) => [EPERM, EACCES, EROFS].includes(errno)),
      "another node": ENOENT,
    });
    expect(shown).toEqual({ connect: 1, socket: 2 });
  });
});
