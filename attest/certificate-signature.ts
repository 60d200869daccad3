import { type DerElement, derChildren, derContent, derOid } from "./der.ts";

/** How a certificate is signed. `acceptable`: RSA (PKCS #1 v1.5 or PSS) or ECDSA, with SHA-2; SHA-1 is not. */
export interface SignatureAlgorithm {
  /** As OpenSSL calls it; the dotted OID where it is none of those known here. */
  readonly name: string;
  readonly acceptable: boolean;
}

const pss = "1.2.840.113549.1.1.10";
const mgf1 = "1.2.840.113549.1.1.8";
const acceptable: ReadonlyMap<string, string> = new Map([
  ["1.2.840.113549.1.1.11", "sha256WithRSAEncryption"],
  ["1.2.840.113549.1.1.12", "sha384WithRSAEncryption"],
  ["1.2.840.113549.1.1.13", "sha512WithRSAEncryption"],
  ["1.2.840.10045.4.3.2", "ecdsa-with-SHA256"],
  ["1.2.840.10045.4.3.3", "ecdsa-with-SHA384"],
  ["1.2.840.10045.4.3.4", "ecdsa-with-SHA512"],
]);
const refused: ReadonlyMap<string, string> = new Map([
  ["1.2.840.113549.1.1.4", "md5WithRSAEncryption"],
  ["1.2.840.113549.1.1.5", "sha1WithRSAEncryption"],
  ["1.2.840.10045.4.1", "ecdsa-with-SHA1"],
]);
const sha2: ReadonlySet<string> = new Set([
  "2.16.840.1.101.3.4.2.1",
  "2.16.840.1.101.3.4.2.2",
  "2.16.840.1.101.3.4.2.3",
]);

/** Reads an AlgorithmIdentifier. @throws AttestError `ERR_ENDORSEMENT_MALFORMED` */
export function signatureAlgorithmOf(element: DerElement | undefined): SignatureAlgorithm {
  const [, parameters] = derChildren(element, 0x30, "algorithmIdentifier");
  const id = algorithmOf(element);
  if (id === pss) return { name: "rsassaPss", acceptable: isPssWithSha2(parameters) };
  const known = acceptable.get(id);
  return known === undefined ? { name: refused.get(id) ?? id, acceptable: false } : { name: known, acceptable: true };
}

/** The OID of an AlgorithmIdentifier. */
export function algorithmOf(element: DerElement | undefined): string {
  return derOid(derContent(derChildren(element, 0x30, "algorithmIdentifier")[0], 0x06, "algorithmIdentifier"));
}

/** RFC 4055: what is left out means SHA-1, so both the hash and the mask's must be written. */
function isPssWithSha2(parameters: DerElement | undefined): boolean {
  if (parameters?.tag !== 0x30) return false;
  const fields = derChildren(parameters, 0x30, "RSASSA-PSS-params");
  const [hash] = childrenOf(fields, 0xa0);
  const [mask] = childrenOf(fields, 0xa1);
  if (hash === undefined || mask === undefined || algorithmOf(mask) !== mgf1) return false;
  const maskHash = algorithmOf(derChildren(mask, 0x30, "maskGenAlgorithm")[1]);
  return sha2.has(algorithmOf(hash)) && maskHash === algorithmOf(hash);
}

function childrenOf(fields: readonly DerElement[], tag: number): readonly DerElement[] {
  const field = fields.find((element) => element.tag === tag);
  return field === undefined ? [] : derChildren(field, tag, "RSASSA-PSS-params");
}
