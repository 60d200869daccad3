import { encodeApprovalText, parseApprovalText } from "../../../agent/approvals/text.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  expectSame(bytes, encodeApprovalText(parseApprovalText(bytes)), "approval text");
}
