import {
  decide,
  type MechanismParameters,
  type Policy,
  parsePolicy,
  policyExceptions,
  ruleParameters,
  type Scope,
  sortedModules,
} from "../../policy/index.ts";
import type { Command, CommandInput, CommandIo } from "./command.ts";
import { readInput } from "./files.ts";
import { answer, JSON_OPTION } from "./output.ts";
import { explainModules, profilesOf } from "./policy-modules.ts";

export const command: Command = {
  summary:
    "what each library may reach; or, of a caller: may it use this key by this mechanism, with the rule or the reason",
  positionals: ["POLICY"],
  options: {
    caller: { type: "string", value: "NAME", help: "a caller of the policy; with --key and --mechanism" },
    key: { type: "string", value: "NAME", help: "a key of the policy" },
    mechanism: { type: "string", value: "TYPE", help: "e.g. CKM_ECDSA" },
    operation: { type: "string", value: "NAME", help: "sign (default), decrypt or unwrap" },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw policy explain policy.json",
    "ironclaw policy explain policy.json --caller release-signer --key release-ec --mechanism CKM_ECDSA",
  ],
  run: async (input, io) => {
    const asks = ["caller", "key", "mechanism", "operation"].some((name) => input.optional(name) !== undefined);
    return asks ? explainDecision(input, io) : explainReach(input, io);
  },
};

async function explainReach(input: CommandInput, io: CommandIo): Promise<0> {
  const policy = parsePolicy(await readInput(input.positional(0), "policy"));
  const exceptions = policyExceptions(policy);
  const modules = sortedModules(policy).map((module) => ({
    ...{ name: module.name, path: module.path, profile: module.profile, spares: module.spares },
    tokens: Object.keys(policy.tokens).filter((token) => policy.tokens[token]?.module === module.name),
    ...{ nodes: module.nodes, connect: module.connect, writable: module.writable, files: module.files },
  }));
  const { onViolation, onLoginLost, sandbox } = policy;
  const profiles = profilesOf(policy);
  const first = exceptions.map((line) => `exception  ${line}`);
  const text = [...first, ...(first.length === 0 ? [] : [""]), ...explainModules(policy, profiles)].join("\n");
  answer(input, io, { exceptions, modules, profiles, sandbox, onViolation, onLoginLost }, text.trimEnd());
  return 0;
}

async function explainDecision(input: CommandInput, io: CommandIo): Promise<0 | 1> {
  const [caller, key, mechanism] = [input.text("caller"), input.text("key"), input.text("mechanism")];
  const policy = parsePolicy(await readInput(input.positional(0), "policy"));
  const operation = input.choice("operation", ["sign", "decrypt", "unwrap"]);
  const identity = callerNamed(policy, caller);
  const scopes = policy.scopes.map((scope) => ({
    scope: scope.name,
    ...decide(policy, {
      ...{ scope: scope.name, caller: identity, key, operation, mechanism },
      parameters: fittingParameters(scope, mechanism),
      input: { kind: "pending" },
      ...{ now: Date.now(), frozen: false, approvedBy: scope.approvals?.of ?? [] },
      ...{ tokens: 1, keyTokens: 1, operationsLeft: 1, failures: 1 },
    }),
  }));
  const allow = scopes.some((decision) => decision.allow);
  const lines = scopes.map((decision) =>
    decision.allow
      ? `  ${decision.scope}: yes, by rule ${decision.rule}`
      : `  ${decision.scope}: no, ${decision.step}: ${decision.reason}`,
  );
  const token = Object.hasOwn(policy.keys, key) ? (policy.keys[key]?.token ?? null) : null;
  const where = token === null ? "" : `, ${key} on token ${token}`;
  answer(input, io, { allow, token, scopes }, [`${allow ? "allowed" : "denied"}${where}`, ...lines].join("\n"));
  return allow ? 0 : 1;
}

/** The identity that the policy gives a name; null, which no scope serves, for a name that it does not have. */
function callerNamed(policy: Policy, name: string): { uid: number; exe: string; unit: string | null } | null {
  const caller = Object.hasOwn(policy.callers, name) ? policy.callers[name] : undefined;
  const exe = caller?.exe[0];
  return caller === undefined || exe === undefined ? null : { uid: caller.uid, exe, unit: caller.unit };
}

/** The question is about the rule, so the parameters are those that its rule wants. */
function fittingParameters(scope: Scope, mechanism: string): MechanismParameters {
  const rule = scope.mechanisms.find(({ type }) => type === mechanism);
  return rule === undefined ? { kind: "none" } : ruleParameters(rule);
}
