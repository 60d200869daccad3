import { predictBootPcrs } from "../../attest/index.ts";
import type { Command } from "./command.ts";
import { readInput } from "./files.ts";

export const command: Command = {
  summary: "compute PCR 4, 9, 11 and 12 of a unified kernel image without booting it",
  positionals: ["UKI"],
  options: { json: { type: "boolean", help: "print both banks as JSON" } },
  examples: ["ironclaw image predict build/image/demo/uki.efi"],
  run: async (input, io) => {
    const pcrs = predictBootPcrs({ uki: await readInput(input.positional(0), "kernel image") });
    if (input.flag("json")) io.print(JSON.stringify(pcrs));
    else {
      for (const [bank, values] of Object.entries(pcrs)) {
        for (const [index, value] of Object.entries(values)) io.print(`${bank} ${index.padStart(2)} ${value}`);
      }
    }
    return 0;
  },
};
