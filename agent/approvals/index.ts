/** What waits for people, and what they have approved. */
export {
  type ApprovalAccepted,
  type ApprovalEvent,
  type Approvals,
  type ApprovalsOptions,
  createApprovals,
  NO_REQUESTS,
  type PendingRequest,
} from "./approvals.ts";
export type { ApprovalPolicy, ApprovalRefusal, ApprovalRefusalCode } from "./approvers.ts";
export { openApprovals } from "./open.ts";
export { APPROVAL_NAMESPACE, type ApprovalText, MAX_APPROVAL_TEXT, parseApprovalText } from "./text.ts";
