import { open } from "node:fs/promises";
import { toHex } from "../../policy/index.ts";
import {
  createOwnershipSecret,
  deriveOwnership,
  encodeEscrow,
  openEndorsementKey,
  takeOwnership,
} from "../../seal/index.ts";
import { AgentError } from "../errors.ts";
import type { Command } from "./command.ts";
import { reasonOf } from "./files.ts";
import { answer, JSON_OPTION } from "./output.ts";
import { TCTI_OPTION, withTpm } from "./tpm-options.ts";

export const command: Command = {
  summary: "set a TPM's owner and lockout authorisation, and write them into a new escrow file (mode 0600) first",
  positionals: [],
  options: {
    tcti: TCTI_OPTION,
    escrow: {
      type: "string",
      value: "FILE",
      help: "a new file for both authorisations; keep it offline",
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
      const ownership = deriveOwnership(createOwnershipSecret());
      // Written and flushed before the TPM has it: an owner that nobody knows could not be undone.
      await writeEscrow(input.text("escrow"), encodeEscrow(ek.name, ownership));
      await takeOwnership(tss, ek, ownership);
      const ekName = toHex(ek.name);
      answer(
        input,
        io,
        { ekName, escrow: input.text("escrow") },
        `owner and lockout authorisation set; kept in ${input.text("escrow")}`,
      );
      return 0;
    }),
};

/** A new file, mode 0600, on the disk when this returns. @throws AgentError ERR_ENVIRONMENT when it is there already */
export async function writeEscrow(path: string, bytes: Uint8Array): Promise<void> {
  try {
    const file = await open(path, "wx", 0o600);
    try {
      await file.writeFile(bytes);
      await file.sync();
    } finally {
      await file.close();
    }
  } catch (cause) {
    throw new AgentError("ERR_ENVIRONMENT", `escrow ${path}`, { expected: "a new file", got: reasonOf(cause), cause });
  }
}
