import { copyFile, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { makeTpmState } from "../../vm-images/swtpm.ts";
import type { Command } from "./command.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "make a software TPM with endorsement certificates, for trials: run it with swtpm",
  positionals: ["DIR"],
  options: { json: JSON_OPTION },
  examples: ["ironclaw tpm software tpm"],
  run: async (input, io) => {
    const directory = resolve(input.positional(0));
    io.phase("making the TPM and its certificates");
    const tpm = await makeTpmState({ directory, caDirectory: join(directory, "ca") });
    const ek = join(directory, "ek.der");
    await writeFile(ek, tpm.ekCertificates.p384);
    await copyFile(tpm.caIssuer, join(directory, "ek-issuer.pem"));
    await copyFile(tpm.caRoot, join(directory, "ek-ca.pem"));
    answer(
      input,
      io,
      { directory, ekCertificate: ek },
      `made a software TPM in ${directory}; its certificate is ${ek}`,
    );
    return 0;
  },
};
