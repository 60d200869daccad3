import { encodeCabinet, type SlotName } from "../../policy/index.ts";
import { addDocument, bundleDocuments, isDocumentSlot } from "./cabinet-documents.ts";
import { anchorsOf, checkContents, readCabinet, readSlotContent, renderCabinet, SLOTS } from "./cabinet-slots.ts";
import { type Command, UsageError } from "./command.ts";
import { readInput, writeOutput } from "./files.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary:
    "replace what a slot of a cabinet holds, or add a release or sealed credential; all is checked together first",
  positionals: ["CABINET", "SLOT", "FILE"],
  options: {
    add: { type: "boolean", help: "release, sealed: keep the other documents; one of the same file name is replaced" },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw cabinet put cabinet.img sealed hsm-pin.json --add",
    "ironclaw cabinet put cabinet.img release release.json",
    "ironclaw cabinet put cabinet.img module module/",
  ],
  run: async (input, io) => {
    const file = input.positional(0);
    const slot = SLOTS.find((name) => name === input.positional(1));
    if (slot === undefined) throw new UsageError("SLOT", { expected: SLOTS.join(", "), got: input.positional(1) });
    const contents = readCabinet(file);
    contents.set(slot, await newContent(slot, contents, input.positional(2), input.flag("add")));
    const facts = await checkContents(contents);
    await writeOutput(file, encodeCabinet(contents));
    answer(input, io, { file, ...facts }, renderCabinet(facts));
    return 0;
  },
};

async function newContent(
  slot: SlotName,
  contents: ReadonlyMap<SlotName, Uint8Array>,
  path: string,
  add: boolean,
): Promise<Uint8Array> {
  if (!isDocumentSlot(slot)) {
    if (add) throw new UsageError("--add", { expected: "the slot release or sealed", got: slot });
    return readSlotContent(slot, path);
  }
  const document = { path, bytes: await readInput(path, slot) };
  const anchors = anchorsOf(contents);
  if (add) return addDocument(slot, contents.get(slot), document, anchors);
  return bundleDocuments(slot, [document], anchors);
}
