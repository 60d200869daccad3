import { toHex } from "../../policy/index.ts";
import { deriveOwnership, openEndorsementKey, takeOwnership } from "../../seal/index.ts";
import type { Command } from "./command.ts";
import { answer, JSON_OPTION } from "./output.ts";
import { prepareEscrow, TCTI_OPTION, withTpm } from "./tpm-options.ts";

export const command: Command = {
  summary: "set a TPM's owner and lockout authorisation, and write them into an escrow file (mode 0600) first",
  positionals: [],
  options: {
    tcti: TCTI_OPTION,
    escrow: {
      type: "string",
      value: "FILE",
      help: "a new file for both authorisations, or that of a take-over that was cut off; keep it offline",
      required: true,
    },
    kind: { type: "string", value: "KIND", help: "endorsement key that names the TPM: p384 (default) or rsa2048" },
    json: JSON_OPTION,
  },
  examples: ["ironclaw tpm own --tcti device:/dev/tpmrm0 --escrow escrow.json"],
  run: (input, io) =>
    withTpm(input, async ({ tss }): Promise<0> => {
      const kind = input.choice("kind", ["p384", "rsa2048"]);
      await using ek = await openEndorsementKey(tss, kind);
      const ekName = toHex(ek.name);
      const { secret } = await prepareEscrow(input.text("escrow"), ekName);
      await takeOwnership(tss, ek, deriveOwnership(secret));
      answer(
        input,
        io,
        { ekName, escrow: input.text("escrow") },
        `owner and lockout authorisation set; kept in ${input.text("escrow")}`,
      );
      return 0;
    }),
};
