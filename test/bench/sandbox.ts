import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { join, resolve } from "node:path";
import type { SignRequest } from "../../agent/shim-client.ts";
import type { ShimFile } from "../../agent/spawner-client.ts";
import { measureClosure } from "../../attest/index.ts";
import { sha256, utf8 } from "../../policy/index.ts";
import type { LabStart } from "../support/hostile-agent.ts";
import { buildLab, type Lab, type LabBuild, openLab } from "../support/hostile-lab.ts";
import {
  makeToken,
  NATIVE_DIRECTORY,
  SOFTHSM,
  TEST_PIN,
  type Token,
  writeHostProfile,
} from "../support/shim-fixture.ts";
import { median, type Row, rateRow, type Suite, timeRow } from "./bench.ts";

const root = resolve(import.meta.dirname, "../..");
const TOKENS = "/var/lib/softhsm/tokens";
const CONF = "/lab/softhsm2.conf";
export const LABEL = "bench";
const BATCH = 200;
const DEPTH = 8;
const WARM_UP = 3;

/** `sandbox`: what filters, Landlock, namespaces and private root cost a signature. `launch-shim`: what a log-in in a shim costs. */
export const sandboxSuite: Suite = {
  ids: ["sandbox", "launch-shim"],
  run: async (wanted, { iterations }) => {
    const bench = openSandboxBench();
    try {
      const rows: Row[] = [];
      if (wanted.has("sandbox")) rows.push(await measureSigning(bench, iterations));
      if (wanted.has("launch-shim")) rows.push(await measureLaunch(bench, iterations));
      return rows;
    } finally {
      await bench.close();
    }
  },
};

export interface SandboxBench {
  readonly directory: string;
  readonly lab: Lab;
  readonly request: (id: number) => LabStart;
  /** Of a shim outside a private root: the same but for paths that are there. */
  readonly profile: string;
  readonly environment: Readonly<Record<string, string>>;
  close(): Promise<void>;
}

/** Token, configuration and programs in memory, so that no disk is measured: a private root is in memory too. */
export function openSandboxBench(addKeys: (token: Token) => void = () => undefined): SandboxBench {
  const directory = mkdtempSync("/dev/shm/ironclaw-sandbox-");
  chmodSync(directory, 0o755);
  const here = { directory, remove: () => undefined };
  const token = makeToken(here);
  addKeys(token);
  const { environment, tokens } = token;
  const build = buildLab({ directory });
  writeFileSync(
    join(directory, "conf"),
    `directories.tokendir = ${TOKENS}\nobjectstore.backend = file\nlog.level = ERROR\n`,
  );
  const files = softhsmFiles(build, tokens);
  const profileSha256 = sha256(new Uint8Array(readFileSync(build.profilePath)));
  // the shim without its sandbox runs as the lab's agent, which is somebody else where root tests
  execFileSync("chmod", ["-R", "a+rwX", tokens]);
  const lab = openLab(build);
  return {
    ...{ directory, lab, environment, profile: writeHostProfile(here, null) },
    request: (id) => ({
      files,
      shim: { id, profileSha256, environment: [`SOFTHSM2_CONF=${CONF}`], writable: [TOKENS], nodes: [], connect: [] },
      timeoutMs: 60_000,
    }),
    close: async () => {
      await lab.stop();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

function softhsmFiles({ directory, profilePath }: LabBuild, tokens: string): ShimFile[] {
  const shim = join(NATIVE_DIRECTORY, "shim");
  const place = (path: string) => (path === "/shim" ? shim : path);
  const pin = measureClosure({
    ...{ entry: SOFTHSM, executable: "/shim", realPath: (path: string) => realpathSync(place(path)) },
    readFile: (path) => (existsSync(place(path)) ? new Uint8Array(readFileSync(place(path))) : null),
  });
  const file = (path: string, from: string, how: Partial<ShimFile> = {}): ShimFile => ({
    ...{ path, source: { kind: "root", path: from }, executable: false, writable: false, ...how },
  });
  // the spawner takes world-readable files only
  const copy = join(directory, "copy");
  cpSync(tokens, copy, { recursive: true });
  execFileSync("chmod", ["-R", "a+rX", copy]);
  const objects = readdirSync(copy, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return [
    ...[SOFTHSM, ...Object.keys(pin.closure)].map((path) => file(path, place(path), { executable: true })),
    file("/profile", profilePath),
    file(CONF, join(directory, "conf")),
    ...objects.map((entry) => {
      const from = join(entry.parentPath, entry.name);
      return file(from.replace(copy, TOKENS), from, { writable: true });
    }),
  ];
}

/** A peer of `native/`. */
export const compile = (directory: string, name: string, flags: readonly string[]): string => {
  const output = join(directory, name);
  execFileSync("gcc", [
    ...["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", `-I${root}/agent/shim`, ...flags],
    ...["-o", output, join(import.meta.dirname, "native", `${name}.c`)],
  ]);
  return output;
};

/** Two shims of one program below one agent, one of them without its sandbox; batches in turn, each first in turn. */
async function measureSigning(
  { directory, lab, profile, request, environment }: SandboxBench,
  iterations: number,
): Promise<Row> {
  const preload = compile(directory, "unconfined", ["-shared", "-fPIC"]);
  const pin = utf8(TEST_PIN);
  const confined = await lab.reserve();
  const { slotId } = await lab.ask("launch", request(confined), SOFTHSM, LABEL, pin);
  const bare = 1000;
  const program = join(NATIVE_DIRECTORY, "shim");
  await lab.ask("startBare", bare, { ...{ program, preload, profile }, environment });
  await lab.ask("give", bare, pin);
  await lab.ask("shim", bare, "load", [SOFTHSM]);
  await lab.ask("shim", bare, "login", [slotId]);
  const requests = new Map<number, SignRequest>();
  for (const id of [confined, bare]) {
    const keys = (await lab.ask("shim", id, "keys", [slotId])) as readonly {
      readonly handle: bigint;
      readonly label: string;
    }[];
    const handle = keys.find(({ label }) => label === "ec")?.handle ?? -1n;
    await lab.ask("shim", id, "uses", [[{ slotId, handle, use: "sign" }]]);
    await lab.ask("shim", id, "arm", []);
    requests.set(id, { slotId, handle, mechanism: 0x1041n, pss: null, data: new Uint8Array(32).fill(1) });
  }
  const times: Record<number, number[]> = { [confined]: [], [bare]: [] };
  for (let round = 0; round < WARM_UP + iterations; round++) {
    for (const id of round % 2 === 0 ? [confined, bare] : [bare, confined]) {
      const signing = requests.get(id);
      if (signing === undefined) throw new Error("no key");
      const ms = await lab.ask("signatures", id, signing, BATCH, DEPTH);
      if (round >= WARM_UP) times[id]?.push(ms);
    }
  }
  const rate = (id: number) => (BATCH / median(times[id] ?? [])) * 1000;
  const what = "P-256 signatures of one client, 8 waiting, by the shim in its sandbox, vs the same shim in none";
  return rateRow({ id: "sandbox", what, target: 0.95 }, { ours: rate(confined), peer: rate(bare) });
}

/** From PREPARE_SHIM to logged in, timed by the agent; and a C program from its start to its end. */
async function measureLaunch({ directory, lab, request, environment }: SandboxBench, iterations: number): Promise<Row> {
  const program = compile(directory, "bare-login", []);
  const pin = utf8(TEST_PIN);
  const ours: number[] = [];
  const peer: number[] = [];
  for (let round = 0; round < WARM_UP + iterations; round++) {
    const id = await lab.reserve();
    const { ms } = await lab.ask("launch", request(id), SOFTHSM, LABEL, pin);
    await lab.ask("shim", id, "close", []);
    const before = performance.now();
    const child = spawn(program, [SOFTHSM, LABEL], { env: environment, stdio: ["pipe", "ignore", "inherit"] });
    child.stdin.end(`${TEST_PIN}\n`);
    const [code] = await once(child, "close");
    if (code !== 0) throw new Error("bare-login failed");
    if (round < WARM_UP) continue;
    ours.push(ms);
    peer.push(performance.now() - before);
  }
  const what =
    "a private root filled and hashed, a shim started in it, library loaded, logged in, vs a C program that loads and logs in";
  return timeRow({ id: "launch-shim", what, target: 4 }, { ours: median(ours), peer: median(peer) });
}
