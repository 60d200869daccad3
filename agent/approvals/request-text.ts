import { milliseconds, toHex } from "../../policy/index.ts";
import type { ApprovalRequest } from "../broker/approval-gate.ts";
import type { ApprovedScope } from "./approvers.ts";
import type { ApprovalText } from "./text.ts";

export type ApprovalRule = NonNullable<ApprovedScope["approvals"]>;

/** What is the same in all texts of one start of the agent. */
export interface TextSource {
  readonly machine: () => string;
  readonly bootNonce: Uint8Array;
  readonly policyDigest: string;
  readonly wallClock: () => number;
}

export interface AskedApproval {
  readonly id: string;
  readonly serial: number;
  readonly scope: ApprovedScope;
  readonly rule: ApprovalRule;
  readonly request: ApprovalRequest;
}

/** What approvers of this request sign. Its times are the wall clock's now, for people: nothing here goes by them. */
export function requestText(source: TextSource, { id, serial, scope, rule, request }: AskedApproval): ApprovalText {
  const opened = source.wallClock();
  const ends = instant(opened + milliseconds(rule.window));
  const common = {
    ...{ machine: source.machine(), boot: toHex(source.bootNonce), policy: source.policyDigest, serial: `${serial}` },
    ...{ request: id, scope: scope.name, caller: scope.caller },
  };
  if (rule.for === "window") {
    const mechanisms = scope.mechanisms.map(({ type }) => type).join(" ");
    const keys = scope.keys.join(" ") || "none";
    return { ...common, for: "window", keys, mechanisms, from: instant(opened), until: ends };
  }
  const { key, keySpki, operation, mechanism, parameters, input } = request;
  const asked = { key, "key-spki": keySpki, operation, mechanism, parameters, input };
  return { ...common, for: "operation", ...asked, expires: ends };
}

/** UTC, to the second. */
function instant(milliseconds: number): string {
  return `${new Date(milliseconds).toISOString().slice(0, 19)}Z`;
}
