import { toHex } from "../../policy/index.ts";
import { provisionEpoch, provisionRecords, readEpoch, undefineEpoch } from "../../seal/index.ts";
import type { Command } from "./command.ts";
import { answer, JSON_OPTION } from "./output.ts";
import {
  ANCHORS_OPTION,
  RELEASE_OPTION,
  readAnchors,
  readEscrow,
  readRelease,
  requireEscrowOf,
  TCTI_OPTION,
  withTpm,
} from "./tpm-options.ts";

export const command: Command = {
  summary: "define a TPM's epoch counter and records; a machine does it by itself while the TPM has no owner",
  positionals: [],
  options: {
    tcti: TCTI_OPTION,
    anchors: ANCHORS_OPTION,
    release: {
      ...RELEASE_OPTION,
      help: "any release of this root: its delegation approves the first increment",
    },
    escrow: { type: "string", value: "FILE", help: "the owner's authorisation, when the TPM has an owner" },
    replace: { type: "boolean", help: "take away another root's counter, or any other index in its place, first" },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw tpm provision --tcti device:/dev/tpmrm0 --anchors anchors.json --release release.json",
    "ironclaw tpm provision --tcti device:/dev/tpmrm0 --anchors anchors.json --release release.json --escrow escrow.json --replace",
  ],
  run: async (input, io) => {
    io.phase("setting the TPM up");
    const { releaseRoot } = await readAnchors(input);
    const release = await readRelease(input.text("release"), releaseRoot);
    const escrow = input.optional("escrow");
    const owner = escrow === undefined ? null : await readEscrow(escrow);
    return withTpm(input, async ({ tss }): Promise<0> => {
      if (owner !== null) {
        await requireEscrowOf(tss, owner.ekName);
        await tss.setAuth("owner", owner.ownerAuth);
      }
      if (input.flag("replace")) await undefineEpoch(tss);
      await provisionEpoch(tss, releaseRoot, release.delegation);
      await provisionRecords(tss);
      const epoch = await readEpoch(tss);
      const value = epoch.kind === "present" && epoch.value !== null ? Number(epoch.value) : null;
      const name = epoch.kind === "present" ? toHex(epoch.name) : null;
      answer(input, io, { epoch: value, name }, `provisioned: epoch counter at ${value}`);
      return 0;
    });
  },
};
