import { type Continuity, encodeContinuity, parseContinuity } from "../../attest/index.ts";
import { AgentError } from "../errors.ts";
import { readInput, writeOutput } from "./files.ts";

/**
 * What the last verified report of a machine left behind, one file for each machine; `null` where there is no such file yet.
 * @throws PolicyError ERR_POLICY_MALFORMED; AgentError ERR_ENVIRONMENT for a file that is there and cannot be read
 */
export async function readHistory(path: string): Promise<Continuity | null> {
  try {
    return parseContinuity(await readInput(path, "history"));
  } catch (error) {
    if (error instanceof AgentError && isAbsent(error.cause)) return null;
    throw error;
  }
}

/** All of it or nothing. Two programs that share a file need a lock of their own: the later write stays. */
export async function writeHistory(path: string, continuity: Continuity): Promise<void> {
  await writeOutput(path, encodeContinuity(continuity));
}

function isAbsent(cause: unknown): boolean {
  return cause instanceof Error && "code" in cause && cause.code === "ENOENT";
}
