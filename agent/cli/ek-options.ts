import {
  type Endorsement,
  orderChain,
  parseEndorsementAnchors,
  type TrustAnchor,
  verifyEndorsement,
} from "../../attest/index.ts";
import { ISSUER_OPTION, readCertificate, readIssuers } from "./certificate-files.ts";
import { type CommandInput, type CommandOption, UsageError } from "./command.ts";
import { readInput, readText } from "./files.ts";

/** Authorities and what their EK certificates are worth, as a document (attest/ENROLMENT.md, section 4). */
export const CA_SET_OPTION: CommandOption = {
  type: "string",
  value: "FILE",
  help: "trust anchors: the authorities whose EK certificates count, and as what",
};

/** How a person names a TPM: its EK certificate, and the authority that must stand behind it. */
export const EK_OPTIONS = {
  "ek-certificate": {
    type: "string",
    value: "FILE",
    help: "certificate of the TPM's endorsement key, DER or PEM",
    required: true,
  },
  issuer: ISSUER_OPTION,
  ca: { type: "string", value: "FILE", help: "the pinned CA above the EK certificate, PEM; or --ca-set" },
  "ca-set": CA_SET_OPTION,
} as const satisfies Record<string, CommandOption>;

export const ASSURANCE_OPTION: CommandOption = {
  type: "string",
  value: "CLASS",
  help: "what an EK of the --ca is worth: software-tpm (default), provider-ek or hardware-ek; a --ca-set says it itself",
};

/** @throws AttestError ERR_ENDORSEMENT_MALFORMED, ERR_ENDORSEMENT_REFUSED, ERR_TRUST_ANCHORS */
export async function readEndorsement(
  input: CommandInput,
): Promise<{ readonly endorsement: Endorsement; readonly ekCertificate: Uint8Array }> {
  const ekCertificate = await readCertificate(input.text("ek-certificate"), "EK certificate");
  const chain = orderChain(ekCertificate, await readIssuers(input));
  return { endorsement: verifyEndorsement(chain, await readAnchors(input), new Date()), ekCertificate };
}

export async function readAnchorSet(path: string): Promise<readonly TrustAnchor[]> {
  return parseEndorsementAnchors(await readInput(path, "trust anchors"));
}

async function readAnchors(input: CommandInput): Promise<readonly TrustAnchor[]> {
  const ca = input.optional("ca");
  const set = input.optional("ca-set");
  if ((ca === undefined) === (set === undefined))
    throw new UsageError("--ca", { expected: "either --ca or --ca-set", got: ca === undefined ? "neither" : "both" });
  if (set !== undefined) {
    if (input.optional("assurance") !== undefined)
      throw new UsageError("--assurance", { expected: "none with --ca-set", got: "one" });
    return readAnchorSet(set);
  }
  const anchor = {
    name: "pinned CA",
    pem: await readText(ca ?? "", "CA"),
    assurance: input.choice("assurance", ["software-tpm", "provider-ek", "hardware-ek"]),
    requireEkPurpose: true,
    manufacturers: "any",
  } as const;
  return [anchor];
}
