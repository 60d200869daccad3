import { type Endorsement, verifyEndorsement } from "../../attest/index.ts";
import type { CommandInput, CommandOption } from "./command.ts";
import { readCertificate, readText } from "./files.ts";

/** How a person names a TPM: its EK certificate, and the authority that must stand behind it. */
export const EK_OPTIONS = {
  "ek-certificate": {
    type: "string",
    value: "FILE",
    help: "certificate of the TPM's endorsement key, DER or PEM",
    required: true,
  },
  issuer: { type: "string", value: "FILE", help: "intermediate CA between the two, DER or PEM" },
  ca: { type: "string", value: "FILE", help: "the pinned CA above the EK certificate, PEM", required: true },
} as const satisfies Record<string, CommandOption>;

export const ASSURANCE_OPTION: CommandOption = {
  type: "string",
  value: "CLASS",
  help: "what an EK of that CA is worth: software-tpm (default), provider-ek or hardware-ek",
};

/** @throws AttestError ERR_ENDORSEMENT_MALFORMED, ERR_ENDORSEMENT_REFUSED */
export async function readEndorsement(
  input: CommandInput,
): Promise<{ readonly endorsement: Endorsement; readonly ekCertificate: Uint8Array }> {
  const ekCertificate = await readCertificate(input.text("ek-certificate"), "EK certificate");
  const issuer = input.optional("issuer");
  const intermediates = issuer === undefined ? [] : [await readCertificate(issuer, "issuer")];
  const anchor = {
    name: "pinned CA",
    pem: await readText(input.text("ca"), "CA"),
    assurance: input.choice("assurance", ["software-tpm", "provider-ek", "hardware-ek"]),
    requireEkPurpose: true,
    manufacturers: "any",
  } as const;
  return { endorsement: verifyEndorsement([ekCertificate, ...intermediates], [anchor], new Date()), ekCertificate };
}
