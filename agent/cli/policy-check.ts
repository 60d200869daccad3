import {
  acceptedBy,
  type Policy,
  parsePolicy,
  policyExceptions,
  policyRisks,
  scopeUse,
  sortedModules,
  sortedTokens,
} from "../../policy/index.ts";
import type { Command } from "./command.ts";
import { readInput } from "./files.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "read a policy document and list every finding; what it opens and which weaknesses it accepts come first",
  positionals: ["FILE"],
  options: { json: JSON_OPTION },
  examples: ["ironclaw policy check policy.json"],
  run: async (input, io) => {
    const policy = parsePolicy(await readInput(input.positional(0), "policy"));
    const { serial, owner, reviewBy } = policy;
    const [exceptions, risks] = [policyExceptions(policy), policyRisks(policy)];
    const [modules, tokens, scopes] = [modulesOf(policy), tokensOf(policy), scopesOf(policy)];
    const text = [
      `policy ${serial} of ${owner}, review by ${reviewBy}`,
      ...exceptions.map((line) => `  exception  ${line}`),
      ...risks.map((line) => `  accepts  ${line}`),
      ...modules.map(({ name, path, profile }) => `  module ${name}: ${path}, sandbox profile ${profile}`),
      ...tokens.map(
        ({ name, module, label, serial, pin, keys }) =>
          `  token ${name} (${label}, serial ${serial}) through ${module} by the PIN ${pin}: ${keys.join(", ") || "no key"}`,
      ),
      ...scopes.map(describeScope),
    ].join("\n");
    answer(input, io, { ok: true, serial, owner, reviewBy, exceptions, risks, modules, tokens, scopes }, text);
    return 0;
  },
};

function modulesOf(policy: Policy) {
  return sortedModules(policy).map(({ name, path, sha256, profile, spares }) => ({
    ...{ name, path, sha256, profile: profile.name, spares },
  }));
}

function tokensOf(policy: Policy) {
  return sortedTokens(policy).map((token) => ({
    ...token,
    keys: Object.keys(policy.keys).filter((key) => policy.keys[key]?.token === token.name),
  }));
}

function scopesOf(policy: Policy) {
  return policy.scopes.map((scope) => ({
    ...{ name: scope.name, caller: scope.caller, keys: scope.keys },
    does: scopeUse(policy, scope, scope.keys[0] ?? ""),
    mechanisms: scope.mechanisms.map(({ type }) => type),
    accepts: acceptedBy(policy, scope),
  }));
}

function describeScope({ name, caller, keys, does, mechanisms, accepts }: ReturnType<typeof scopesOf>[number]): string {
  const risks = accepts.length === 0 ? "" : `; accepts ${accepts.join(", ")}`;
  return `  ${name}: ${caller} may ${does} with ${keys.join(", ")} by ${mechanisms.join(", ")}${risks}`;
}
