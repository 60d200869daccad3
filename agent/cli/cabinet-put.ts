import { encodeCabinet } from "../../policy/index.ts";
import { checkContents, readCabinet, readSlotContent, renderSlots, SLOTS } from "./cabinet-slots.ts";
import { type Command, UsageError } from "./command.ts";
import { writeOutput } from "./files.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "replace one document in a cabinet, e.g. the sealed PIN; all of them are checked together first",
  positionals: ["CABINET", "SLOT", "FILE"],
  options: { json: JSON_OPTION },
  examples: ["ironclaw cabinet put cabinet.img sealed sealed.json", "ironclaw cabinet put cabinet.img module module/"],
  run: async (input, io) => {
    const file = input.positional(0);
    const slot = SLOTS.find((name) => name === input.positional(1));
    if (slot === undefined) throw new UsageError("SLOT", { expected: SLOTS.join(", "), got: input.positional(1) });
    const contents = readCabinet(file);
    contents.set(slot, await readSlotContent(slot, input.positional(2)));
    const slots = await checkContents(contents);
    await writeOutput(file, encodeCabinet(contents));
    answer(input, io, { file, slots }, renderSlots(slots));
    return 0;
  },
};
