import type { Command } from "./command.ts";
import { answer, JSON_OPTION } from "./output.ts";
import { readEscrow, requireEscrowOf, TCTI_OPTION, withTpm } from "./tpm-options.ts";

export const command: Command = {
  summary: "end a TPM's dictionary-attack lockout with the escrowed lockout authorisation",
  positionals: [],
  options: {
    tcti: TCTI_OPTION,
    escrow: { type: "string", value: "FILE", help: "this TPM's escrow file (mode 0600)", required: true },
    json: JSON_OPTION,
  },
  examples: ["ironclaw tpm unlock --tcti device:/dev/tpmrm0 --escrow escrow.json"],
  run: async (input, io) => {
    const { ekName, lockoutAuth } = await readEscrow(input.text("escrow"));
    return withTpm(input, async ({ tss }): Promise<0> => {
      // A wrong lockout authorisation locks that hierarchy at once: the file has to be this TPM's.
      await requireEscrowOf(tss, ekName);
      await tss.setAuth("lockout", lockoutAuth);
      await tss.dictionaryAttackLockReset();
      answer(input, io, { ekName }, "the lockout has ended, and failed tries are forgotten");
      return 0;
    });
  },
};
