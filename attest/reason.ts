import { IronclawError } from "../policy/index.ts";

/** Why something was refused or doubted: a stable code, the item it is about, what was asked for and what was found. */
export interface Reason {
  readonly code: string;
  readonly item: string;
  readonly expected: string;
  readonly got: string;
}

export function reason(code: string, item: string, expected: string, got: string): Reason {
  return { code, item, expected, got };
}

/** The reason a typed error gives. Errors that are not ours keep their message only. */
export function reasonFrom(error: unknown, item: string): Reason {
  if (error instanceof IronclawError) {
    return reason(error.code, item, error.expected ?? "well-formed input", error.got ?? error.message);
  }
  return reason("ERR_UNEXPECTED", item, "no failure", error instanceof Error ? error.message : "unknown failure");
}
