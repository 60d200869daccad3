import type { Reason } from "../../attest/index.ts";
import { adviceFor } from "../../seal/index.ts";
import type { MachineStatus } from "../machine-status.ts";
import type { TokenStatus } from "../shims/domains.ts";
import { type Finding, fail, ok, warn } from "./finding.ts";

/** As far as it is judged here. */
export type AgentStatus = Omit<MachineStatus, "phases">;

/** Reasons of a machine that serves: it goes on, and somebody should look. The log's last two stop signing. */
const STOPS_SIGNING: ReadonlySet<string> = new Set(["audit-full", "audit-stopped"]);

export function agentFindings({
  state,
  reasons,
  tokens,
  violations,
  settled,
  frozen,
}: AgentStatus): readonly Finding[] {
  const attempts = Object.entries(violations).map(([call, count]) => `${call} ${count}`);
  return [
    ...stateFindings(state, reasons),
    ...(settled ?? []).map(({ code, item, expected, got }) =>
      warn("agent", {
        ...{ expected: `after the launch: ${item}: ${expected}`, got: `${code}: ${got}` },
        fix: "the next boot tries it again; until then earlier releases and generations are not ended",
      }),
    ),
    ...(attempts.length === 0
      ? []
      : [
          warn("tokens", {
            expected: "no attempt at what the sandbox denies",
            got: attempts.join(", "),
            fix: "agent/docs/run-book.md, violations",
          }),
        ]),
    ...tokens.map(tokenFinding),
    ...(frozen === null ? [] : [frozenFinding(frozen)]),
  ];
}

function stateFindings(state: string, reasons: readonly Reason[]): readonly Finding[] {
  const serves = state === "serving";
  if (reasons.length === 0)
    return [
      serves
        ? ok("agent", state)
        : warn("agent", { expected: "serving", got: state, fix: "a launch takes seconds: look again" }),
    ];
  return reasons.map(({ code, item, expected, got }) =>
    (serves && !STOPS_SIGNING.has(code) ? warn : fail)("agent", {
      ...{ expected: `${item}: ${expected}`, got: `${state}: ${code}: ${got}` },
      fix: adviceFor(code) ?? undefined,
    }),
  );
}

function tokenFinding({ name, served, waiting, shims, reasons }: TokenStatus): Finding {
  const spares = shims.filter(({ role }) => role === "spare").length;
  const got = `${name}: ${served ? "served" : "not served"}, ${spares} spare, ${waiting} waiting`;
  if (!served)
    return fail("tokens", {
      expected: `${name}: served`,
      got: [got, ...reasons.map(({ code }) => code)].join(", "),
      fix: "agent/docs/run-book.md: a new launch logs in again",
    });
  if (spares === 0 && shims.length > 1) return warn("tokens", { expected: "a spare", got });
  return ok("tokens", got);
}

function frozenFinding({ all, scopes }: NonNullable<AgentStatus["frozen"]>): Finding {
  if (all) return fail("frozen", { expected: "nothing", got: "everything" });
  return scopes.length === 0
    ? ok("frozen", "nothing")
    : warn("frozen", { expected: "nothing", got: scopes.join(", ") });
}
