import { parseConfig } from "../config.ts";
import { journal } from "../journal.ts";
import type { Command } from "./command.ts";
import { readInput } from "./files.ts";

export const command: Command = {
  summary: "run the guest service (started by the spawner, which must have left its socket on descriptor 3)",
  positionals: [],
  options: { config: { type: "string", value: "FILE", help: "the agent's measured configuration", required: true } },
  examples: ["ironclaw agent --config /etc/ironclaw/agent.json"],
  talks: true,
  run: async (input) => {
    const path = input.text("config");
    parseConfig(await readInput(path, "agent configuration"));
    journal.begin(process.env);
    const { runAgent } = await import("../run-agent.ts");
    return runAgent(path, process.env);
  },
};
