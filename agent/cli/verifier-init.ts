import { initVerifier } from "../../attest/service/index.ts";
import { createSigningKeyFile } from "../../seal/index.ts";
import type { Command } from "./command.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "lay out a verifier service: configuration, signing key, a viewer's and an operator's token, default policy",
  positionals: ["DIR"],
  options: {
    anchors: { type: "string", value: "FILE", help: "whose releases count, copied in (`ironclaw keys anchors`)" },
    "endorsement-anchors": { type: "string", value: "FILE", help: "CAs of endorsement keys, copied in" },
    json: JSON_OPTION,
  },
  examples: ["ironclaw verifier init verifier --anchors anchors.json --endorsement-anchors endorsement.json"],
  run: async (input, io) => {
    const folder = input.positional(0);
    const { files, kid } = await initVerifier({
      ...{ folder, createKey: createSigningKeyFile },
      releaseAnchors: input.optional("anchors") ?? null,
      endorsementAnchors: input.optional("endorsement-anchors") ?? null,
    });
    const next = "put signed releases into references/, then `ironclaw verifier check` says what is accepted";
    answer(input, io, { folder, files, kid }, `${folder}: ${files.join(", ")}\nsigns results with key ${kid}\n${next}`);
    return 0;
  },
};
