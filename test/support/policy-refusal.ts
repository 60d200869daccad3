import { PolicyError } from "../../policy/errors.ts";

/** What refused. */
export function refusal(action: () => unknown): PolicyError {
  try {
    action();
  } catch (error) {
    if (error instanceof PolicyError) return error;
    throw error;
  }
  throw new Error("expected a refusal");
}
