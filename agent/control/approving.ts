import * as z from "zod";
import { MAX_SSH_SIGNATURE } from "../../policy/index.ts";
import type { Approvals } from "../approvals/index.ts";

const id = z.number().int().nonnegative();

/** Requests about approvals (APPROVALS.md): what waits, and one signature. */
export const approvingRequests = [
  z.strictObject({ id, op: z.literal("pending") }),
  z.strictObject({
    id,
    op: z.literal("approve"),
    request: z.string().regex(/^[0-9a-f]{16}$/, "8 bytes in hexadecimal"),
    signature: z.string().max(MAX_SSH_SIGNATURE),
  }),
] as const;

export type ApprovingRequest = z.infer<(typeof approvingRequests)[number]>;

/** What the control port asks of approvals. */
export type ApprovingService = Pick<Approvals, "pending" | "approve">;

/** A signature that does not count is an answer, and no error: whoever signed is told why. */
export async function serveApproving(
  approvals: ApprovingService,
  parsed: ApprovingRequest,
): Promise<Record<string, unknown>> {
  if (parsed.op === "pending") return { requests: approvals.pending() };
  const answer = await approvals.approve(parsed.request, parsed.signature);
  if (answer.kind === "refused") return { accepted: false, code: answer.code, reason: answer.reason };
  const { approver, approvers, required } = answer;
  return { accepted: true, approver, approvers, required };
}
