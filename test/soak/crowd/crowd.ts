import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { knownHead, verifyLog } from "../../../agent/audit/verify.ts";
import { LogWalk } from "../../../agent/audit/walk.ts";
import { callerCommand, openServed, type Served } from "../../bench/served.ts";
import type { LabHeld } from "../../support/lab-broker.ts";
import { runTokenTool } from "../../support/shim-fixture.ts";
import type { ClientsOrder } from "./clients.ts";
import type { Told } from "./findings.ts";
import { LOOKS, type MemoryTold, memoryFindings, toldOf } from "./memory.ts";
import { KEY_NAMES, planWorkloads, scopesOf } from "./plan.ts";

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
 * 64 workloads, each with a scope of its own, at both doors of an agent over a real shim; among them clients that are stuck, slow, or gone.
 * Every signature is verified, every limit is counted, and the audit log has to tell the same at the end.
 */
export async function soakCrowd({ milliseconds, drops }: CrowdOptions): Promise<CrowdResult> {
  const workloads = planWorkloads();
  const served = await openServed({
    addKeys: (token) => {
      for (const [index, name] of KEY_NAMES.entries())
        runTokenTool(token, [
          ...["--keypairgen", "--key-type", "EC:prime256v1"],
          ...["--id", `${index + 16}`.padStart(4, "0"), "--label", name],
        ]);
    },
    callers: [process.execPath],
    scopes: () => scopesOf(workloads, "bench"),
  });
  try {
    const before = descriptorsOf(served);
    const order: ClientsOrder = {
      ...{ milliseconds, drops, paths: workloads.map(({ scope }) => served.socket(scope)) },
      publicKeys: Object.fromEntries(served.keys.map(({ name, spki }) => [name, Buffer.from(spki).toString("base64")])),
    };
    const told = runClients(order);
    const looks = await lookOften(served, milliseconds);
    const { operations, faults, signed, violations } = await told;
    await delay(500); // the agent hears of the last ends
    const memory = toldOf(looks, { before, after: descriptorsOf(served) });
    return {
      ...{ operations, faults, memory },
      violations: [...violations, ...memoryFindings(memory), ...auditFindings(served, signed)],
    };
  } finally {
    await served.close();
  }
}

async function runClients(order: ClientsOrder): Promise<Told> {
  const command = callerCommand(process.execPath, [join(import.meta.dirname, "clients.ts")]);
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

/** The log verifies, and has as many allowed signatures of each scope as its workload got, all with its own key. */
function auditFindings({ directory }: Served, signed: Told["signed"]): readonly string[] {
  const counted: Record<string, number> = {};
  const findings: string[] = [];
  const keyOf = new Map(planWorkloads().map(({ scope, key }) => [scope, key]));
  verifyLog(new LogWalk(join(directory, "agent", "audit")), knownHead(null), ({ record }) => {
    if (record.operation !== "sign" || record.decision !== "allow") return;
    counted[record.scope] = (counted[record.scope] ?? 0) + 1;
    if (record.key !== keyOf.get(record.scope)) findings.push(`${record.scope}: recorded with key ${record.key}`);
  });
  for (const { scope } of planWorkloads()) {
    const [log, own] = [counted[scope] ?? 0, signed[scope] ?? 0];
    if (log !== own) findings.push(`${scope}: ${own} signatures, ${log} in the audit log`);
  }
  return findings;
}
