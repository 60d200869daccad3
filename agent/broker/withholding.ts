import { type DecisionRequest, type DecisionStep, decide, isValidAt } from "../../policy/index.ts";
import type { Peer } from "../identity.ts";
import { type AdmittedOperation, auditEntry, type OperationResult } from "./operation.ts";
import { type Refused, refused } from "./refused.ts";
import { type ScopeState, scopeOf } from "./scope-state.ts";

/** What is withheld: the question from the token, or its result from the caller. */
type Withheld = "question" | "result";

/** What the operation spends is spent: nothing of that is asked a second time. */
const SPENT = { tokens: 1, keyTokens: 1, operationsLeft: 1, failures: 1 } as const;

/** What was admitted, until the token is asked. */
export class Question {
  readonly #state: ScopeState;
  readonly #peer: Peer | null;
  readonly #admitted: AdmittedOperation;
  #step: DecisionStep | null = null;

  constructor(state: ScopeState, peer: Peer | null, admitted: AdmittedOperation) {
    this.#state = state;
    this.#peer = peer;
    this.#admitted = admitted;
  }

  /**
   * Takes the decision once more: right before the token is asked, without a turn of the event loop between, and again when a shim had to be
   * replaced first. Once it is not allowed it never is.
   */
  stillAllowed(): boolean {
    this.#step ??= takenAway(this.#state, this.#admitted);
    return this.#step === null;
  }

  /** Whether the token was not to be asked. */
  get isWithheld(): boolean {
    return this.#step !== null;
  }

  /** Once, where it is withheld: the log says so, with the number of the record that had allowed it. */
  refuse(): Promise<Refused> {
    if (this.#step === null) throw new TypeError("question: it is not withheld");
    return refuse(this.#state, this.#peer, this.#admitted, { step: this.#step, what: "question" });
  }
}

/**
 * Takes the decision once more, when the token has answered. Null while the policy in force still allows what was admitted, with the same
 * approvals, and nothing is frozen. Else nothing leaves, and the log says so: for each operation by itself, with the number of the record
 * that had allowed it.
 */
export function withhold(state: ScopeState, peer: Peer | null, admitted: AdmittedOperation): Promise<Refused> | null {
  const step = takenAway(state, admitted);
  return step === null ? null : refuse(state, peer, admitted, { step, what: "result" });
}

/** What the token answered, unless it is withheld; then it is wiped. */
export function releaseResult(
  state: ScopeState,
  peer: Peer | null,
  admitted: AdmittedOperation,
  result: OperationResult,
): OperationResult | Promise<OperationResult> {
  if (result.kind === "refused") return result;
  const withheld = withhold(state, peer, admitted);
  if (withheld === null) return result;
  result.bytes.fill(0);
  return withheld;
}

/** The step of the decision that would refuse it now; null for none. */
export function takenAway(state: ScopeState, { request, policy }: AdmittedOperation): DecisionStep | null {
  const { live, name } = state;
  const now = state.wallClock();
  const frozen = live.isFrozen(name);
  const scope = scopeOf(state);
  if (live.current === policy && !frozen && scope !== null && isValidAt(scope, now)) return null;
  const again: DecisionRequest = { ...request, ...SPENT, now, frozen };
  const decision = decide(live.current, again);
  return decision.allow ? null : decision.step;
}

async function refuse(
  state: ScopeState,
  peer: Peer | null,
  { request, seq }: AdmittedOperation,
  { step, what }: { readonly step: DecisionStep; readonly what: Withheld },
): Promise<Refused> {
  state.meter.decided(state.name, step);
  const why = step === "frozen" ? "frozen" : step === "valid" ? "outside its time" : "narrowed";
  const held =
    what === "result" ? `the result of record ${seq} was withheld` : `record ${seq} was withheld from the token`;
  await state.refusals.recordEach(
    auditEntry(peer, request, { allow: false, step, reason: `${why} meanwhile: ${held}` }, []),
  );
  return refused("FUNCTION_REJECTED", step);
}
