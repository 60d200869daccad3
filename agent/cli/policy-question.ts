import {
  type CallerIdentity,
  type DecisionRequest,
  digestData,
  findScope,
  fittingInput,
  fittingParameters,
  fromHex,
  identityOf,
  mechanismRow,
  type OperationInput,
  type Policy,
  ruleFor,
  type Scope,
  scopeUse,
} from "../../policy/index.ts";
import { type CommandInput, type CommandOption, UsageError } from "./command.ts";

/** `ironclaw policy explain`: what of a question is asked on the command line. */
export const QUESTION_OPTIONS: Readonly<Record<string, CommandOption>> = {
  caller: {
    type: "string",
    value: "WHO",
    help: "a caller of the policy, or uid:N,exe:sha256:HEX,unit:NAME; with --key",
  },
  key: { type: "string", value: "NAME", help: "a key that a scope shows" },
  scope: { type: "string", value: "NAME", help: "in this scope only" },
  operation: { type: "string", value: "NAME", help: "sign, decrypt or unwrap; else what the key does" },
  mechanism: { type: "string", value: "TYPE", help: "e.g. CKM_ECDSA; else each of the scope" },
  "data-length": { type: "string", value: "N", help: "data of that many bytes; else data that fits" },
  digest: { type: "string", value: "HEX", help: "data that is this digest" },
  at: { type: "string", value: "TIME", help: "at this time (UTC); else now" },
  "approved-by": { type: "string", value: "NAMES", help: "approvers who have approved it, with commas between" },
};

const OPERATIONS = ["sign", "decrypt", "unwrap"] as const;
const MAX_DATA = 1 << 16;

/** Was anything asked? */
export function isQuestion(input: CommandInput): boolean {
  return Object.keys(QUESTION_OPTIONS).some((name) => input.optional(name) !== undefined);
}

/** One request for each scope that could be meant, and each mechanism. @throws UsageError */
export function requestsOf(policy: Policy, input: CommandInput): readonly DecisionRequest[] {
  const [who, key] = [input.text("caller"), input.text("key")];
  const caller = identityNamed(policy, who);
  return scopesFor(policy, input, caller, key).flatMap((scope) => {
    const operation =
      input.optional("operation") === undefined
        ? (scopeUse(policy, scope, key) ?? "sign")
        : input.choice("operation", OPERATIONS);
    const mechanism = input.optional("mechanism");
    const types = mechanism === undefined ? scope.mechanisms.map(({ type }) => type) : [mechanism];
    return types.map((type) => ({
      ...{ scope: scope.name, caller, key, operation, mechanism: type },
      parameters: fittingParameters(ruleFor(policy, { scope: scope.name, mechanism: type })),
      input: dataOf(policy, input, { scope: scope.name, mechanism: type, operation }),
      now: Date.parse(input.time("at") ?? new Date().toISOString()),
      approvedBy: (input.optional("approved-by") ?? "").split(",").filter((name) => name !== ""),
      ...{ frozen: false, tokens: 1, keyTokens: 1, operationsLeft: 1, failures: 1 },
    }));
  });
}

/** Those that show the key; or else serve the caller; or else all of them, so that each says why not. */
function scopesFor(policy: Policy, input: CommandInput, caller: CallerIdentity | null, key: string): readonly Scope[] {
  const only = input.optional("scope");
  if (only !== undefined) {
    const scope = findScope(policy, only);
    const expected = policy.scopes.map(({ name }) => name).join(" or ");
    if (scope === null) throw new UsageError("--scope", { expected, got: only });
    return [scope];
  }
  const showing = policy.scopes.filter((scope) => scope.keys.includes(key));
  const serving = policy.scopes.filter((scope) => policy.callers[scope.caller]?.uid === caller?.uid);
  return [showing, serving].find((some) => some.length > 0) ?? policy.scopes;
}

/** By the policy's name, or spelled out; null, whom no scope serves, for a name that the policy does not have. */
function identityNamed(policy: Policy, who: string): CallerIdentity | null {
  if (!who.includes(":")) return identityOf(policy, who);
  const found = /^uid:(0|[1-9][0-9]{0,9}),exe:(sha256:[0-9a-f]{64})(?:,unit:(.{1,256}))?$/.exec(who);
  const [, uid = "", exe = "", unit = null] = found ?? [];
  if (found === null) {
    throw new UsageError("--caller", {
      expected: "a name, or uid:N,exe:sha256:HEX with ,unit:NAME",
      got: who.slice(0, 100),
    });
  }
  return { uid: Number(uid), exe, unit };
}

function dataOf(
  policy: Policy,
  input: CommandInput,
  about: Pick<DecisionRequest, "scope" | "mechanism" | "operation">,
): OperationInput {
  const [length, digest] = [input.integer("data-length", 0, MAX_DATA), input.optional("digest")];
  if (length !== undefined && digest !== undefined)
    throw new UsageError("--digest", { expected: "no --data-length beside it", got: "both" });
  const rule = ruleFor(policy, about);
  const isHashed = rule !== null && mechanismRow(rule.type).hashes !== null;
  // What the agent hashes may have any length: the decision sees the digest.
  if (length !== undefined && !isHashed) return { kind: "data", bytes: new Uint8Array(length) };
  if (digest === undefined) return fittingInput(findScope(policy, about.scope), rule, about.operation);
  if (!/^(?:[0-9a-f]{2}){1,64}$/.test(digest))
    throw new UsageError("--digest", {
      expected: "a digest in lower-case hexadecimal",
      got: `${digest.length} characters`,
    });
  const bytes = fromHex(digest);
  return { kind: "data", bytes: rule === null || about.operation !== "sign" ? bytes : digestData(rule, bytes) };
}
