import { states } from "./plain.ts";
import type { Summary } from "./shapes.ts";

export const sortKeys = ["state", "name", "assurance", "release", "launch", "lastSeen", "violations", "flags"] as const;
export type SortKey = (typeof sortKeys)[number];

export interface Selection {
  readonly text: string;
  /** `null`: all. */
  readonly state: string | null;
  readonly sort: SortKey;
  readonly descending: boolean;
}

export const firstSelection: Selection = { text: "", state: null, sort: "state", descending: false };

/** What the table shows of a fleet: filtered, then sorted; equal rows by name, so that refreshes do not shuffle them. */
export function selectRows(fleet: readonly Summary[], selection: Selection): readonly Summary[] {
  const words = selection.text.toLowerCase().split(/\s+/).filter(Boolean);
  const direction = selection.descending ? -1 : 1;
  return fleet
    .filter((row) => selection.state === null || row.state === selection.state)
    .filter((row) => words.every((word) => searchText(row).includes(word)))
    .toSorted((a, b) => direction * compare(a, b, selection.sort) || byText(a.name, b.name));
}

export function countByState(fleet: readonly Summary[]): ReadonlyMap<string, number> {
  const counts = new Map<string, number>();
  for (const { state } of fleet) counts.set(state, (counts.get(state) ?? 0) + 1);
  return counts;
}

function searchText({ name, assurance, release, launch, state, flags }: Summary): string {
  return [name, assurance, release ?? "", launch ?? "", state, ...flags].join("\n").toLowerCase();
}

/** States by how much they need a person, not by their letters. */
function compare(a: Summary, b: Summary, key: SortKey): number {
  switch (key) {
    case "state":
      return rank(a.state) - rank(b.state);
    case "violations":
      return (a.violations ?? 0) - (b.violations ?? 0);
    case "flags":
      return a.flags.length - b.flags.length;
    default:
      return byText(a[key] ?? "", b[key] ?? "");
  }
}

function rank(state: string): number {
  return (states as readonly string[]).indexOf(state); // an unknown state, -1, comes first
}

function byText(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** What changed between two answers, in a sentence for those who do not see the table; empty where nothing did. */
export function describeChanges(before: readonly Summary[], now: readonly Summary[]): string {
  const old = new Map(before.map((row) => [row.name, row.state]));
  const names = new Set(now.map(({ name }) => name));
  const changes = [
    ...now.filter(({ name }) => !old.has(name)).map(({ name }) => `${name} is new`),
    ...now
      .filter(({ name, state }) => old.has(name) && old.get(name) !== state)
      .map(({ name, state }) => `${name} is now ${state}`),
    ...before.filter(({ name }) => !names.has(name)).map(({ name }) => `${name} is gone`),
  ];
  const rest = changes.length > 4 ? `, and ${changes.length - 4} more` : "";
  return changes.slice(0, 4).join(", ") + rest;
}
