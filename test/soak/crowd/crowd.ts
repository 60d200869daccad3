import { spawn } from "node:child_process";
import { once } from "node:events";
import { appendFileSync, chmodSync, copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { knownHead, verifyLog } from "../../../agent/audit/verify.ts";
import { LogWalk } from "../../../agent/audit/walk.ts";
import { callerCommand, digestOf, openServed, type Served, seenUser } from "../../bench/served.ts";
import type { LabHeld } from "../../support/lab-broker.ts";
import { runTokenTool } from "../../support/shim-fixture.ts";
import type { ClientsOrder } from "./clients.ts";
import { type Told, together } from "./findings.ts";
import { LOOKS, type MemoryTold, memoryFindings, toldOf } from "./memory.ts";
import { CALLER_NAMES, KEY_NAMES, planWorkloads, scopesOf } from "./plan.ts";

export interface CrowdOptions {
  readonly milliseconds: number;
  /** Connections that are opened and dropped meanwhile. */
  readonly drops: number;
}

export interface CrowdResult {
  /** Signatures that were asked for, given and verified. */
  readonly operations: number;
  /** What was done to the agent that no good client does. */
  readonly faults: number;
  /** What must not be; empty when all held. */
  readonly violations: readonly string[];
  /** Of the agent. */
  readonly memory: MemoryTold;
}

/**
 * 64 workloads of eight callers, each with a scope of its own, at both doors of an agent over a real shim; among them clients that are stuck,
 * slow, or gone, that flood, and that knock at other callers' scopes.
 * Every signature is verified, every limit is counted, and the audit log has to tell the same at the end.
 */
export async function soakCrowd({ milliseconds, drops }: CrowdOptions): Promise<CrowdResult> {
  const directory = mkdtempSync(join(tmpdir(), "ironclaw-crowd-"));
  try {
    return await soakCallers({ milliseconds, drops }, copyPrograms(directory));
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** Programs by the names of their callers, each with a digest of its own: a caller's executable is its interpreter. */
type Programs = Readonly<Record<string, string>>;

function copyPrograms(directory: string): Programs {
  chmodSync(directory, 0o755);
  const copies = CALLER_NAMES.map((name): [string, string] => {
    const path = join(directory, name);
    copyFileSync(process.execPath, path);
    appendFileSync(path, name);
    return [name, path];
  });
  return Object.fromEntries(copies);
}

async function soakCallers({ milliseconds, drops }: CrowdOptions, programs: Programs): Promise<CrowdResult> {
  const workloads = planWorkloads();
  const served = await openServed({
    addKeys: (token) => {
      for (const [index, name] of KEY_NAMES.entries())
        runTokenTool(token, [
          ...["--keypairgen", "--key-type", "EC:prime256v1"],
          ...["--id", `${index + 16}`.padStart(4, "0"), "--label", name],
        ]);
    },
    callers: Object.fromEntries(Object.entries(programs).map(([name, path]) => [name, [path]])),
    scopes: () => scopesOf(workloads),
  });
  try {
    const before = descriptorsOf(served);
    const order: Omit<ClientsOrder, "caller"> = {
      ...{
        milliseconds,
        drops: Math.ceil(drops / CALLER_NAMES.length),
        paths: workloads.map(({ scope }) => served.socket(scope)),
      },
      publicKeys: Object.fromEntries(served.keys.map(({ name, spki }) => [name, Buffer.from(spki).toString("base64")])),
    };
    const told = Promise.all(
      Object.entries(programs).map(([caller, path], user) => runClients({ ...order, caller }, path, user)),
    );
    const looks = await lookOften(served, milliseconds);
    const { operations, faults, signed, violations } = together(await told);
    await delay(500); // the agent hears of the last ends
    const memory = toldOf(looks, { before, after: descriptorsOf(served) });
    return {
      ...{ operations, faults, memory },
      violations: [...violations, ...memoryFindings(memory), ...auditFindings(served, signed, programs)],
    };
  } finally {
    await served.close();
  }
}

async function runClients(order: ClientsOrder, program: string, user: number): Promise<Told> {
  const command = callerCommand(program, [join(import.meta.dirname, "clients.ts")], user);
  const child = spawn(...command, { cwd: "/", stdio: ["ignore", "inherit", "inherit", "ipc"] });
  child.send(order);
  const gone = once(child, "exit").then(([code]) => Promise.reject(new Error(`the clients ended with ${code}`)));
  gone.catch(() => undefined);
  const [told] = await Promise.race([once(child, "message"), gone]);
  return told;
}

/** While the clients work, at equal distances. */
async function lookOften({ lab }: Served, milliseconds: number): Promise<readonly LabHeld[]> {
  const looks: LabHeld[] = [];
  while (looks.length < LOOKS) {
    await delay(milliseconds / (LOOKS + 1));
    looks.push(await lab.ask("held"));
  }
  return looks;
}

/** Open descriptors of the agent, which is the spawner's child that is called node. */
function descriptorsOf({ lab }: Served): number {
  const spawner = lab.spawnerPid();
  const children = readFileSync(`/proc/${spawner}/task/${spawner}/children`, "latin1").trim().split(" ");
  const agent = children.find((pid) => readFileSync(`/proc/${pid}/cmdline`, "latin1").includes("hostile-agent"));
  if (agent === undefined) throw new Error("no agent");
  return readdirSync(`/proc/${agent}/fd`).length;
}

/** The log verifies, and has as many allowed signatures of each scope as its workload got, all with its own key and by its own caller. */
function auditFindings({ directory }: Served, signed: Told["signed"], programs: Programs): readonly string[] {
  const counted: Record<string, number> = {};
  const findings: string[] = [];
  const callers = new Map(
    Object.entries(programs).map(([name, path], user) => [name, `${seenUser(user)} ${digestOf(path)}`]),
  );
  const expected = new Map(planWorkloads().map(({ scope, caller, key }) => [scope, `${key} ${callers.get(caller)}`]));
  verifyLog(new LogWalk(join(directory, "agent", "audit")), knownHead(null), ({ record }) => {
    if (record.operation !== "sign" || record.decision !== "allow") return;
    counted[record.scope] = (counted[record.scope] ?? 0) + 1;
    const got = `${record.key} ${record.caller?.uid} ${record.caller?.exe}`;
    if (got !== expected.get(record.scope)) findings.push(`${record.scope}: recorded with ${got}`);
  });
  for (const { scope } of planWorkloads()) {
    const [log, own] = [counted[scope] ?? 0, signed[scope] ?? 0];
    if (log !== own) findings.push(`${scope}: ${own} signatures, ${log} in the audit log`);
  }
  return findings;
}
