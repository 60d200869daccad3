import * as z from "zod";
import { toHex } from "./bytes.ts";
import { duration } from "./duration.ts";
import { PolicyError } from "./errors.ts";
import { type DocumentFinding, findingsIn, listed, repeatFindings } from "./findings.ts";
import type { Policy, Scope } from "./policy.ts";
import { name } from "./policy-fields.ts";
import { parseSshKeyLine } from "./ssh-public-key.ts";

/** For editors; `parseSshKeyLine` is the law. */
const KEY_LINE =
  /^(?:verify-required )?(?:ssh-ed25519|sk-ssh-ed25519@openssh\.com) [A-Za-z0-9+/]+={0,2}(?: [^\p{C}\p{Zl}\p{Zp}]+)?$/u;

/** Whoever approves, by an OpenSSH public key. */
export const approver = z.strictObject({
  /** A line as in a `.pub` file, a security key's perhaps with `verify-required` in front. */
  key: z
    .string()
    .max(1024, { abort: true })
    .regex(KEY_LINE, { abort: true, error: ({ input }) => faultOf(String(input)) })
    .refine((line) => faultOf(line) === null, { error: ({ input }) => faultOf(String(input)) }),
  /** Callers that this approver may not approve for: mostly those that he is. */
  notFor: z.array(name).max(64),
});
export const approvers: z.ZodDefault<z.ZodRecord<typeof name, typeof approver>> = z
  .record(name, approver)
  .refine((all) => Object.keys(all).length <= 64, "expected at most 64 approvers")
  .default({});

/** What is wrong with the line of a key, in its reader's words; `null`: nothing. */
function faultOf(line: string): string | null {
  try {
    parseSshKeyLine(line);
    return null;
  } catch (error) {
    if (error instanceof PolicyError) return error.message;
    throw error;
  }
}

/** How many of whom have to approve what. */
export const approvalRule = z.strictObject({
  required: z.int().min(1).max(8),
  of: z.array(name).min(1).max(64),
  /** `operation`: each one by itself. `window`: whatever the scope allows, for as long as `window`. */
  for: z.enum(["operation", "window"]),
  /** How long a request waits for approvals and an approval for its use; for `window`, how long it opens the scope. */
  window: duration,
});

/** Those of the scope's approvers who count for its caller. */
export function countingApprovers(policy: Pick<Policy, "approvers">, { approvals, caller }: Scope): readonly string[] {
  return (approvals?.of ?? []).filter((approverName) => {
    const listed = Object.hasOwn(policy.approvers, approverName) ? policy.approvers[approverName] : undefined;
    return listed !== undefined && !listed.notFor.includes(caller);
  });
}

/** What is wrong with the approvers, and with each scope's use of them. */
export function approverFindings(policy: Policy): readonly DocumentFinding[] {
  const entries = Object.entries(policy.approvers);
  return [
    ...repeatFindings(
      // By its bytes: as a plain and as a security key it is one.
      entries.map(([name, { key }]) => ({
        value: toHex(parseSshKeyLine(key).key.point),
        path: ["approvers", name, "key"],
      })),
      (double) => `approvers: two entries with the key ${double}`,
    ),
    ...entries.flatMap(([approverName, { notFor }]) =>
      notFor.flatMap((caller, index) => {
        if (Object.hasOwn(policy.callers, caller)) return [];
        const path = ["approvers", approverName, "notFor", index];
        return [{ path, message: `approvers.${approverName}: unknown caller ${caller}` }];
      }),
    ),
    ...policy.scopes.flatMap((scope, index) =>
      findingsIn(["scopes", index, "approvals"], `scope ${scope.name}: approvals`, scopeFindings(policy, scope)),
    ),
  ];
}

function scopeFindings(policy: Policy, scope: Scope): readonly DocumentFinding[] {
  const { approvals } = scope;
  if (approvals === undefined) return [];
  const counting = countingApprovers(policy, scope).length;
  return [
    ...repeatFindings(listed(["of"], approvals.of), (double) => `${double} is listed twice`),
    ...approvals.of.flatMap((approverName, index) => {
      if (Object.hasOwn(policy.approvers, approverName)) return [];
      return [{ path: ["of", index], message: `unknown approver ${approverName}` }];
    }),
    ...(counting < approvals.required
      ? [
          {
            path: ["required"],
            message: `${approvals.required} required, and ${counting} may approve for ${scope.caller}`,
          },
        ]
      : []),
  ];
}
