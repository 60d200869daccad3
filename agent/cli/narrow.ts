import { toBase64 } from "../../policy/index.ts";
import type { Command } from "./command.ts";
import { readInput } from "./files.ts";
import { openMachine } from "./machine-ports.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "put a signed, narrower policy into force on a running machine, until it reboots",
  positionals: ["SIGNED"],
  options: {
    machine: { type: "string", value: "DIR", help: "the running machine's directory of port sockets", required: true },
    json: JSON_OPTION,
  },
  examples: ["ironclaw narrow narrower.signed.json --machine /tmp/ironclaw-dev-x1/vm"],
  run: async (input, io) => {
    const envelope = await readInput(input.positional(0), "signed policy");
    const control = await openMachine(input.text("machine"));
    try {
      const report = await control.sealing("narrow", { policy: toBase64(envelope) });
      answer(input, io, report, `policy serial ${String(report["serial"])} is in force until the machine reboots`);
      return 0;
    } finally {
      control.close();
    }
  },
};
