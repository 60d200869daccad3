// The workloads of a soak and those who disturb them, in a process of the scopes' caller. Started by soak.ts, which says what to do.
import { createPublicKey } from "node:crypto";
import { Findings, type Told } from "./findings.ts";
import { beSlow, beStuck, dropConnections } from "./nuisance.ts";
import { KEY_NAMES, planWorkloads } from "./plan.ts";
import { runWorkload } from "./workload.ts";

export interface ClientsOrder {
  readonly milliseconds: number;
  /** Connections to open and drop. */
  readonly drops: number;
  /** Of every scope, in the order of the plan. */
  readonly paths: readonly string[];
  /** SubjectPublicKeyInfo by the policy's name of the key, base64. */
  readonly publicKeys: Readonly<Record<string, string>>;
}

async function runClients({ milliseconds, drops, paths, publicKeys }: ClientsOrder): Promise<Told> {
  const findings = new Findings();
  const until = performance.now() + milliseconds;
  const keys = new Map(
    Object.entries(publicKeys).map(([name, spki]) => [
      name,
      createPublicKey({ key: Buffer.from(spki, "base64"), format: "der", type: "spki" }),
    ]),
  );
  const workloads = planWorkloads().map(async (workload) => {
    const publicKey = keys.get(workload.key);
    if (publicKey === undefined) throw new TypeError(`no key ${workload.key}`);
    const otherKey = KEY_NAMES.find((name) => name !== workload.key) ?? "";
    await runWorkload(workload, { path: paths[workload.index] ?? "", publicKey, otherKey }, findings, until);
  });
  // in scopes that others work in, and in the same ones
  const disturbers = [0, 1, 2, 3].map((index) => beStuck(paths[index] ?? "", findings, until));
  const slow = [1, 4, 8, 9].map((index) => beSlow(paths[index] ?? "", findings, until));
  const dropper = dropConnections(paths, drops, findings, until);
  const outcomes = await Promise.allSettled([...workloads, ...disturbers, ...slow, dropper]);
  for (const outcome of outcomes) if (outcome.status === "rejected") findings.violated(String(outcome.reason));
  return findings.told;
}

process.once("message", async (order: ClientsOrder) => {
  process.send?.(await runClients(order));
  process.disconnect?.();
});
