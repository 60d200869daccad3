import { isMachineName, stamp } from "../metrics/exposition.ts";
import { type Command, type CommandInput, UsageError } from "./command.ts";
import { openMachine } from "./machine-ports.ts";
import { answer, deliver, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "what a running machine counts, in the Prometheus text format (for a node exporter's textfile collector)",
  positionals: [],
  options: {
    machine: { type: "string", value: "DIR", help: "the running machine's directory of port sockets", required: true },
    name: { type: "string", value: "MACHINE", help: 'adds the label machine="MACHINE" to every series' },
    out: { type: "string", value: "FILE", help: "writes it there, all of it or nothing" },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw metrics --machine /tmp/ironclaw-dev-x1/vm",
    "ironclaw metrics --machine /tmp/ironclaw-dev-x1/vm --name vm-1 --out /var/lib/node-exporter/vm-1.prom",
  ],
  run: async (input, io) => {
    const machine = nameOf(input);
    const text = stamp(await ask(input.text("machine")), { machine, now: Date.now() / 1000 });
    if (input.optional("out") === undefined) answer(input, io, { text }, text.trimEnd());
    else await deliver(input, io, new TextEncoder().encode(text), { machine }, "metrics");
    return 0;
  },
};

function nameOf(input: CommandInput): string | null {
  const name = input.optional("name") ?? null;
  if (name === null || isMachineName(name)) return name;
  const expected = "1 to 64 letters, digits, dots, dashes and underscores";
  throw new UsageError("--name", { expected, got: `${name.length} characters` });
}

async function ask(directory: string): Promise<string> {
  const control = await openMachine(directory);
  try {
    const { text } = await control.metrics();
    return String(text);
  } finally {
    control.close();
  }
}
