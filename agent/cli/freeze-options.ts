import { type Policy, parsePolicy } from "../../policy/index.ts";
import { requireBit } from "../restrictions/index.ts";
import { readInput } from "./files.ts";

/** A policy document, and the freeze bit that it gives a scope. */
export async function readPolicyFile(
  path: string,
): Promise<{ readonly bytes: Uint8Array; readonly policy: Policy; bitOf(scope: string): number }> {
  const bytes = await readInput(path, "policy");
  const policy = parsePolicy(bytes);
  return { bytes, policy, bitOf: (scope) => requireBit(policy, scope) };
}
