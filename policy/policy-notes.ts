import type { DocumentFinding } from "./findings.ts";
import type { Policy } from "./policy.ts";

export type NoteCode = "no-freeze-bit";

/** What is neither wrong nor suspect, and good to know before one signs. */
export interface Note extends DocumentFinding {
  readonly code: NoteCode;
}

/** Pure. Unlike a warning of `lintPolicy` nothing here is to be put right. */
export function notePolicy({ scopes }: Policy): readonly Note[] {
  return scopes.flatMap(({ name, freezeBit }, index) => {
    if (freezeBit !== undefined) return [];
    const message = `scope ${name}: can be frozen only together with everything`;
    return [{ code: "no-freeze-bit", path: ["scopes", index, "name"], message }];
  });
}
