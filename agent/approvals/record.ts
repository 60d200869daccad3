import type { AuditEntry } from "../audit/record.ts";
import type { ApprovalEvent } from "./approvals.ts";

/** What became of a signature, as a record of the audit log: operation `approve`, about the key and input that it was for (AUDIT.md). */
export function approvalEntry({ text, accepted, reason, approver }: ApprovalEvent): AuditEntry {
  const asked = text?.for === "operation" ? text : null;
  return {
    ...{ caller: null, scope: text?.scope ?? "", key: asked?.key ?? null, mechanism: asked?.mechanism ?? null },
    ...{ operation: "approve", inputDigest: asked?.input ?? null, decision: accepted ? "allow" : "deny" },
    ...{ step: accepted ? null : "approvals", reason: approver === null ? reason : `${approver}: ${reason}` },
  };
}
