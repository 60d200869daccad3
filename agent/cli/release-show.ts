import { keyIdOf, parseAnchors, verifyReleaseSignatures } from "../../policy/index.ts";
import { explainRelease, renderRelease } from "../../seal/index.ts";
import type { Command } from "./command.ts";
import { readInput } from "./files.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "verify a release and say in words what it unseals: image, library set, policy, epoch, dates, key, PCRs",
  positionals: ["RELEASE"],
  options: {
    anchors: { type: "string", value: "FILE", help: "trust anchors: who may sign releases", required: true },
    json: JSON_OPTION,
  },
  examples: ["ironclaw release show release.json --anchors anchors.json"],
  run: async (input, io) => {
    const { releaseRoot } = parseAnchors(await readInput(input.text("anchors"), "anchors"));
    // Not the dates: that a release has expired is something to show, not a reason to show nothing.
    const release = await verifyReleaseSignatures(await readInput(input.positional(0), "release"), releaseRoot);
    const explanation = explainRelease(release, new Date());
    const facts = { verified: true, releaseRoot: keyIdOf(releaseRoot), ...explanation };
    answer(input, io, facts, `${renderRelease(explanation)}\n\nunder release root ${facts.releaseRoot}`);
    return 0;
  },
};
