import { toHex } from "../policy/index.ts";
import { type DerElement, derChildren, derContent, derSingle, derText } from "./der.ts";
import { AttestError } from "./errors.ts";

const TAG = { oid: 0x06, sequence: 0x30, set: 0x31, version: 0xa0 } as const;
/** 2.5.4.3 */
const COMMON_NAME = "550403";

/** The common name of whom a certificate is of (RFC 5280, section 4.1), of which nothing is verified. `null`: it has none, or it is no certificate. */
export function certificateName(der: Uint8Array): string | null {
  try {
    const [body] = derChildren(derSingle(der, "certificate"), TAG.sequence, "certificate");
    const fields = derChildren(body, TAG.sequence, "tbsCertificate");
    // Behind the version, which may be left out: serialNumber, signature, issuer, validity, subject.
    const subject = fields[(fields[0]?.tag === TAG.version ? 1 : 0) + 4];
    const sets = derChildren(subject, TAG.sequence, "subject");
    const pairs = sets.flatMap((each) => derChildren(each, TAG.set, "name")).map(pairOf);
    const found = pairs.find(([type]) => toHex(derContent(type, TAG.oid, "name type")) === COMMON_NAME);
    return found === undefined ? null : derText(found[1], "common name");
  } catch (error) {
    if (error instanceof AttestError) return null;
    throw error;
  }
}

const pairOf = (element: DerElement): readonly DerElement[] => derChildren(element, TAG.sequence, "name");
