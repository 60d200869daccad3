import { sha256Hex } from "../../policy/index.ts";
import { compileProfile } from "../../policy/runtime/compile.ts";
import { explainProfile } from "../../policy/runtime/explain.ts";
import { PROFILE_NAMES, profileText, readProfile } from "../../vm-images/profiles.ts";
import type { Command } from "./command.ts";
import { readInput } from "./files.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "what a sandbox profile lets a library do, in words, and the digest by which a policy names it",
  positionals: ["PROFILE"],
  options: { json: JSON_OPTION },
  examples: ["ironclaw profile explain relay", "ironclaw profile explain ./my-hsm.profile"],
  run: async (input, io) => {
    const profile = readProfile(await textOf(input.positional(0)));
    // a text that the linter refuses is no profile: it has no digest, and is not worth explaining
    const sha256 = sha256Hex(compileProfile(profile));
    const { name, opens } = profile;
    const explanation = explainProfile(profile);
    answer(input, io, { name, opens, sha256, explanation }, `${explanation}\nsha256 ${sha256}`);
    return 0;
  },
};

/** One of ours by its name, anything else as a file. */
async function textOf(profile: string): Promise<string> {
  const name = PROFILE_NAMES.find((known) => known === profile);
  if (name !== undefined) return profileText(name);
  return new TextDecoder().decode(await readInput(profile, "profile"));
}
