import type { Command } from "./command.ts";
import { openMachine } from "./machine-ports.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "what a running machine counts, in the Prometheus text format (for a node exporter's textfile collector)",
  positionals: [],
  options: {
    machine: { type: "string", value: "DIR", help: "the running machine's directory of port sockets", required: true },
    json: JSON_OPTION,
  },
  examples: ["ironclaw metrics --machine build/start/machine", "ironclaw metrics --machine DIR > ironclaw.prom"],
  run: async (input, io) => {
    const control = await openMachine(input.text("machine"));
    try {
      const { text } = await control.metrics();
      answer(input, io, { text }, String(text).trimEnd());
      return 0;
    } finally {
      control.close();
    }
  },
};
