import {
  type CallerIdentity,
  type DecisionRequest,
  DIGESTS,
  decide,
  type MechanismRule,
  mechanismRow,
  type OperationInput,
  type Policy,
  ruleDigest,
  ruleParameters,
  type Scope,
  scopeUse,
  sha256,
  utf8,
} from "../../policy/index.ts";
import { type Random, seededRandom } from "../fuzz/random.ts";

export interface Sampled {
  readonly asked: number;
  /** Those that the policy allows, as text, so that those of two policies can be compared. */
  readonly allowed: ReadonlySet<string>;
}

const MODULUS = new Uint8Array(256).fill(0xff);
/** A wrapped key, a ciphertext, a block for raw RSA. */
export const WRAPPED: Uint8Array = new Uint8Array(256).fill(0x01);
/** Of each rule of each scope with each of its keys, with something else in most of them. */
const VARIANTS = 60;

/** Asks about what `worlds` allow and about what is near to it, drawn by `seed`: the same requests for the same worlds, whatever the policy. */
export function allowedRequests(policy: Policy, worlds: readonly Policy[], seed: number): Sampled {
  const requests = sampleRequests(worlds, seededRandom(seed));
  const allowed = requests.filter((request) => decide(policy, request).allow).map(textOf);
  return { asked: requests.length, allowed: new Set(allowed) };
}

function sampleRequests(worlds: readonly Policy[], random: Random): readonly DecisionRequest[] {
  const scopes = worlds.flatMap((world) => world.scopes.map((scope) => ({ world, scope })));
  return scopes.flatMap(({ world, scope }) =>
    scope.keys.flatMap((key) =>
      scope.mechanisms.flatMap((rule) =>
        Array.from({ length: VARIANTS }, () => variant(world, { scope, key, rule }, random)),
      ),
    ),
  );
}

interface Allowed {
  readonly scope: Scope;
  readonly key: string;
  readonly rule: MechanismRule;
}

function variant(world: Policy, base: Allowed, random: Random): DecisionRequest {
  const { scope, key, rule } = base;
  const often = <T>(usual: T, others: readonly T[]): T =>
    random.below(4) > 0 ? usual : random.pick([usual, ...others]);
  const operation = scopeUse(world, scope, key) ?? "sign";
  const limit = () => often(1, [0]);
  return {
    scope: often(
      scope.name,
      world.scopes.map(({ name }) => name),
    ),
    caller: callerOf(world, often(scope.caller, Object.keys(world.callers)), random),
    key: often(key, [...Object.keys(world.keys), ...scope.keys]),
    operation: often(operation, ["sign", "decrypt", "unwrap"]),
    mechanism: often<string>(
      rule.type,
      scope.mechanisms.map(({ type }) => type),
    ),
    parameters: often(ruleParameters(rule), scope.mechanisms.map(ruleParameters)),
    input: inputOf(scope, operation, rule, random),
    now: momentOf(scope, random),
    frozen: random.below(10) === 0,
    approvedBy: Object.keys(world.approvers).filter(() => random.below(2) > 0),
    ...{ tokens: limit(), keyTokens: limit(), operationsLeft: limit(), failures: limit() },
  };
}

function callerOf({ callers }: Policy, name: string, random: Random): CallerIdentity | null {
  const listed = callers[name];
  if (listed === undefined) return null;
  return {
    uid: listed.uid,
    exe: random.pick(listed.exe),
    unit: random.pick([listed.unit, "signer.service", "x.service", null]),
  };
}

function inputOf({ unwraps = [] }: Scope, operation: string, rule: MechanismRule, random: Random): OperationInput {
  if (operation === "unwrap") {
    const bytes = random.pick([WRAPPED, sha256(utf8("a blob"))]);
    return { kind: "wrapped", bytes, modulus: MODULUS, rule: random.pick(unwraps.map(({ key }) => key)) };
  }
  if (operation === "decrypt" || rule.type === "CKM_RSA_X_509")
    return { kind: "block", bytes: WRAPPED, modulus: MODULUS };
  const { size, digestInfoPrefix } = DIGESTS[ruleDigest(rule)];
  const isDigestInfo = mechanismRow(rule.type).type === "CKM_RSA_PKCS";
  return { kind: "data", bytes: Uint8Array.from([...(isDigestInfo ? digestInfoPrefix : []), ...new Uint8Array(size)]) };
}

function momentOf({ valid }: Scope, random: Random): number {
  const edges = [valid?.from ?? "2026-11-26T12:00:00Z", valid?.until ?? "2026-12-02T00:00:00Z"].map(Date.parse);
  return random.pick([...edges, Date.parse("2026-11-26T12:00:00Z")]) + random.pick([-1000, 0, 0, 1]);
}

function textOf({ input, ...rest }: DecisionRequest): string {
  const bytes = Buffer.from(input.kind === "pending" ? "" : input.bytes).toString("hex");
  return JSON.stringify({ ...rest, input: { ...input, bytes, modulus: "" } }, (_, value: unknown) =>
    typeof value === "bigint" ? `${value}` : value,
  );
}
