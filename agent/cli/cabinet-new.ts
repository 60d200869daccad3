import { encodeCabinet, type SlotName } from "../../policy/index.ts";
import { checkContents, machineDocument, readSlotContent, renderSlots } from "./cabinet-slots.ts";
import type { Command } from "./command.ts";
import { writeOutput } from "./files.ts";
import { answer, JSON_OPTION } from "./output.ts";

const DOCUMENTS = ["module", "policy", "anchors", "release", "sealed", "token"] as const satisfies readonly SlotName[];

export const command: Command = {
  summary: "write the partition that a machine is given: module, policy, anchors, release and sealed PIN, all checked",
  positionals: ["CABINET"],
  options: {
    name: { type: "string", value: "NAME", help: "the machine's name", required: true },
    module: {
      type: "string",
      value: "DIR",
      help: "the library and its files, under their paths in the guest",
      required: true,
    },
    policy: { type: "string", value: "FILE", help: "policy document", required: true },
    anchors: { type: "string", value: "FILE", help: "trust anchors", required: true },
    release: { type: "string", value: "FILE", help: "signed release", required: true },
    sealed: { type: "string", value: "FILE", help: "sealed PIN", required: true },
    token: { type: "string", value: "DIR", help: "files of a SoftHSM token (test images only)" },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw cabinet new cabinet.img --name vm-1 --module module --policy policy.json --anchors anchors.json --release release.json --sealed sealed.json",
  ],
  run: async (input, io) => {
    const contents = new Map<SlotName, Uint8Array>([["machine", machineDocument(input.text("name"))]]);
    for (const slot of DOCUMENTS) {
      const path = input.optional(slot);
      if (path !== undefined) contents.set(slot, await readSlotContent(slot, path));
    }
    const slots = await checkContents(contents);
    const file = input.positional(0);
    await writeOutput(file, encodeCabinet(contents));
    answer(input, io, { file, slots }, renderSlots(slots));
    return 0;
  },
};
