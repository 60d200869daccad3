import { spawn, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { existsSync, mkdtempSync, readdirSync, readFileSync, readlinkSync, symlinkSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { join, resolve } from "node:path";
import { describe, expect, test } from "vitest";
import { encodePeerExe, encodePrepareShim, encodeStartShim, SPAWNER_OPS } from "../../agent/spawner-messages.ts";
import { ByteReader, ByteWriter, concatBytes, toHex } from "../../policy/index.ts";
import { EMPTY_STORE, type LostRecord, openStoreFile, readLostRecord, Store } from "../../seal/index.ts";
import { startSwtpm } from "../support/swtpm.ts";
import { NO_DEVICES, openSpawnerBench, PROFILE, profileSha256, range } from "./spawner/bench.ts";
import { buildLastWords, type HostSpawner } from "./spawner/host.ts";

const bench = openSpawnerBench();

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
    ["PEER_EXE without a descriptor", [encodePeerExe(0)]],
    ["PEER_EXE without a look", [Uint8Array.of(3)]],
    ["SHIM_STATUS beyond the table", [Uint8Array.of(4, 16)]],
    ["STOP_SHIM beyond the table", [Uint8Array.of(8, 16)]],
    ["STOP_SHIM with trailing bytes", [Uint8Array.of(8, 0, 0)]],
    ["START_SHIM after STOP_SHIM", [prepare, Uint8Array.of(8, 0), start]],
    ["a packet that is too long", [new Uint8Array(65_537).fill(1)]],
  ];
  test.each(breaches)("%s", async (_what, packets) => {
    const spawner = await bench.started();
    for (const packet of packets.slice(0, -1)) await spawner.packet(packet);
    await expect(spawner.packet(packets.at(-1) ?? new Uint8Array())).rejects.toThrow();
    expect(await spawner.ended()).toBe(11);
  });

  test("a request from a child of the agent", async () => {
    const spawner = await bench.started();
    await expect(spawner.packetFromChild(Uint8Array.of(4, 0))).rejects.toThrow();
    expect(await spawner.ended()).toBe(11);
  });

  test("a descriptor where none belongs, two of them, or one that is no pidfd", async () => {
    for (const [packet, fds] of [
      [Uint8Array.of(4, 0), [0]],
      [encodePeerExe(0), [0, 1]],
      [encodePeerExe(0), [0]],
    ] as const) {
      const spawner = await bench.started();
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

  const kill = async (spawner: HostSpawner) => process.kill(await spawner.logged(/pid (\d+)/), "SIGKILL");
  const lost = (reason: string): LostRecord => ({ cause: "lost", reason });
  interface Ending {
    readonly what: string;
    readonly act: (spawner: HostSpawner) => unknown;
    readonly code: number;
    readonly record: LostRecord | null;
  }
  const endings: readonly Ending[] = [
    ...[
      { what: "ends in success", act: (spawner: HostSpawner) => spawner.exitAgent(0), status: "0x0" },
      { what: "fails", act: (spawner: HostSpawner) => spawner.exitAgent(3), status: "0x300" },
      { what: "is killed", act: kill, status: "0x9" },
    ].map(({ status, ...ending }) => ({
      ...{ ...ending, code: 10, record: lost(`the agent ended (wait status ${status})`) },
    })),
    {
      ...{ what: "closes its socket", code: 10, record: lost("the agent closed its socket") },
      act: (spawner) => void spawner.close(3).catch(() => undefined),
    },
    {
      ...{ what: "asks for it", code: 12, record: null },
      act: (spawner) => void spawner.client.capAndReboot("because of the test"),
    },
    {
      ...{ what: "breaks the protocol", code: 11, record: { cause: "breach", reason: "the agent broke the protocol" } },
      act: (spawner) => void spawner.packet(Uint8Array.of(99)).catch(() => undefined),
    },
  ];
  test.each(endings)(
    "I3: when the agent $what the agent PCR is capped in every active bank before the restart; I11: and a store says so, if nobody asked",
    async ({ act, code, record }) => {
      await using tpm = await startSwtpm({ endorsement: "none" });
      const socketPath = tpm.tcti.replace("swtpm:path=", "");
      const store = newStore();
      const spawner = await bench.started({ tpm: `unix:${socketPath}`, store });
      await act(spawner);
      expect(await spawner.ended()).toBe(code);
      expect(spawner.log()).toMatch(/agent PCR capped/);
      for (const [name, algorithm] of BANKS) expect(await readPcr13(socketPath, algorithm), name).toBe(capped(name));
      const medium = openStoreFile(store, { create: false });
      const found = readLostRecord(medium);
      // an end is seen by the process or by its socket, whichever the kernel shows first
      if (found?.reason === "the agent closed its socket")
        expect([found.cause, record?.cause]).toEqual(["lost", "lost"]);
      else expect(found).toEqual(record);
      expect(Store.open(medium).store.content).toMatchObject({ recoveries: 3 });
      medium.close();
    },
  );

  test("I3, I11: asked to stop, the spawner caps at once, lets its agent end, and takes it for no loss", async () => {
    await using tpm = await startSwtpm({ endorsement: "none" });
    const socketPath = tpm.tcti.replace("swtpm:path=", "");
    const store = newStore();
    const spawner = await bench.started({ tpm: `unix:${socketPath}`, store });
    await spawner.logged(/agent started/);
    const asked = performance.now();
    process.kill(spawner.pid, "SIGTERM");
    expect(await spawner.ended()).toBe(14);
    expect(performance.now() - asked, "nobody waited for an agent that ends").toBeLessThan(5000);
    expect(spawner.log()).toMatch(/asked to end; agent PCR capped/);
    for (const [name, algorithm] of BANKS) expect(await readPcr13(socketPath, algorithm), name).toBe(capped(name));
    const medium = openStoreFile(store, { create: false });
    expect(readLostRecord(medium)).toBeNull();
    medium.close();
  });

  test("I3: whoever looks after a spawner can make sure of the cap, and hears when the TPM did not take it", async () => {
    await using tpm = await startSwtpm({ endorsement: "none" });
    const socketPath = tpm.tcti.replace("swtpm:path=", "");
    const cap = (...args: string[]) => spawnSync(bench.programs.spawner, ["--cap", ...args], { encoding: "utf8" });
    expect(cap("--tpm", `unix:${socketPath}`)).toMatchObject({ status: 0 });
    for (const [name, algorithm] of BANKS) expect(await readPcr13(socketPath, algorithm), name).toBe(capped(name));
    expect(cap("--tpm", `unix:${socketPath}-none`)).toMatchObject({ status: 13 });
    for (const args of [["--service"], ["--", "/bin/true"]]) expect(cap(...args)).toMatchObject({ status: 2 });
  });

  /** One that has something in both of its slots. */
  function newStore(): string {
    const path = join(mkdtempSync(join(bench.programs.directory, "store-")), "store.img");
    const medium = openStoreFile(path);
    const { store } = Store.open(medium);
    for (const recoveries of [2, 3]) store.write({ ...EMPTY_STORE, recoveries });
    medium.close();
    return path;
  }

  test("I11: a store that is not there, or a link in its place, is left alone, and the restart is no other", async () => {
    const elsewhere = newStore();
    const before = readFileSync(elsewhere);
    const link = join(mkdtempSync(join(bench.programs.directory, "store-")), "link");
    symlinkSync(elsewhere, link);
    for (const store of [link, `${elsewhere}-none`]) {
      const spawner = await bench.started({ store });
      spawner.exitAgent(0);
      expect(await spawner.ended()).toBe(10);
      expect(spawner.log()).toMatch(/the loss is not noted/);
    }
    expect(readFileSync(elsewhere).equals(before)).toBe(true);
    expect(existsSync(`${elsewhere}-none`)).toBe(false);
  });

  test("I3: without a TPM the machine restarts all the same, and the log does not claim a cap", async () => {
    const spawner = await bench.started();
    spawner.exitAgent(0);
    expect(await spawner.ended()).toBe(10);
    expect(spawner.log()).toMatch(/NOT capped/);
  });

  const TPM_SUCCESS = Buffer.from("80010000000a00000000", "hex");

  interface LastWords {
    /** The TPM takes no order but the second one. */
    readonly second?: boolean;
    readonly disk?: "stuck";
  }

  /** As PID 1 of a PID namespace, on a machine that has run for so many seconds. The TPM answers nothing. */
  async function lastWordsAt(uptime: number, { second = false, disk }: LastWords = {}) {
    const directory = mkdtempSync(join(bench.programs.directory, "last-"));
    const program = buildLastWords(directory);
    const tpm = join(directory, "tpm.sock");
    const store = newStore();
    const server = createServer().listen(tpm);
    await once(server, "listening");
    const now = Number(readFileSync("/proc/uptime", "utf8").split(".")[0]);
    const namespaces = ["--user", "--map-root-user", "--pid", "--fork", "--time", "--boottime", `${uptime - now}`];
    const child = spawn(
      "unshare",
      [...namespaces, program, `unix:${tpm}`, store, ...(disk === undefined ? [] : [disk])],
      {
        stdio: ["ignore", "ignore", "pipe"],
      },
    );
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
    if (second) server.on("connection", (next: Socket) => next.on("data", () => next.write(TPM_SUCCESS)));
    else server.close();
    socket.destroy();
    await closed;
    server.close();
    expect(readLostRecord(openStoreFile(store))).toEqual(lost("the test"));
    return { log, signal: child.signalCode };
  }

  function readExe(pid: string): string {
    try {
      return readlinkSync(`/proc/${pid}/exe`);
    } catch {
      return ""; // it ended meanwhile
    }
  }

  // Each waits for the machine's own seconds, and for nothing of the others'.
  test.concurrent("I3: PID 1 kills all others before it caps, and reboots no earlier than a minute after the kernel's start", async () => {
    const [late, early] = await Promise.all([lastWordsAt(61), lastWordsAt(50)]);
    expect(late.log).toMatch(/pids \d+ \d+\n.*spawner: the test; agent PCR NOT capped, rebooting\n$/s);
    // In a PID namespace this is what a reboot is.
    expect(late.signal).toBe("SIGHUP");
    expect(early.log).toMatch(/agent PCR NOT capped, rebooting in ([1-9]|10) s\n/);
    expect(early.signal).toBe("SIGHUP");
  });

  test.concurrent("I3: a cap that failed is tried again while the reboot waits", async () => {
    const { log, signal } = await lastWordsAt(50, { second: true });
    expect(log).toMatch(/agent PCR NOT capped, rebooting in ([1-9]|10) s\n.*agent PCR capped\n$/s);
    expect(signal).toBe("SIGHUP");
  });

  test.concurrent("I3: a disk that does not answer does not keep the machine from its reboot", async () => {
    const { log, signal } = await lastWordsAt(61, { disk: "stuck" });
    expect(log).toMatch(/agent PCR NOT capped, rebooting\n.*disks: not done\n$/s);
    expect(signal).toBe("SIGHUP");
  });
});
