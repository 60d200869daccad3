import { type DerElement, derChildren, derContent, derOid, derSingle, derText } from "./der.ts";
import { AttestError } from "./errors.ts";

/** What an EK certificate says its TPM is; a field is `null` where the certificate has no such attribute. */
export interface TpmSubject {
  /** Vendor ID of the TCG registry in hexadecimal, e.g. `id:49465800`. */
  readonly manufacturer: string | null;
  readonly model: string | null;
  /** Firmware version, e.g. `id:00070002`. */
  readonly version: string | null;
}

const attributes: ReadonlyMap<string, keyof TpmSubject> = new Map([
  ["2.23.133.2.1", "manufacturer"],
  ["2.23.133.2.2", "model"],
  ["2.23.133.2.3", "version"],
]);
const directoryName = 0xa4;
const maxText = 64;

/**
 * Reads the subject alternative name of an EK certificate (TCG EK Credential Profile, 3.1.2): a directoryName with the TPM's
 * attributes. TPM makers group them differently (three RDNs, one RDN of three, in any order) and may have other names beside.
 * @throws AttestError `ERR_ENDORSEMENT_MALFORMED`, also for an attribute that stands twice
 */
export function parseTpmSubject(subjectAltName: Uint8Array): TpmSubject {
  const found = new Map<keyof TpmSubject, string>();
  const names = derChildren(derSingle(subjectAltName, "subjectAltName"), 0x30, "subjectAltName");
  for (const attribute of names.filter(({ tag }) => tag === directoryName).flatMap(attributesOf)) {
    const [type, value] = derChildren(attribute, 0x30, "attribute");
    const field = attributes.get(derOid(derContent(type, 0x06, "attribute type")));
    if (field === undefined) continue;
    if (found.has(field)) throw malformed(field, "once", "twice");
    const text = derText(value, field);
    if (text.length > maxText) throw malformed(field, `at most ${maxText} characters`, `${text.length}`);
    found.set(field, text);
  }
  const read = (name: keyof TpmSubject) => found.get(name) ?? null;
  return { manufacturer: read("manufacturer"), model: read("model"), version: read("version") };
}

/** Whatever their grouping into RDNs. */
function attributesOf({ content }: DerElement): readonly DerElement[] {
  const rdns = derChildren(derSingle(content, "directoryName"), 0x30, "directoryName");
  return rdns.flatMap((rdn) => derChildren(rdn, 0x31, "RDN"));
}

function malformed(field: string, expected: string, got: string): AttestError {
  return new AttestError("ERR_ENDORSEMENT_MALFORMED", `TPM ${field}`, { expected, got });
}
