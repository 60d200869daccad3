import { milliseconds, toHex } from "../../policy/index.ts";
import type { ApprovalGate, ApprovalRequest } from "../broker/approval-gate.ts";
import { type ApprovalPolicy, type ApprovalRefusal, type ApprovedScope, refusal, verifyApproval } from "./approvers.ts";
import { addApproval, hasApproved, type Pending, PendingRequests } from "./pending.ts";
import { type ApprovalRule, requestText } from "./request-text.ts";
import { type ApprovalText, encodeApprovalText, parseApprovalText } from "./text.ts";

export interface ApprovalsOptions<Policy extends ApprovalPolicy = ApprovalPolicy> {
  /** The one in force. Another one voids all that there is. */
  readonly policy: () => Policy;
  /** `sha256:<hex>` of the measured document. */
  readonly policyDigest: string;
  /** TPM Name of the attestation key in hexadecimal. */
  readonly machine: () => string;
  /** 32 random bytes, made for this start of the agent and kept nowhere. */
  readonly bootNonce: Uint8Array;
  /** Milliseconds of a clock that counts on while the machine sleeps, and that nobody sets: CLOCK_BOOTTIME. */
  readonly now: () => number;
  /** Milliseconds since 1970, for the text alone. */
  readonly wallClock: () => number;
  /** `size` random bytes. */
  readonly random: (size: number) => Uint8Array;
  /** Writes what happened to the audit log, durably. When it rejects, the approval does not count. */
  readonly record: (event: ApprovalEvent) => Promise<void>;
}

/** A signature that somebody handed in, and what became of it. */
export interface ApprovalEvent {
  /** Null where no such request waits. */
  readonly text: ApprovalText | null;
  /** Null where the key is nobody's. */
  readonly approver: string | null;
  readonly accepted: boolean;
  readonly reason: string;
}

/** One request that waits, for whoever may approve it. */
export interface PendingRequest {
  readonly request: string;
  /** What is signed. */
  readonly text: string;
  readonly required: number;
  /** Who may approve it, of those that the scope lists. */
  readonly of: readonly string[];
  readonly approvers: readonly string[];
  readonly secondsLeft: number;
}

export interface ApprovalAccepted {
  readonly kind: "accepted";
  readonly approver: string;
  /** All so far. */
  readonly approvers: readonly string[];
  readonly required: number;
}

export interface Approvals {
  readonly gate: ApprovalGate;
  /** The oldest first. */
  pending(): readonly PendingRequest[];
  /**
   * Takes one signature. A refusal says why; it changes nothing.
   * @throws what `record` throws, and then the approval does not count
   */
  approve(id: string, armored: string): Promise<ApprovalAccepted | ApprovalRefusal>;
}

/** Requests, and who has approved them, in memory alone. APPROVALS.md has the rules. */
export function createApprovals(options: ApprovalsOptions): Approvals {
  const held = new HeldApprovals(options);
  return {
    gate: { approvedBy: (request) => held.approvedBy(request), use: (request) => held.use(request) },
    pending: () => held.pending(),
    approve: (id, armored) => held.approve(id, armored),
  };
}

const UNKNOWN = refusal(
  "unknown-request",
  "no such request waits: used up, expired, of another boot or policy, or never there",
);

/** Before the machine serves, and for one that never will. */
export const NO_REQUESTS: Pick<Approvals, "pending" | "approve"> = { pending: () => [], approve: async () => UNKNOWN };

class HeldApprovals {
  readonly #options: ApprovalsOptions;
  readonly #requests: PendingRequests;
  #policy: ApprovalPolicy;
  /** One signature after the other: none is counted twice because two came at once. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(options: ApprovalsOptions) {
    this.#options = options;
    this.#requests = new PendingRequests(options.now);
    this.#policy = options.policy();
  }

  approvedBy(request: ApprovalRequest): ReturnType<ApprovalGate["approvedBy"]> {
    const scope = this.#scope(request.scope);
    if (scope?.approvals === undefined || request.caller !== scope.caller) return { id: "", approvers: [] };
    const identity = identityOf(scope.approvals, request);
    const pending = this.#requests.find(scope.name, identity) ?? this.#open(scope, scope.approvals, identity, request);
    return pending === null
      ? { id: "", approvers: [] }
      : { id: pending.id, approvers: [...pending.approvedBy.values()] };
  }

  use(request: ApprovalRequest): boolean {
    const scope = this.#scope(request.scope);
    if (scope?.approvals === undefined) return false;
    const pending = this.#requests.find(scope.name, identityOf(scope.approvals, request));
    if (pending === null || pending.approvedBy.size < scope.approvals.required) return false;
    if (scope.approvals.for === "operation") this.#requests.remove(pending);
    return true;
  }

  pending(): readonly PendingRequest[] {
    const now = this.#options.now();
    return this.#inForce()
      .list()
      .flatMap((pending) => {
        const scope = this.#scope(pending.scope);
        if (scope?.approvals === undefined) return [];
        const { required, of } = scope.approvals;
        return {
          ...{
            request: pending.id,
            text: asText(pending),
            required,
            of: of.filter((name) => this.#counts(scope, name)),
          },
          approvers: [...pending.approvedBy.values()],
          secondsLeft: Math.max(0, Math.ceil((pending.deadline - now) / 1000)),
        };
      });
  }

  approve(id: string, armored: string): Promise<ApprovalAccepted | ApprovalRefusal> {
    const turn = this.#turn.then(() => this.#approve(id, armored));
    this.#turn = turn.catch(() => {});
    return turn;
  }

  async #approve(id: string, armored: string): Promise<ApprovalAccepted | ApprovalRefusal> {
    const pending = this.#inForce().byId(id);
    const scope = pending === null ? null : this.#scope(pending.scope);
    if (pending === null || scope?.approvals === undefined) return this.#refuse(null, UNKNOWN);
    const approver = await verifyApproval(this.#policy, scope, pending.text, armored);
    if (approver.kind === "refused") return this.#refuse(pending, approver);
    if (hasApproved(pending, approver))
      return this.#refuse(pending, refusal("approved-already", `${approver.name} has approved it`, approver.name));
    const { required } = scope.approvals;
    await this.#options.record({
      ...{ text: parseApprovalText(pending.text), approver: approver.name, accepted: true },
      reason: `${pending.approvedBy.size + 1} of ${required} for request ${id}`,
    });
    // It may have ended, or the policy changed, while the record was written.
    if (this.#inForce().byId(id) !== pending) return this.#refuse(pending, UNKNOWN);
    addApproval(pending, approver);
    return { kind: "accepted", approver: approver.name, approvers: [...pending.approvedBy.values()], required };
  }

  async #refuse(pending: Pending | null, refused: ApprovalRefusal): Promise<ApprovalRefusal> {
    const { approver, code, reason } = refused;
    const text = pending === null ? null : parseApprovalText(pending.text);
    await this.#options.record({ text, approver, accepted: false, reason: `${code}: ${reason}` });
    return refused;
  }

  #open(scope: ApprovedScope, rule: ApprovalRule, identity: string, request: ApprovalRequest): Pending | null {
    if (!this.#requests.hasRoom(scope.name)) return null;
    const { now, random } = this.#options;
    const id = toHex(random(8));
    const text = encodeApprovalText(
      requestText(this.#options, { id, serial: this.#policy.serial, scope, rule, request }),
    );
    const deadline = now() + milliseconds(rule.window);
    const pending = { id, scope: scope.name, identity, text, deadline, approvedBy: new Map<string, string>() };
    this.#requests.add(pending);
    return pending;
  }

  #counts({ caller }: ApprovedScope, name: string): boolean {
    const { approvers } = this.#policy;
    return Object.hasOwn(approvers, name) && approvers[name]?.notFor.includes(caller) === false;
  }

  #scope(name: string): ApprovedScope | null {
    this.#inForce();
    return this.#policy.scopes.find((scope) => scope.name === name) ?? null;
  }

  /** What waited under another policy says another serial, and waits no more. */
  #inForce(): PendingRequests {
    const policy = this.#options.policy();
    if (policy !== this.#policy) this.#requests.clear();
    this.#policy = policy;
    return this.#requests;
  }
}

/** For a window all requests of the scope are one. */
function identityOf(
  rule: ApprovalRule,
  { caller, key, keySpki, operation, mechanism, parameters, input }: ApprovalRequest,
): string {
  return JSON.stringify(
    rule.for === "window" ? [caller] : [caller, key, keySpki, operation, mechanism, parameters, input],
  );
}

function asText({ text }: Pending): string {
  return new TextDecoder().decode(text);
}
