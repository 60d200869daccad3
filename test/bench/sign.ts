import { type ChildProcess, execFile, spawn } from "node:child_process";
import { chmodSync, existsSync, mkdtempSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { promisify } from "node:util";
import { SOFTHSM, TEST_PIN } from "../support/shim-fixture.ts";
import { type Compared, median, type Row, rateRow, type Suite, timeRow } from "./bench.ts";
import { measureOperation, type OperationCost } from "./decide.ts";
import { LABEL } from "./sandbox.ts";
import { CALLER, callerCommand, compileClient, openServed, SCOPES, type Served } from "./served.ts";
import { whatIsOn } from "./what-is-on.ts";

const run = promisify(execFile);
const CLIENT_MODULE = "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so";
export const DEPTH = 8;
/** Milliseconds of one run by each way, at most. */
const LONGEST = 1000;
/** Milliseconds of load before the first run that counts: until then a new agent's code is compiled while it serves. */
export const WARM_UP = 6000;
/** One for each core, as a policy for a slow token has it. */
const SEVERAL = Math.min(availableParallelism(), 4);

interface SignRow {
  readonly id: string;
  readonly key: "ec" | "rsa";
  readonly clients: number;
  /** How many serve the token. */
  readonly shims: number;
  readonly kind: "rate" | "p99" | "native";
  readonly target: number;
}

const rate = (key: "ec" | "rsa", clients: number, target: number, shims = 1): SignRow => ({
  ...{ id: `sign-${key}-${clients}`, key, clients, shims, kind: "rate", target },
});
const ROWS: readonly SignRow[] = [
  ...[rate("ec", 1, 1.5), rate("ec", 4, 1), rate("ec", 16, 1.5)],
  ...[rate("rsa", 1, 1), rate("rsa", 4, 1, SEVERAL), rate("rsa", 16, 1, SEVERAL)],
  { id: "sign-ec-native-16", key: "ec", clients: 16, shims: 1, kind: "native", target: 1 },
  { id: "sign-p99-4", key: "ec", clients: 4, shims: 1, kind: "p99", target: 1 },
];

/** Signing through the broker, its agent a process of its own, next to the stock server on a copy of the same token. */
export const signSuite: Suite = {
  ids: ROWS.map(({ id }) => id),
  run: async (wanted, { iterations }) => {
    const rows: Row[] = [];
    const cost = costText(await measureOperation());
    for (const [shims, same] of Map.groupBy(ROWS, (row) => row.shims)) {
      const asked = same.filter(({ id }) => wanted.has(id));
      const measured = asked.length === 0 ? [] : await measureRows(asked, shims, iterations);
      rows.push(...measured.map((row) => ({ ...row, what: `${row.what}; ${cost}` })));
    }
    return ROWS.flatMap(({ id }) => rows.filter((row) => row.id === id));
  },
};

async function measureRows(asked: readonly SignRow[], shims: number, iterations: number): Promise<readonly Row[]> {
  await using bench = await openSignBench(shims);
  await warmUp(bench, Math.min(WARM_UP, 150 * iterations));
  const rows: Row[] = [];
  for (const row of asked) rows.push(await measure(bench, row, iterations));
  const on = bench.on();
  return rows.map((row) => ({ ...row, on }));
}

/** Both doors and both kinds of key. */
export async function warmUp({ arms }: Pick<SignBench, "arms">, milliseconds: number): Promise<void> {
  await arms.broker({ key: "ec", clients: 4 }, 0.4 * milliseconds);
  await arms.native({ key: "ec", clients: 4 }, 0.3 * milliseconds);
  await arms.broker({ key: "rsa", clients: 4 }, 0.3 * milliseconds);
}

/** What a client program says of its run. */
export interface Load {
  readonly operations: number;
  readonly milliseconds: number;
  /** Microseconds. */
  readonly p50: number;
  readonly p99: number;
  /** Set-ups that had to be tried again. */
  readonly retries: number;
}

/** `depth`: requests that a client of the native protocol has waiting. */
type ArmRow = Pick<SignRow, "key" | "clients"> & { readonly depth?: number };
type Arm = (row: ArmRow, milliseconds: number) => Promise<Load>;

export interface SignBench extends AsyncDisposable {
  readonly served: Served;
  readonly arms: Readonly<Record<"broker" | "native" | "stock" | "direct", Arm>>;
  /** What is on, by what the agent and its shim show of all that was signed so far. */
  readonly on: () => readonly string[];
}

export async function openSignBench(shims = 1): Promise<SignBench> {
  await using stack = new AsyncDisposableStack();
  const programs = mkdtempSync(join(tmpdir(), "ironclaw-sign-"));
  stack.defer(() => rmSync(programs, { recursive: true, force: true }));
  chmodSync(programs, 0o755);
  const program = compileClient(programs, "sign-load", ["sign-pkcs11", "sign-native", "times"]);
  const served = await openServed({ callers: { bench: [program] }, shims, scopes: signingScopes });
  stack.defer(() => served.close());
  const stock = await startStockServer(served);
  stack.defer(() => void stock.server.kill());
  const arms = armsOf(program, served, stock.path);
  let signed = 0;
  const counted =
    (arm: Arm): Arm =>
    async (row, milliseconds) => {
      const load = await arm(row, milliseconds);
      signed += load.operations;
      return load;
    };
  const opened = stack.move();
  return {
    ...{ served, arms: { ...arms, broker: counted(arms.broker), native: counted(arms.native) } },
    on: () => whatIsOn(served, signed),
    [Symbol.asyncDispose]: () => opened.disposeAsync(),
  };
}

function armsOf(program: string, served: Served, stock: string): SignBench["arms"] {
  const load = async (row: ArmRow, milliseconds: number, way: string, rest: readonly string[], env: object) => {
    const args = [way, row.key, `${row.clients}`, `${Math.round(milliseconds)}`, ...rest];
    const { stdout } = await run(...callerCommand(program, args), { env: { ...process.env, ...env }, cwd: "/" });
    return JSON.parse(stdout) as Load;
  };
  const at = (path: string) => ({ P11_KIT_SERVER_ADDRESS: `unix:path=${path}` });
  return {
    broker: (row, ms) => load(row, ms, "pkcs11", [CLIENT_MODULE, "", "none"], at(served.socket(row.key))),
    native: (row, ms) => load(row, ms, "native", [served.socket(row.key), `${row.depth ?? DEPTH}`], {}),
    stock: (row, ms) => load(row, ms, "pkcs11", [CLIENT_MODULE, "", TEST_PIN], at(stock)),
    direct: (row, ms) => load(row, ms, "pkcs11", [SOFTHSM, LABEL, TEST_PIN], served.copyOfToken()),
  };
}

/** As many scopes as a policy may have, two of which are used. Their rates are looked at and never met. */
function signingScopes(): readonly Record<string, unknown>[] {
  const scope = (name: string, key: string, mechanism: string) => ({
    ...{ name, caller: "bench", key, audit: "written", inFlight: 256 },
    ...{ mechanisms: [{ type: mechanism, digest: "sha256" }], rate: { perMinute: 600_000, burst: 60_000 } },
  });
  const others = Array.from({ length: SCOPES - 2 }, (_, index) => scope(`other-${index}`, "ec", "CKM_ECDSA"));
  return [...others, scope("ec", "ec", "CKM_ECDSA"), scope("rsa", "rsa", "CKM_RSA_PKCS")];
}

/** In a session of its own: the scheduler shares processors out by sessions, and ours are in some too. */
async function startStockServer(served: Served): Promise<{ readonly server: ChildProcess; readonly path: string }> {
  const path = join(served.directory, "stock.sock");
  const env = { ...process.env, ...served.copyOfToken() };
  const args = ["server", "--foreground", "--name", path, "--provider", SOFTHSM, `pkcs11:token=${LABEL}`];
  const server = spawn("p11-kit", args, {
    env,
    detached: true,
    stdio: ["ignore", "ignore", "inherit"],
    uid: CALLER?.uid,
    gid: CALLER?.uid,
  });
  while (!existsSync(path)) {
    if (server.exitCode !== null) throw new Error("p11-kit server ended");
    await delay(10);
  }
  return { server, path };
}

async function measure({ arms }: SignBench, row: SignRow, iterations: number): Promise<Row> {
  const milliseconds = Math.min(LONGEST, 25 * iterations);
  const native = row.kind === "native";
  const [ours, peer] = native ? [arms.native, arms.direct] : [arms.broker, arms.stock];
  const alone = native ? { ...row, clients: 1 } : row;
  const loads: { readonly ours: Load[]; readonly peer: Load[] } = { ours: [], peer: [] };
  const ways = { ours: () => ours(row, milliseconds), peer: () => peer(alone, milliseconds) };
  for (let round = 0; round < Math.ceil(iterations / 8); round++) {
    for (const way of round % 2 === 0 ? (["ours", "peer"] as const) : (["peer", "ours"] as const))
      loads[way].push(await ways[way]());
  }
  const of = (take: (load: Load) => number): Compared => ({
    ours: median(loads.ours.map(take)),
    peer: median(loads.peer.map(take)),
  });
  const what = `${whatOf(row)} (${told(loads.ours, loads.peer)})`;
  if (row.kind === "p99")
    return timeRow(
      { ...row, what },
      of(({ p99 }) => p99 / 1000),
    );
  return rateRow(
    { ...row, what },
    of((load) => (1000 * load.operations) / load.milliseconds),
  );
}

function whatOf({ key, clients, shims, kind }: SignRow): string {
  const by = shims === 1 ? "one shim" : `${shims} shims`;
  const name = key === "ec" ? "P-256" : "RSA-2048";
  if (kind === "native") {
    return `${name} signatures, ${clients} native clients with ${DEPTH} requests waiting each, ${by}, vs one process with the library in it`;
  }
  const what = kind === "p99" ? "time that 99 of 100 signatures keep" : "signatures";
  return `${name} ${what}, ${clients} stock ${clients === 1 ? "client" : "clients"}, ${by}, policy, audit and sandbox on, vs p11-kit server`;
}

function costText({ policy, audit }: OperationCost): string {
  const us = (time: number) => `${time.toFixed(1)} us`;
  return `of each operation of ours ${us(policy)} of the processor for the policy's decisions and ${us(audit)} for the audit record`;
}

function told(ours: readonly Load[], peer: readonly Load[]): string {
  const p50 = (loads: readonly Load[]) => Math.round(median(loads.map((load) => load.p50)));
  const p99 = (loads: readonly Load[]) => Math.round(median(loads.map((load) => load.p99)));
  const retries = (loads: readonly Load[]) => loads.reduce((sum, load) => sum + load.retries, 0);
  const text = (loads: readonly Load[]) =>
    `p50 ${p50(loads)} us, p99 ${p99(loads)} us, ${retries(loads)} set-ups again`;
  return `ours ${text(ours)}; peer ${text(peer)}`;
}
