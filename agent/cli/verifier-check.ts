import { resolve } from "node:path";
import { describeVerifier, readTrustDocuments, renderVerifierFacts } from "../../attest/service/index.ts";
import { loadSigningKey } from "../../seal/index.ts";
import type { Command } from "./command.ts";
import { answer, JSON_OPTION } from "./output.ts";
import { CONFIG_OPTION, readVerifierConfig } from "./verifier-options.ts";

export const command: Command = {
  summary: "read everything that a verifier's configuration names, and say what the service would accept",
  positionals: [],
  options: { config: CONFIG_OPTION, json: JSON_OPTION },
  examples: ["ironclaw verifier check --config verifier/verifier.json"],
  run: async (input, io) => {
    const { config, folder } = await readVerifierConfig(input);
    const at = (path: string) => resolve(folder, path);
    const key = await loadSigningKey(at(config.signingKey));
    const facts = describeVerifier(config, await readTrustDocuments(config, at), key, new Date());
    answer(input, io, facts, renderVerifierFacts(facts));
    return 0;
  },
};
