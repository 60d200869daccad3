import { raiseEpoch } from "../../seal/index.ts";
import type { Command } from "./command.ts";
import { answer, JSON_OPTION } from "./output.ts";
import { ANCHORS_OPTION, RELEASE_OPTION, readAnchors, readRelease, TCTI_OPTION, withTpm } from "./tpm-options.ts";

export const command: Command = {
  summary: "raise a TPM's epoch counter as a release says; a machine does it by itself once that release serves",
  positionals: [],
  options: { tcti: TCTI_OPTION, anchors: ANCHORS_OPTION, release: RELEASE_OPTION, json: JSON_OPTION },
  examples: ["ironclaw tpm raise --tcti device:/dev/tpmrm0 --anchors anchors.json --release release.json"],
  run: async (input, io) => {
    const { releaseRoot } = await readAnchors(input);
    const release = await readRelease(input.text("release"), releaseRoot);
    return withTpm(input, async ({ tss }): Promise<0> => {
      const { from, to } = await raiseEpoch(tss, releaseRoot, release);
      const facts = { release: release.name, from: Number(from), to: Number(to) };
      answer(
        input,
        io,
        facts,
        from === to ? `epoch counter stays at ${to}` : `epoch counter raised from ${from} to ${to}`,
      );
      return 0;
    });
  },
};
