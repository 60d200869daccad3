import type { Operation } from "../../policy/index.ts";
import type { AuditEntry } from "../audit/record.ts";
import type { Peer } from "../identity.ts";
import { mechanismName } from "./mechanisms.ts";
import { callerOf, type StartedOperation } from "./operation.ts";
import { type Refused, refused } from "./refused.ts";
import type { ScopeState } from "./scope-state.ts";

/**
 * What came with an allowed operation does not fit it: an input in another form than the mechanism takes, a template that contradicts the
 * policy's own. Recorded as a refusal at step `parameters`, like one of the decision's.
 * @param reason for the log
 */
export async function refuseParameters(
  state: ScopeState,
  peer: Peer | null,
  { operation, mechanism, key }: StartedOperation,
  { code, reason }: { readonly code: Parameters<typeof refused>[0]; readonly reason: string },
): Promise<Refused> {
  await record(state, peer, { operation, key: key.name, mechanism: mechanism.type, step: "parameters", reason });
  return refused(code, "parameters");
}

/** A mechanism that no policy can name, so that what follows it in the call cannot be read: not even the key is known. */
export async function refuseMechanism(
  state: ScopeState,
  peer: Peer | null,
  operation: Operation,
  mechanism: bigint,
): Promise<Refused> {
  const said = { operation, key: null, mechanism: mechanismName(mechanism), step: "mechanism" } as const;
  await record(state, peer, { ...said, reason: "parameters of an unknown form" });
  return refused("MECHANISM_INVALID", "mechanism");
}

type Said = Pick<AuditEntry, "operation" | "key" | "mechanism" | "reason"> & {
  readonly step: "mechanism" | "parameters";
};

async function record(state: ScopeState, peer: Peer | null, said: Said): Promise<void> {
  state.meter.decided(state.name, said.step);
  await state.refusals.record({
    ...{ ...said, caller: callerOf(peer), scope: state.name, inputDigest: null, decision: "deny", approvals: [] },
  });
}
