import {
  acceptedBy,
  lintPolicy,
  locateFindings,
  notePolicy,
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
import { findingFacts, findingLine, firstOf, moreLine, readOrList } from "./policy-findings.ts";

export const command: Command = {
  summary:
    "read a policy document and list every finding with its line and column; what it opens and which weaknesses it accepts come first",
  positionals: ["FILE"],
  options: {
    strict: { type: "boolean", help: "a warning is a refusal (exit code 1); a note is not" },
    at: { type: "string", value: "TIME", help: "as of this time (UTC); else now" },
    json: JSON_OPTION,
  },
  examples: ["ironclaw policy check policy.json", "ironclaw policy check policy.json --strict"],
  run: async (input, io) => {
    const file = input.positional(0);
    const now = Date.parse(input.time("at") ?? new Date().toISOString());
    const bytes = await readInput(file, "policy");
    const policy = readOrList(file, bytes, parsePolicy, input, io);
    const warnings = locateFindings(bytes, lintPolicy(policy, now)).map((found) =>
      findingFacts(found, "warning", found.code),
    );
    const notes = locateFindings(bytes, notePolicy(policy)).map((found) => findingFacts(found, "note", found.code));
    const { shown: findings, more } = firstOf([...warnings, ...notes]);
    const facts = factsOf(policy);
    const lines = [...findings.map((finding) => findingLine(file, finding)), ...moreLine(file, more)];
    const text = [...describePolicy(facts), ...lines].join("\n");
    const ok = warnings.length === 0 || !input.flag("strict");
    answer(input, io, { ok, ...facts, findings, more }, text);
    return ok ? 0 : 1;
  },
};

function factsOf(policy: Policy) {
  const { serial, owner, reviewBy } = policy;
  return {
    ...{ serial, owner, reviewBy, exceptions: policyExceptions(policy), risks: policyRisks(policy) },
    ...{ modules: modulesOf(policy), tokens: tokensOf(policy), scopes: scopesOf(policy) },
  };
}

function describePolicy(facts: ReturnType<typeof factsOf>): readonly string[] {
  const { serial, owner, reviewBy, exceptions, risks, modules, tokens, scopes } = facts;
  const keys = tokens.reduce((sum, token) => sum + token.keys.length, 0);
  return [
    `policy ${serial} of ${owner}, review by ${reviewBy}`,
    ...exceptions.map((line) => `  exception  ${line}`),
    ...risks.map((line) => `  accepts  ${line}`),
    ...modules.map(
      ({ name, path, profile, shims, spares }) =>
        `  module ${name}: ${path}, sandbox profile ${profile}; of each token ${shims} serving and ${spares} spare`,
    ),
    ...tokens.map(
      ({ name, module, label, serial, pin, keys }) =>
        `  token ${name} (${label}, serial ${serial}) through ${module} by the PIN ${pin}: ${keys.join(", ") || "no key"}`,
    ),
    `  keys: ${keys}, each by its public key and its token, none by a label`,
    ...scopes.map(describeScope),
  ];
}

function modulesOf(policy: Policy) {
  return sortedModules(policy).map(({ name, path, sha256, profile, shims, spares }) => ({
    ...{ name, path, sha256, profile: profile.name, shims, spares },
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
