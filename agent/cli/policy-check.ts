import { parsePolicy, sortedTokens } from "../../policy/index.ts";
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
    const tokenLines = tokens.map(
      ({ name, label, serial, pin, keys }) =>
        `  token ${name} (${label}, serial ${serial}) by the PIN ${pin}: ${keys.join(", ") || "no key"}`,
    );
    const lines = scopes.map(
      ({ name, caller, key, does, mechanisms }) =>
        `  ${name}: ${caller} may ${does} with ${key} by ${mechanisms.join(", ")}`,
    );
    const text = [`policy ${serial} of ${owner}, review by ${reviewBy}`, ...tokenLines, ...lines].join("\n");
    answer(input, io, { ok: true, serial, owner, reviewBy, tokens, scopes }, text);
    return 0;
  },
};
