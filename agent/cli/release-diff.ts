import { parseAnchors, verifyReleaseSignatures } from "../../policy/index.ts";
import { compareReleases, renderChanges } from "../../seal/index.ts";
import type { Command } from "./command.ts";
import { readInput } from "./files.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "what changes from one release to another, item by item, and what follows from it",
  positionals: ["OLD", "NEW"],
  options: {
    anchors: { type: "string", value: "FILE", help: "trust anchors: who may sign releases", required: true },
    json: JSON_OPTION,
  },
  examples: ["ironclaw release diff release.json next.json --anchors anchors.json"],
  run: async (input, io) => {
    const { releaseRoot } = parseAnchors(await readInput(input.text("anchors"), "anchors"));
    const read = async (index: number) =>
      verifyReleaseSignatures(await readInput(input.positional(index), "release"), releaseRoot);
    const [from, to] = [await read(0), await read(1)];
    const changes = compareReleases(from, to);
    const facts = { from: from.name, to: to.name, changes };
    answer(input, io, facts, renderChanges(from.name, to.name, changes));
    return 0;
  },
};
