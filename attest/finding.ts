import type { Release } from "../policy/index.ts";
import { type Reason, reason } from "./reason.ts";

/** A reason and how much it weighs; reasons never weigh "affirming". */
export interface Finding extends Reason {
  readonly tier: "warning" | "contraindicated";
}

/** The fields of a release that hold reference values. */
export type ReferenceValues = Pick<Release, "name" | "image" | "pcrs" | "events" | "notBefore" | "notAfter">;

const maxOfCode = 64;

/** At most 64 findings of one code, then one that counts the rest: a hostile log could have thousands, and none of them says more. */
export function bounded(findings: readonly Finding[]): readonly Finding[] {
  const counts = new Map<string, number>();
  const kept = findings.filter(({ tier, code }) => {
    const count = (counts.get(`${tier} ${code}`) ?? 0) + 1;
    counts.set(`${tier} ${code}`, count);
    return count <= maxOfCode;
  });
  const over = [...counts].filter(([, count]) => count > maxOfCode);
  const rest = over.map(([key, count]) => {
    const [tier, code = ""] = key.split(" ", 2);
    const make = tier === "warning" ? warning : contraindicated;
    return make(code, "more of them", `at most ${maxOfCode} listed`, `${count - maxOfCode} more`);
  });
  return [...kept, ...rest];
}

export function contraindicated(code: string, item: string, expected: string, got: string): Finding {
  return { tier: "contraindicated", ...reason(code, item, expected, got) };
}

export function warning(code: string, item: string, expected: string, got: string): Finding {
  return { tier: "warning", ...reason(code, item, expected, got) };
}
