import * as z from "zod";
import { fromHex } from "./bytes.ts";
import {
  type CallerIdentity,
  type Decision,
  type DecisionRequest,
  type DecisionStep,
  decide,
  type MechanismParameters,
  type OperationInput,
} from "./decide.ts";
import { findScope } from "./find-scope.ts";
import { FindingsError, findingsIn, schemaFindings } from "./findings.ts";
import { fittingInput, fittingParameters, ruleFor } from "./fitting.ts";
import { parseCommentedJson } from "./json-comments.ts";
import { DIGESTS, OAEP_DIGESTS } from "./mechanisms.ts";
import type { Policy } from "./policy.ts";
import { doubles, printable, sha256Tag } from "./policy-fields.ts";

// The format is described in POLICY-TEST.md.

export const TABLE_LIMITS = { maxBytes: 1 << 20, maxDepth: 16 };
const MAX_CASES = 4096;
const MAX_DATA = 8192;

/** Every step, by the compiler's word. */
const STEPS = {
  ...{ caller: true, frozen: true, valid: true, key: true, operation: true, mechanism: true, parameters: true },
  ...{ approvals: true, rate: true, budget: true },
} as const satisfies Readonly<Record<DecisionStep, true>>;
// The keys of a literal are exactly the steps.
const DECISION_STEPS = Object.keys(STEPS) as [DecisionStep, ...DecisionStep[]];

const word = printable(128).min(1);
const instant = z.iso.datetime({ precision: 0 });
const hex = z
  .string()
  .max(2 * MAX_DATA)
  .regex(/^(?:[0-9a-f]{2})*$/, "expected an even number of lower-case hexadecimal digits");
const count = z.number().min(0).max(1_000_000_000);
const digest = z.enum(["sha256", "sha384", "sha512"]);
const oaepDigest = z.enum(["sha1", "sha256", "sha384", "sha512"]);

const caller = z.union(
  [
    word,
    z.null(),
    z.strictObject({ uid: z.int().min(0).max(0xffff_ffff), exe: sha256Tag, unit: printable(256).nullable() }),
  ],
  { error: "expected a caller of the policy, null, or uid, exe and unit" },
);
const parameters = z.union(
  [
    z.enum(["fitting", "none", "opaque"]),
    z.strictObject({ pss: z.strictObject({ hash: digest, mgf: digest, saltLength: z.int().min(0).max(MAX_DATA) }) }),
    z.strictObject({ oaep: z.strictObject({ hash: oaepDigest, mgf: oaepDigest, label: hex }) }),
  ],
  { error: 'expected "fitting", "none", "opaque", pss or oaep' },
);
const input = z.union(
  [
    z.enum(["fitting", "pending"]),
    z.strictObject({ length: z.int().min(0).max(MAX_DATA) }),
    z.strictObject({ data: hex }),
    z.strictObject({ block: hex, modulus: hex }),
    z.strictObject({ wrapped: hex, modulus: hex, rule: word }),
  ],
  { error: 'expected "fitting", "pending", length, data, block with modulus, or wrapped with modulus and rule' },
);
const state = z.strictObject({
  at: instant.optional(),
  frozen: z.boolean().default(false),
  approvedBy: z.array(word).max(64).default([]),
  tokens: count.default(1),
  keyTokens: count.default(1),
  operationsLeft: count.default(1),
  failures: count.default(1),
});
const expectation = z.union([z.literal("allow"), z.strictObject({ deny: z.enum(DECISION_STEPS) })], {
  error: `expected "allow", or deny with one of ${DECISION_STEPS.join(", ")}`,
});
const caseSchema = z.strictObject({
  name: word,
  scope: word,
  caller,
  key: word.nullable(),
  operation: z.enum(["sign", "decrypt", "unwrap"]),
  mechanism: word,
  parameters: parameters.default("fitting"),
  input: input.default("fitting"),
  state: state.default(() => state.parse({})),
  expect: expectation,
});
const tableSchema = z.strictObject({
  version: z.literal(1),
  policy: z.string().min(1).max(1024),
  at: instant,
  cases: z.array(caseSchema).min(1).max(MAX_CASES),
});

/** A table of requests to a policy with the decisions that are expected. */
export type DecisionTable = z.infer<typeof tableSchema>;
export type DecisionCase = DecisionTable["cases"][number];

/** One case, tried. */
export interface CaseResult {
  readonly name: string;
  /** Its place in the table, from 0. */
  readonly index: number;
  readonly passed: boolean;
  readonly expected: DecisionCase["expect"];
  readonly got: Decision;
}

/**
 * Reads a table of expected decisions. Says nothing of the policy that it names.
 * @throws PolicyError `ERR_POLICY_MALFORMED` (not strict JSON with comments) or, as a `FindingsError`, `ERR_POLICY_INVALID`
 */
export function parseDecisionTable(bytes: Uint8Array): DecisionTable {
  const result = tableSchema.safeParse(parseCommentedJson(bytes, "decision table", TABLE_LIMITS));
  if (!result.success) throw new FindingsError("decision table", schemaFindings(result.error));
  const twice = doubles(result.data.cases.map(({ name }) => name));
  const findings = result.data.cases.flatMap(({ name }, index) =>
    twice.includes(name)
      ? findingsIn(["cases", index], `cases.${index}`, [
          { path: ["name"], message: `another case has the name ${name} too` },
        ])
      : [],
  );
  if (findings.length > 0) throw new FindingsError("decision table", findings);
  return result.data;
}

/** Every case's decision beside the one that was expected, in the table's order. @throws PolicyError `ERR_POLICY_INVALID` for a caller that the policy does not name */
export function runDecisionTable(policy: Policy, table: DecisionTable): readonly CaseResult[] {
  const strangers = table.cases.flatMap(({ caller: named }, index) =>
    typeof named === "string" && !Object.hasOwn(policy.callers, named)
      ? [{ path: ["cases", index, "caller"], message: `cases.${index}: the policy has no caller ${named}` }]
      : [],
  );
  if (strangers.length > 0) throw new FindingsError("decision table", strangers);
  return table.cases.map((entry, index) => {
    const got = decide(policy, requestOf(policy, table, entry));
    const passed = entry.expect === "allow" ? got.allow : !got.allow && got.step === entry.expect.deny;
    return { name: entry.name, index, passed, expected: entry.expect, got };
  });
}

/** The rules that no case expects to be allowed: what the table says nothing about. Each is `<scope>/<mechanism type>`. */
export function untestedRules(policy: Policy, results: readonly CaseResult[]): readonly string[] {
  const allowed = new Set(results.flatMap(({ got }) => (got.allow ? [got.rule] : [])));
  return policy.scopes
    .flatMap(({ name, mechanisms }) => mechanisms.map(({ type }) => `${name}/${type}`))
    .filter((rule) => !allowed.has(rule));
}

/** The identity that a policy gives a caller: its uid, its first executable and its unit. */
export function identityOf(policy: Policy, name: string): CallerIdentity | null {
  const known = Object.hasOwn(policy.callers, name) ? policy.callers[name] : undefined;
  const exe = known?.exe[0];
  return known === undefined || exe === undefined ? null : { uid: known.uid, exe, unit: known.unit };
}

function requestOf(policy: Policy, { at }: DecisionTable, entry: DecisionCase): DecisionRequest {
  const { scope, key, operation, mechanism, state: held } = entry;
  const { at: own, ...rest } = held;
  return {
    ...{ scope, key, operation, mechanism },
    caller: typeof entry.caller === "string" ? identityOf(policy, entry.caller) : entry.caller,
    parameters: parametersOf(policy, entry),
    input: inputOf(policy, entry),
    now: Date.parse(own ?? at),
    ...rest,
  };
}

function parametersOf(policy: Policy, entry: DecisionCase): MechanismParameters {
  const given = entry.parameters;
  if (given === "fitting") return fittingParameters(ruleFor(policy, entry));
  if (typeof given === "string") return { kind: given };
  if ("pss" in given) {
    const { hash, mgf, saltLength } = given.pss;
    return { kind: "pss", hash: DIGESTS[hash].mechanism, mgf: DIGESTS[mgf].mgf, saltLength: BigInt(saltLength) };
  }
  const { hash, mgf, label } = given.oaep;
  return {
    kind: "oaep",
    hash: OAEP_DIGESTS[hash].mechanism,
    mgf: OAEP_DIGESTS[mgf].mgf,
    source: 1n,
    label: fromHex(label),
  };
}

function inputOf(policy: Policy, entry: DecisionCase): OperationInput {
  const given = entry.input;
  if (given === "fitting") return fittingInput(findScope(policy, entry.scope), ruleFor(policy, entry), entry.operation);
  if (given === "pending") return { kind: "pending" };
  if ("length" in given) return { kind: "data", bytes: new Uint8Array(given.length) };
  if ("data" in given) return { kind: "data", bytes: fromHex(given.data) };
  const modulus = fromHex(given.modulus);
  if ("block" in given) return { kind: "block", bytes: fromHex(given.block), modulus };
  return { kind: "wrapped", bytes: fromHex(given.wrapped), modulus, rule: given.rule };
}
