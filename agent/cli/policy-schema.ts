import { policyJsonSchema } from "../../policy/index.ts";
import type { Command } from "./command.ts";
import { JSON_OPTION, renderJson } from "./output.ts";

export const command: Command = {
  summary: "print the JSON Schema of policies, for editors",
  positionals: [],
  options: { json: JSON_OPTION },
  examples: ["ironclaw policy schema"],
  run: async (_input, io) => {
    io.print(renderJson(policyJsonSchema()));
    return 0;
  },
};
