import { IronclawError } from "../../policy/index.ts";

export type CabinetFindingId = "layout" | "slot" | "module" | "release" | "sealed" | "tpm" | "image" | "before";

/** One line of `cabinet verify`, in the shape of `doctor`'s. */
export interface CabinetFinding {
  readonly id: CabinetFindingId;
  readonly level: "ok" | "warn" | "fail";
  /** What was looked at. */
  readonly what: string;
  readonly got: string;
  readonly expected?: string;
  /** What to do, unless the level is ok. */
  readonly fix?: string;
}

export function ok(id: CabinetFindingId, what: string, got: string): CabinetFinding {
  return { id, level: "ok", what, got };
}

export function wrong(
  level: "warn" | "fail",
  id: CabinetFindingId,
  what: string,
  { expected, got, fix }: { readonly expected: string; readonly got: string; readonly fix: string },
): CabinetFinding {
  return { id, level, what, expected, got, fix };
}

/** A refusal of a document's own reader as a finding: one damaged part hides no other. Whatever is no typed error is thrown on. */
export function refusal(id: CabinetFindingId, what: string, fix: string, error: unknown): CabinetFinding {
  if (!(error instanceof IronclawError)) throw error;
  const { expected = "what its format says", got = error.message } = error;
  return wrong("fail", id, `${what}: ${error.message.split(": expected ")[0]}`, { expected, got, fix });
}

/** What the act found, or its refusal. */
export async function looked(
  id: CabinetFindingId,
  what: string,
  fix: string,
  act: () => readonly CabinetFinding[] | Promise<readonly CabinetFinding[]>,
): Promise<readonly CabinetFinding[]> {
  try {
    return await act();
  } catch (error) {
    return [refusal(id, what, fix, error)];
  }
}
