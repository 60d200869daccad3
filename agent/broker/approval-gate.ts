import type { Operation } from "../../policy/index.ts";

/** What approvers see and sign. */
export interface ApprovalRequest {
  readonly scope: string;
  /** The policy's name of the caller. */
  readonly caller: string;
  readonly key: string;
  /** `sha256:<hex>` */
  readonly keySpki: string;
  readonly operation: Operation;
  readonly mechanism: string;
  /** Printable, the same text for the same parameters. */
  readonly parameters: string;
  /** `sha256:<hex>` of the data. */
  readonly input: string;
}

/** What the broker needs of approvals. */
export interface ApprovalGate {
  /**
   * Who has approved this request, or the scope's window, and has not been used up. With fewer than the policy requires the request is
   * pending from now on.
   */
  approvedBy(request: ApprovalRequest): { readonly id: string; readonly approvers: readonly string[] };
  /**
   * Uses the approvals of one operation up. Called once, when the decision has allowed it and before that is recorded.
   * @returns false when they are not there any more: nothing follows from them
   */
  use(request: ApprovalRequest): boolean;
}

/** For a policy in which nothing needs approvals. */
export const NO_APPROVALS: ApprovalGate = { approvedBy: () => ({ id: "", approvers: [] }), use: () => false };
