import { pemBlocks } from "../policy/index.ts";
import { splitCertificates, trimCertificate } from "./ek-certificate.ts";
import { AttestError } from "./errors.ts";

/** Of a text with certificates: many times eight of them with all that openssl says of each. */
const maxText = 1 << 20;

/**
 * The certificates of a file that people bring, in its order: DER, one behind another with padding at the end, as TPMs keep them in NV; or the blocks of a
 * PEM text. Verifies nothing.
 * @throws AttestError `ERR_ENDORSEMENT_MALFORMED` for none, more than `max`, or anything that is neither
 */
export function splitCertificateFile(bytes: Uint8Array, max: number): readonly Uint8Array[] {
  if (isDer(bytes) || bytes.length > maxText) return splitCertificates(bytes, max);
  const blocks = pemBlocks(new TextDecoder().decode(bytes), "CERTIFICATE");
  if (blocks === null) throw malformed("certificate", "whole blocks of PEM", "one that is damaged or does not end");
  if (blocks.length === 0) throw malformed("certificate", "DER or PEM", "something else");
  if (blocks.length > max) throw malformed("certificates", `at most ${max}`, `${blocks.length}`);
  return blocks.map(trimCertificate);
}

/** A SEQUENCE of more than 127 octets, as every certificate is: no UTF-8 begins so. */
function isDer([tag, length = 0]: Uint8Array): boolean {
  return tag === 0x30 && length >= 0x80 && length < 0xc0;
}

function malformed(what: string, expected: string, got: string): AttestError {
  return new AttestError("ERR_ENDORSEMENT_MALFORMED", what, { expected, got });
}
