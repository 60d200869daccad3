import type { AuditRecord } from "../../agent/audit/record.ts";
import type { Lab } from "./bench.ts";

/** One thing that somebody asked for, and what became of it. */
export interface Try {
  /** Whose process asked. */
  readonly who: string;
  /** What was run or sent, as a person would type it. */
  readonly command: string;
  readonly expected: "accepted" | "refused";
  readonly outcome: "accepted" | "refused";
  /** What the client saw. */
  readonly answer: string;
}

export interface StepResult {
  readonly tries: readonly Try[];
  /** What else is to be seen: the output of a command, a number that was found. */
  readonly shown: readonly string[];
  /** What the step left in the audit log, oldest first. */
  readonly audit: readonly AuditRecord[];
}

export interface Step {
  /** Its place in the walkthrough, from 1. `agent/docs/lab.md` has a section of this number and title. */
  readonly number: number;
  readonly part: "break" | "harden" | "observe" | "assumption" | "restore";
  readonly title: string;
  readonly attacked: string;
  /** What changed in the policy since the step before; null for nothing. */
  readonly change: string | null;
  readonly enforcedBy: string;
  run(lab: Lab): Promise<StepResult>;
}

/** A step goes as it should when every try ended as expected. */
export function holds({ tries }: StepResult): boolean {
  return tries.length > 0 && tries.every(({ expected, outcome }) => expected === outcome);
}
