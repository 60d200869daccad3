import { encodeCabinet, type SlotName } from "../../policy/index.ts";
import { bundleDocuments, DOCUMENT_SLOTS } from "./cabinet-documents.ts";
import { anchorsOf, checkContents, machineDocument, readSlotContent, renderCabinet } from "./cabinet-slots.ts";
import type { Command } from "./command.ts";
import { readInput, writeOutput } from "./files.ts";
import { answer, JSON_OPTION } from "./output.ts";

const SINGLE = ["module", "policy", "anchors", "token"] as const satisfies readonly SlotName[];

export const command: Command = {
  summary:
    "write the partition that a machine is given: module, policy, anchors, releases and sealed credentials, all checked",
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
    release: { type: "string", value: "FILE", help: "signed release", required: true, multiple: true },
    sealed: { type: "string", value: "FILE", help: "sealed credential", required: true, multiple: true },
    token: { type: "string", value: "DIR", help: "files of a SoftHSM token (test images only)" },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw cabinet new cabinet.img --name vm-1 --module module --policy policy.json --anchors anchors.json --release release.json --sealed hsm-pin.json --sealed state.json",
  ],
  run: async (input, io) => {
    const contents = new Map<SlotName, Uint8Array>([["machine", machineDocument(input.text("name"))]]);
    for (const slot of SINGLE) {
      const path = input.optional(slot);
      if (path !== undefined) contents.set(slot, await readSlotContent(slot, path));
    }
    for (const slot of DOCUMENT_SLOTS) {
      const documents = await Promise.all(
        input.list(slot).map(async (path) => ({ path, bytes: await readInput(path, slot) })),
      );
      contents.set(slot, await bundleDocuments(slot, documents, anchorsOf(contents)));
    }
    const facts = await checkContents(contents);
    const file = input.positional(0);
    await writeOutput(file, encodeCabinet(contents));
    answer(input, io, { file, ...facts }, renderCabinet(facts));
    return 0;
  },
};
