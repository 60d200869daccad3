import { readdirSync, readFileSync, statfsSync, statSync } from "node:fs";
import { join } from "node:path";
import { commandOf, descendantsOf } from "../support/process-tree.ts";
import type { Served } from "./served.ts";

const TMPFS = 0x01021994;

/**
 * What of policy, audit, sandbox and durability is on in an agent that has signed so often: found there, not remembered from how it was
 * started.
 * - `policy`: the log's last signature names the rule that allowed it
 * - `audit`: the log has a record for each signature
 * - `sandbox`: the shim is under a system-call filter, without new privileges, without capabilities, in a root of its own
 * - `durability`: the log is on a disk, not in memory
 */
export function whatIsOn(served: Served, operations: number): readonly string[] {
  const directory = join(served.directory, "agent", "audit");
  const [last, seq] = lastSignature(directory);
  const found = {
    policy: /^(ec|rsa)\/CKM_/.test(last),
    audit: seq >= operations,
    sandbox: isConfined(shimPidOf(served)),
    durability: statfsSync(directory).type !== TMPFS,
  };
  return Object.entries(found).flatMap(([name, on]) => (on ? [name] : []));
}

/** The rule by which the last signature of the log was allowed, and the number of its record. */
function lastSignature(directory: string): readonly [rule: string, seq: number] {
  const last = readdirSync(directory)
    .filter((name) => name.endsWith(".log"))
    .sort()
    .at(-1);
  const lines = readFileSync(join(directory, last ?? ""), "utf8")
    .split("\n")
    .slice(0, -1);
  for (const line of lines.reverse()) {
    const { seq, operation, decision, reason } = JSON.parse(line);
    if (operation === "sign" && decision === "allow") return [reason, seq];
  }
  return ["", 0];
}

/** The process of the shim that has the token's library in it. */
export function shimPidOf({ lab }: Pick<Served, "lab">): number {
  const shims = descendantsOf(lab.spawnerPid()).filter((pid) => commandOf(pid) === "shim");
  const pid = shims.find((candidate) => readFileSync(`/proc/${candidate}/maps`, "latin1").includes("libsofthsm2"));
  if (pid === undefined) throw new Error("no shim has the library");
  return pid;
}

function isConfined(pid: number): boolean {
  const status = readFileSync(`/proc/${pid}/status`, "latin1");
  const shown = [/^Seccomp:\t2$/m, /^NoNewPrivs:\t1$/m, /^CapEff:\t0+$/m].every((line) => line.test(status));
  return shown && statSync(`/proc/${pid}/root/`).dev !== statSync("/").dev;
}
