import { maxChain, splitCertificateFile } from "../../attest/index.ts";
import type { CommandInput, CommandOption } from "./command.ts";
import { readInput } from "./files.ts";

export const ISSUER_OPTION: CommandOption = {
  type: "string",
  value: "FILE",
  help: "CA certificates between the EK's and the anchor, DER or PEM, one or several in a file; in any order",
  multiple: true,
};

/** @throws AttestError ERR_ENDORSEMENT_MALFORMED for a file with anything but one certificate, in DER or PEM */
export async function readCertificate(path: string, what: string): Promise<Uint8Array> {
  const bytes = await readInput(path, what);
  const [certificate = bytes] = splitCertificateFile(bytes, 1);
  return certificate;
}

/** Those of every `--issuer`. @throws AttestError ERR_ENDORSEMENT_MALFORMED */
export async function readIssuers(input: CommandInput): Promise<readonly Uint8Array[]> {
  const files = await Promise.all(input.list("issuer").map((path) => readInput(path, "issuer")));
  return files.flatMap((bytes) => splitCertificateFile(bytes, maxChain));
}
