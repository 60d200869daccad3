import { predictBootPcrs } from "../../attest/index.ts";
import type { Command } from "./command.ts";
import { readInput } from "./files.ts";
import { answer } from "./output.ts";

export const command: Command = {
  summary: "compute PCR 4, 9, 11 and 12 of a unified kernel image without booting it",
  positionals: ["UKI"],
  options: { json: { type: "boolean", help: "print both banks as JSON" } },
  examples: ["ironclaw image predict build/image/demo/uki.efi"],
  run: async (input, io) => {
    const pcrs = predictBootPcrs({ uki: await readInput(input.positional(0), "kernel image") });
    const lines = Object.entries(pcrs).flatMap(([bank, values]) =>
      Object.entries(values).map(([index, value]) => `${bank} ${index.padStart(2)} ${value}`),
    );
    answer(input, io, pcrs, lines.join("\n"));
    return 0;
  },
};
