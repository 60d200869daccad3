import { readdirSync, readFileSync } from "node:fs";
import { type Held, heldOver, RESIDENT_GROWTH } from "../crowd/memory.ts";
import type { SoakMachine } from "./machine.ts";

/** What is looked at: the verifier is the soak's own child. */
const NAMES = ["agent", "spawner", "verifier"] as const;
type Name = (typeof NAMES)[number];

export interface Looked {
  readonly pid: number;
  readonly descriptors: number;
  readonly residentBytes: number;
}
export type Look = Readonly<Record<Name, Looked>>;

export interface MachineHeld {
  readonly resident: Readonly<Record<string, Held>>;
  readonly descriptors: Readonly<Record<string, { readonly before: number; readonly after: number }>>;
}

/** None while one of them is away. */
export function lookAt(machine: SoakMachine): readonly Look[] {
  const agent = machine.desk.machine.agentPid();
  try {
    const parent = Number(/^PPid:\s+(\d+)$/m.exec(readFileSync(`/proc/${agent}/status`, "latin1"))?.[1]);
    return [{ agent: looked(agent), spawner: looked(parent), verifier: looked(machine.verifier.pid) }];
  } catch (error) {
    if (["ENOENT", "ESRCH"].includes((error as NodeJS.ErrnoException).code ?? "")) return [];
    throw error;
  }
}

function looked(pid: number): Looked {
  const kilobytes = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, "latin1"))?.[1];
  return { pid, descriptors: readdirSync(`/proc/${pid}/fd`).length, residentBytes: 1024 * Number(kilobytes) };
}

/** @param looks of the second half, at equal distances, the first and the last of them with nobody connected. A process that was replaced is left out. */
export function heldIn(looks: readonly Look[]): MachineHeld {
  const [first, last] = [looks[0], looks.at(-1)];
  if (first === undefined || last === undefined) throw new TypeError("no look");
  const same = NAMES.filter((name) => first[name].pid === last[name].pid);
  const over = (name: Name) =>
    heldOver(
      looks.slice(1, -1).map((look) => look[name].residentBytes),
      RESIDENT_GROWTH,
    );
  return {
    resident: Object.fromEntries(same.map((name) => [name, over(name)])),
    descriptors: Object.fromEntries(
      same.map((name) => [name, { before: first[name].descriptors, after: last[name].descriptors }]),
    ),
  };
}

/** @param isLong whether resident memory can be judged: a short run is still growing to its size */
export function heldFindings({ resident, descriptors }: MachineHeld, isLong: boolean): readonly string[] {
  const grown = Object.entries(resident).flatMap(([name, { middle, end, allowed }]) =>
    !isLong || end - middle <= allowed
      ? []
      : [`${name}: resident memory grew over the second half: from ${middle} to ${end} MiB`],
  );
  const left = Object.entries(descriptors).flatMap(([name, { before, after }]) =>
    after <= before ? [] : [`${name}: ${after - before} descriptors are left`],
  );
  return [...grown, ...left];
}
