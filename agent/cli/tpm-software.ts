import { makeSoftwareTpm } from "../../vm-images/machine-folder.ts";
import type { Command } from "./command.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "make a software TPM with endorsement certificates, for trials: run it with swtpm",
  positionals: ["DIR"],
  options: { json: JSON_OPTION },
  examples: ["ironclaw tpm software tpm"],
  run: async (input, io) => {
    io.phase("making the TPM and its certificates");
    const { directory, ekCertificate: ek } = await makeSoftwareTpm(input.positional(0));
    answer(
      input,
      io,
      { directory, ekCertificate: ek },
      `made a software TPM in ${directory}; its certificate is ${ek}`,
    );
    return 0;
  },
};
