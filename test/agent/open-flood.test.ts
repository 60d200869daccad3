import { type ChildProcess, execFile, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, readFileSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { promisify } from "node:util";
import { afterEach, beforeAll, expect, test } from "vitest";
import { createPeerIdentity } from "../../agent/identity.ts";
import { type LookedAt, lookInTurns } from "../../agent/looks.ts";
import { openProcesses } from "../../agent/processes.ts";
import { openSpawner } from "../../agent/spawner-client.ts";
import { SPAWNER_OPS } from "../../agent/spawner-messages.ts";
import { type BrokerFixture, startBroker } from "../support/broker-fixture.ts";
import type { PolicyDocument } from "../support/policy-document.ts";
import { native } from "../support/shim-fixture.ts";
import { openSpawnerBench, sha256 } from "./spawner/bench.ts";
import type { HostSpawner } from "./spawner/host.ts";

const root = resolve(import.meta.dirname, "../..");
const bench = openSpawnerBench();
const CONNECTIONS = 64;
/** The superuser gives each caller a user of its own; anybody else has one for both. */
const isRoot = process.getuid?.() === 0;
const SIGNER = isRoot ? 2001 : (process.getuid?.() ?? 2001);
const FLOODER = isRoot ? 2002 : SIGNER;
const as = (uid: number) => (isRoot ? { uid, gid: uid } : {});

let signer: string;
beforeAll(() => {
  signer = join(bench.programs.directory, "rpc-client");
  execFileSync("gcc", ["-std=c11", "-O2", "-o", signer, join(root, "test/support/rpc-client.c")]);
});

/** One request to the spawner: a slice of a look at a process, or something else. */
interface Sent {
  readonly op: number;
  readonly pid: number | null;
  readonly begins: boolean;
}

/** The agent's clients over the real spawner, and each request that they sent it. */
function openAgent(spawner: HostSpawner) {
  const sent: Sent[] = [];
  /** How many had been sent when a look at one of a user's processes was asked for. */
  const asked: { readonly who: LookedAt; readonly at: number }[] = [];
  const pids = new Map<number, number>();
  const transport = {
    call: async (_fd: number, request: Uint8Array, fds: readonly number[]) => {
      const begins = request.subarray(1).every((byte) => byte === 0);
      sent.push({ op: request[0] ?? 0, pid: pids.get(fds[0] ?? -1) ?? null, begins });
      return { bytes: await spawner.packet(request, fds), fds: [] };
    },
    closeFd: () => undefined,
  };
  const client = openSpawner(transport, 3);
  const look = lookInTurns(async (pidfd) => {
    const pid = Number(/^Pid:\t(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${pidfd}`, "utf8"))?.[1]);
    const theirs = await spawner.pidfd(pid); // the same process, by a descriptor of the stand-in agent's
    pids.set(theirs, pid);
    return client.peerExe(theirs).finally(() => spawner.close(theirs));
  });
  const identify = createPeerIdentity({
    executableOf: (pidfd, who) => {
      asked.push({ who, at: sent.length });
      return look(pidfd, who);
    },
    isAlive: (fd) => native().isAlive(fd),
    processes: openProcesses(),
  });
  return { sent, asked, client, identify };
}

function twoCallers(document: PolicyDocument): void {
  const exe = (path: string) => [`sha256:${sha256(readFileSync(path))}`];
  document.callers["release-signer"] = { uid: SIGNER, exe: exe(signer), unit: null };
  document.callers["flooder"] = { uid: FLOODER, exe: exe(process.execPath), unit: null };
  const [, flooded] = document.scopes;
  Object.assign(flooded ?? {}, { caller: "flooder" });
}

const floods: ChildProcess[] = [];
afterEach(() => {
  for (const child of floods.splice(0)) child.kill("SIGKILL");
});

/** Starts it, and waits until it is at work. */
async function startFlood(broker: BrokerFixture, sent: readonly Sent[]) {
  const script = join(root, "test/support/open-flood.ts");
  const child = spawn(process.execPath, [script, broker.socket("rsa-signing"), `${CONNECTIONS}`], {
    ...as(FLOODER),
    stdio: ["pipe", "pipe", "ignore"],
  });
  floods.push(child);
  let said = "";
  child.stdout.on("data", (text: Buffer) => {
    said += text;
  });
  const ended = once(child, "close");
  const begun = () => sent.filter(({ pid, begins }) => pid === child.pid && begins).length;
  await expect.poll(begun, { timeout: 60_000 }).toBeGreaterThan(6);
  return {
    pid: child.pid,
    begun,
    /** How many sessions it opened. */
    end: async () => {
      child.stdin.end();
      await ended;
      return Number(said);
    },
  };
}

test("I6, I10: a caller of a large program that floods both doors with opens keeps neither another caller nor the end of a shim or the machine waiting", async () => {
  const spawner = await bench.started();
  const { sent, asked, client, identify } = openAgent(spawner);
  const broker = await startBroker({ identify, change: twoCallers, parts: { now: () => performance.now() } });
  chmodSync(dirname(broker.socket("release-signing")), 0o755);
  try {
    /** As of three more users. */
    const waitingLooks = async () => {
      const pidfd = await spawner.pidfd(process.pid);
      const looks = Promise.allSettled([1, 2, 3].map(() => client.peerExe(pidfd)));
      return () => looks.then(() => spawner.close(pidfd));
    };
    const flood = await startFlood(broker, sent);
    const slices = (some: readonly Sent[]) => some.filter(({ pid }) => pid === flood.pid).length;
    for (let time = 0; time < 5; time += 1) {
      const args = [broker.socket("release-signing"), "0x1041", "d1".repeat(32)];
      const { stdout } = await promisify(execFile)(signer, args, as(SIGNER));
      expect(stdout).toMatch(/^signature [0-9a-f]{128}$/m);
      const { who, at } = asked.findLast(({ who: { pid } }) => pid !== flood.pid) ?? { who: null, at: -1 };
      const own = sent.findIndex(({ pid }, index) => index >= at && pid === who?.pid);
      // Of its own user two looks may be before it: the one under way, and the one that was waiting.
      expect(slices(sent.slice(at, own))).toBeLessThanOrEqual(isRoot ? 1 : 2 * slicesOf(process.execPath));
      const done = await waitingLooks();
      const before = sent.length;
      await client.stopShim(time);
      expect(sent[before]?.op).toBe(SPAWNER_OPS.stopShim);
      await done();
    }
    const looks = flood.begun();
    const opened = await flood.end();
    // Every connection that waits shares the next look: half of them at least, while the other half is answered.
    expect(opened).toBeGreaterThan((looks * CONNECTIONS) / 8);
    await startFlood(broker, sent);
    await waitingLooks();
    const before = sent.length;
    await client.capAndReboot("over");
    expect(sent[before]?.op).toBe(SPAWNER_OPS.capAndReboot);
    expect(await spawner.ended()).toBe(12);
  } finally {
    await broker.close();
  }
});

const slicesOf = (path: string) => Math.ceil(readFileSync(path).length / (4 << 20));
