import type { Release } from "../policy/index.ts";
import { type Reason, reason } from "./reason.ts";

/** A reason and how much it weighs; reasons never weigh "affirming". */
export interface Finding extends Reason {
  readonly tier: "warning" | "contraindicated";
}

/** The fields of a release that hold reference values. */
export type ReferenceValues = Pick<Release, "name" | "image" | "pcrs" | "events" | "notBefore" | "notAfter">;

export function contraindicated(code: string, item: string, expected: string, got: string): Finding {
  return { tier: "contraindicated", ...reason(code, item, expected, got) };
}

export function warning(code: string, item: string, expected: string, got: string): Finding {
  return { tier: "warning", ...reason(code, item, expected, got) };
}
