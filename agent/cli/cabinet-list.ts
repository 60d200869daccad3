import { checkContents, readCabinet, renderCabinet } from "./cabinet-slots.ts";
import type { Command } from "./command.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "what a cabinet holds, document by document; checks digests, and signatures under its own anchors",
  positionals: ["CABINET"],
  options: { json: JSON_OPTION },
  examples: ["ironclaw cabinet list cabinet.img", "ironclaw cabinet list cabinet.img --json"],
  run: async (input, io) => {
    const file = input.positional(0);
    const facts = await checkContents(readCabinet(file));
    answer(input, io, { file, ...facts }, renderCabinet(facts));
    return 0;
  },
};
