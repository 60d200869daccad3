import { printableText } from "../../policy/index.ts";
import { CATALOGUE, type FindingId } from "./catalogue.ts";

export type FindingLevel = "ok" | "warn" | "fail";

/** One line of a look at a machine. Nothing in it is a secret; texts are bounded. */
export interface Finding {
  readonly id: FindingId;
  readonly level: FindingLevel;
  /** What was looked at. */
  readonly what: string;
  readonly got: string;
  readonly expected?: string;
  /** What to do, unless the level is ok. */
  readonly fix?: string;
}

/** Of each text, in characters. */
const MAX_TEXT = 400;
/** Of one look. What a policy or a host configuration can make many is cut here, and the last line says so. */
export const MAX_FINDINGS = 200;

export function ok(id: FindingId, got: string): Finding {
  return { id, level: "ok", what: CATALOGUE[id].what, got: bounded(got) };
}

export interface Problem {
  readonly got: string;
  readonly expected?: string;
  /** Instead of the catalogue's. */
  readonly fix?: string | undefined;
}

export function warn(id: FindingId, problem: Problem): Finding {
  return found(id, "warn", problem);
}

export function fail(id: FindingId, problem: Problem): Finding {
  return found(id, "fail", problem);
}

function found(id: FindingId, level: FindingLevel, { got, expected, fix }: Problem): Finding {
  return {
    ...{ id, level, what: CATALOGUE[id].what, got: bounded(got) },
    ...(expected === undefined ? {} : { expected: bounded(expected) }),
    fix: bounded(fix ?? CATALOGUE[id].fix),
  };
}

function bounded(text: string): string {
  const line = printableText(text.replaceAll(/\s+/g, " ").trim());
  return line.length > MAX_TEXT ? `${line.slice(0, MAX_TEXT - 3)}...` : line;
}
