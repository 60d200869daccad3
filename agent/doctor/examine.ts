import { IronclawError } from "../../policy/index.ts";
import type { FindingId } from "./catalogue.ts";
import { type Finding, fail, MAX_FINDINGS, warn } from "./finding.ts";

/** One look; what it throws is a finding of its id, and the others go on. */
export interface Look {
  readonly id: FindingId;
  run(): readonly Finding[] | Promise<readonly Finding[]>;
}

/** Looks one after the other, because a TPM is asked one thing at a time. Never rejects, and answers a bounded number of findings. */
export async function examine(looks: readonly Look[]): Promise<readonly Finding[]> {
  const findings: Finding[] = [];
  for (const { id, run } of looks) {
    try {
      findings.push(...(await run()));
    } catch (error) {
      findings.push(fail(id, { expected: "an answer", got: failureOf(error), fix: adviceOn(id, error) }));
    }
  }
  if (findings.length <= MAX_FINDINGS) return findings;
  const rest = findings.length - MAX_FINDINGS + 1;
  return [...findings.slice(0, MAX_FINDINGS - 1), warn("too-many", { got: `${rest} more` })];
}

/** A TPM that does not answer is what the fix of `tpm` is for; of the others what could not be looked at is unknown. */
function adviceOn(id: FindingId, error: unknown): string | undefined {
  if (error instanceof IronclawError && error.hint !== undefined) return error.hint;
  return id === "tpm" ? undefined : "this could not be looked at: settle that first, then look again";
}

/** A code and what it is about; of what was not foreseen, no more than that it happened. */
function failureOf(error: unknown): string {
  if (error instanceof IronclawError) return `${error.code}: ${error.message}`;
  return error instanceof Error && error.name === "TpmError" ? error.message : "a failure that was not foreseen";
}
