import { appraisalPolicyJsonSchema } from "../../attest/index.ts";
import type { Command } from "./command.ts";
import { JSON_OPTION, renderJson } from "./output.ts";

export const command: Command = {
  summary: "print the JSON Schema of appraisal policies, for editors",
  positionals: [],
  options: { json: JSON_OPTION },
  examples: ["ironclaw appraisal schema"],
  run: async (_input, io) => {
    io.print(renderJson(appraisalPolicyJsonSchema()));
    return 0;
  },
};
