// The workloads of one caller of a soak and those who disturb them, in a process of that caller. Started by crowd.ts, which says what to do.
import { createPublicKey } from "node:crypto";
import { Findings, type Told } from "./findings.ts";
import { beSlow, beStuck, dropConnections, floodOpens, trespass } from "./nuisance.ts";
import { KEY_NAMES, planWorkloads, type Workload } from "./plan.ts";
import { runWorkload } from "./workload.ts";

export interface ClientsOrder {
  /** Whose workloads. */
  readonly caller: string;
  readonly milliseconds: number;
  /** Connections to open and drop. */
  readonly drops: number;
  /** Of every scope, in the order of the plan. */
  readonly paths: readonly string[];
  /** SubjectPublicKeyInfo by the policy's name of the key, base64. */
  readonly publicKeys: Readonly<Record<string, string>>;
}

/** Of the plan, in scopes that others work in. */
const STUCK: readonly number[] = [0, 1, 2, 3];
const SLOW: readonly number[] = [1, 4, 8, 9];
/** At each door, and each with a caller of its own. */
const FLOODED: readonly number[] = [16, 25];

async function runClients({ caller, milliseconds, drops, paths, publicKeys }: ClientsOrder): Promise<Told> {
  const findings = new Findings();
  const until = performance.now() + milliseconds;
  const keys = new Map(
    Object.entries(publicKeys).map(([name, spki]) => [
      name,
      createPublicKey({ key: Buffer.from(spki, "base64"), format: "der", type: "spki" }),
    ]),
  );
  const own = planWorkloads().filter((workload) => workload.caller === caller);
  const workloads = own.map(async (workload) => {
    const publicKey = keys.get(workload.key);
    if (publicKey === undefined) throw new TypeError(`no key ${workload.key}`);
    const otherKey = KEY_NAMES.find((name) => name !== workload.key) ?? "";
    await runWorkload(workload, { path: paths[workload.index] ?? "", publicKey, otherKey }, findings, until);
  });
  const pathOf = ({ index }: Workload) => paths[index] ?? "";
  const among = (some: readonly number[]) => own.filter(({ index }) => some.includes(index));
  const disturbers = [
    ...among(STUCK).map((workload) => beStuck(pathOf(workload), findings, until)),
    ...among(SLOW).map((workload) => beSlow(pathOf(workload), findings, until)),
    ...among(FLOODED).map((workload) => floodOpens(workload.door, pathOf(workload), findings, until)),
    dropConnections(own.map(pathOf), drops, findings, until),
    trespass(
      planWorkloads()
        .filter((workload) => workload.caller !== caller)
        .map(pathOf),
      findings,
      until,
    ),
  ];
  const outcomes = await Promise.allSettled([...workloads, ...disturbers]);
  for (const outcome of outcomes) if (outcome.status === "rejected") findings.violated(String(outcome.reason));
  return findings.told;
}

process.once("message", async (order: ClientsOrder) => {
  process.send?.(await runClients(order));
  process.disconnect?.();
});
