import * as z from "zod";
import { approvalRule } from "./approvers.ts";
import { duration } from "./duration.ts";
import { name } from "./policy-fields.ts";
import { failureLimits, mechanismRule } from "./scope-rules.ts";
import { unwrapRule } from "./unwrap-rules.ts";

/** Keys that one scope may name. */
const MAX_SCOPE_KEYS = 16;
export const MAX_CONNECTIONS = 256;
export const MAX_IN_FLIGHT = 256;

export const rate = z.strictObject({ perMinute: z.int().min(1).max(600_000), burst: z.int().min(1).max(60_000) });
const instant = z.iso.datetime({ precision: 0 });
const fields = {
  name,
  caller: name,
  from: name.optional(),
  mechanisms: z.array(mechanismRule).min(1).max(16),
  unwraps: z.array(unwrapRule).min(1).max(16).optional(),
  rate: rate.optional(),
  failures: failureLimits.optional(),
  budget: z.strictObject({ operations: z.int().min(1).max(1_000_000_000) }).optional(),
  valid: z
    .strictObject({ from: instant, until: instant })
    .refine(({ from, until }) => from < until, "expected from before until")
    .optional(),
  lifetime: duration.optional(),
  idle: duration.optional(),
  connections: z.int().min(1).max(MAX_CONNECTIONS).optional(),
  inFlight: z.int().min(1).max(MAX_IN_FLIGHT).optional(),
  approvals: approvalRule.optional(),
  freezeBit: z.int().min(1).max(63).optional(),
  audit: z.enum(["written", "durable"]),
};

/**
 * A scope as a policy document writes it: with `keys`, or with `key` where it is one, as mostly. Read, it has `keys`; their order is that
 * in which a caller sees them.
 */
export const scopeSchema = z
  .strictObject({ ...fields, key: name.optional(), keys: z.array(name).min(1).max(MAX_SCOPE_KEYS).optional() })
  .refine(({ key, keys }) => (key === undefined) !== (keys === undefined), "expected either key or keys")
  .transform(({ key, keys, ...rest }) => ({ ...rest, keys: keys ?? (key === undefined ? [] : [key]) }));
