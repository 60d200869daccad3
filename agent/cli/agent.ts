import type { Command } from "./command.ts";

export const command: Command = {
  summary: "run the guest service (started by the spawner, which must have left its socket on descriptor 3)",
  positionals: [],
  options: { config: { type: "string", value: "FILE", help: "the agent's measured configuration", required: true } },
  examples: ["ironclaw agent --config /etc/ironclaw/agent.json"],
  run: async (input) => {
    const { runAgent } = await import("../service.ts");
    return runAgent(input.text("config"));
  },
};
