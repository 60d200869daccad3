import { parsePolicy, policyExceptions, sortedModules, sortedTokens } from "../../policy/index.ts";
import type { Command } from "./command.ts";
import { readInput } from "./files.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "read a policy document and list every finding",
  positionals: ["FILE"],
  options: { json: JSON_OPTION },
  examples: ["ironclaw policy check policy.json"],
  run: async (input, io) => {
    const policy = parsePolicy(await readInput(input.positional(0), "policy"));
    const { serial, owner, reviewBy } = policy;
    const scopes = policy.scopes.map(({ name, caller, key, mechanisms }) => ({
      name,
      caller,
      key,
      does: policy.keys[key]?.does,
      mechanisms: mechanisms.map(({ type }) => type),
    }));
    const tokens = sortedTokens(policy).map((token) => ({
      ...token,
      keys: Object.keys(policy.keys).filter((key) => policy.keys[key]?.token === token.name),
    }));
    const exceptions = policyExceptions(policy);
    const modules = sortedModules(policy).map(({ name, path, sha256, profile, spares }) => ({
      ...{ name, path, sha256, profile: profile.name, spares },
    }));
    const moduleLines = modules.map(
      ({ name, path, profile }) => `  module ${name}: ${path}, sandbox profile ${profile}`,
    );
    const tokenLines = tokens.map(
      ({ name, module, label, serial, pin, keys }) =>
        `  token ${name} (${label}, serial ${serial}) through ${module} by the PIN ${pin}: ${keys.join(", ") || "no key"}`,
    );
    const lines = scopes.map(
      ({ name, caller, key, does, mechanisms }) =>
        `  ${name}: ${caller} may ${does} with ${key} by ${mechanisms.join(", ")}`,
    );
    const text = [
      `policy ${serial} of ${owner}, review by ${reviewBy}`,
      ...exceptions.map((line) => `  exception  ${line}`),
      ...moduleLines,
      ...tokenLines,
      ...lines,
    ].join("\n");
    answer(input, io, { ok: true, serial, owner, reviewBy, exceptions, modules, tokens, scopes }, text);
    return 0;
  },
};
