import { makeTokenFile } from "../../attest/service/index.ts";
import type { Command } from "./command.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "make a bearer token for a viewer or operator: the file (mode 0600), and its SHA-256 for the configuration",
  positionals: ["FILE"],
  options: { json: JSON_OPTION },
  examples: ["ironclaw verifier token alice.token"],
  run: async (input, io) => {
    const file = input.positional(0);
    const tokenSha256 = await makeTokenFile(file);
    answer(
      input,
      io,
      { file, tokenSha256 },
      `made ${file}; in roles: {"name": "...", "role": "viewer", "tokenSha256": "${tokenSha256}"}`,
    );
    return 0;
  },
};
