import { encodeAnchors, keyIdOf, parseAnchors } from "../../policy/index.ts";
import type { Command } from "./command.ts";
import { readPublicKey } from "./files.ts";
import { deliver, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "write a machine's trust anchors: whose releases it runs, and whose sealed credentials it takes",
  positionals: [],
  options: {
    root: { type: "string", value: "FILE", help: "release root key (public, PEM)", required: true },
    operator: { type: "string", value: "FILE", help: "operator key (public, PEM)", required: true },
    out: { type: "string", value: "FILE", help: "the anchors", required: true },
    json: JSON_OPTION,
  },
  examples: ["ironclaw keys anchors --root root.pub --operator operator.pub --out anchors.json"],
  run: async (input, io) => {
    const bytes = encodeAnchors({
      version: 1,
      releaseRoot: await readPublicKey(input.text("root"), "release root key"),
      operator: await readPublicKey(input.text("operator"), "operator key"),
    });
    const { releaseRoot, operator } = parseAnchors(bytes);
    const facts = { releaseRoot: keyIdOf(releaseRoot), operator: keyIdOf(operator) };
    await deliver(input, io, bytes, facts, "anchors");
    return 0;
  },
};
