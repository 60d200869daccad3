import { everyCode, findCode } from "./codes/catalogue.ts";
import { type Command, UsageError } from "./command.ts";
import { answer, JSON_OPTION } from "./output.ts";
import { nearest } from "./suggest.ts";

export const command: Command = {
  summary: "say what a code means and what to do: of an error, a reason, a finding, an answer",
  positionals: ["CODE"],
  options: { json: JSON_OPTION },
  examples: ["ironclaw explain login-tried", "ironclaw explain ERR_SEAL_RECORD", "ironclaw explain launch-hsm-absent"],
  run: async (input, io) => {
    const asked = input.positional(0);
    const found = findCode(asked);
    if (found.length === 0) throw unknownCode(asked);
    const facts = found.map(({ section: { title, seen, codes, exitOf }, code }) => ({
      ...{ code, section: title, seen, ...codes[code] },
      exitCode: exitOf?.(code) ?? null,
    }));
    const lines = facts.map(({ code, section, seen, means, act, exitCode }) =>
      [
        `${code}: ${means}`,
        `  do      ${act}`,
        `  where   ${section.toLowerCase()}: ${seen}`,
        ...(exitCode === null ? [] : [`  exit    ${exitCode}`]),
      ].join("\n"),
    );
    answer(input, io, { found: facts }, lines.join("\n"));
    return 0;
  },
};

function unknownCode(asked: string): UsageError {
  const meant = nearest([asked], everyCode());
  const hint = meant === null ? "agent/docs/messages.md lists all of them" : `did you mean ${meant}?`;
  return new UsageError("CODE", { expected: "one of agent/docs/messages.md", got: asked, hint });
}
