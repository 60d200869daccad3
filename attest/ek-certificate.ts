import { type DerElement, derChildren, derContent, derOid, parseDer } from "./der.ts";
import { AttestError } from "./errors.ts";

const sequence = 0x30;
const set = 0x31;
const objectIdentifier = 0x06;
const octetString = 0x04;
const bitString = 0x03;
const integer = 0x02;

/** Signature algorithms that a chain may use; SHA-1 is not among them. */
const signatureAlgorithms: ReadonlySet<string> = new Set([
  "1.2.840.113549.1.1.11",
  "1.2.840.113549.1.1.12",
  "1.2.840.113549.1.1.13",
  "1.2.840.10045.4.3.2",
  "1.2.840.10045.4.3.3",
  "1.2.840.10045.4.3.4",
]);

/** What Node's X509Certificate does not say, or says wrongly, about a TPM's certificates. */
export interface CertificateFields {
  readonly acceptableSignature: boolean;
  readonly extendedKeyUsage: readonly string[];
  /** keyCertSign, or no key usage extension at all. */
  readonly mayIssue: boolean;
  /** How many authorities may stand below this one; `null` for any number. */
  readonly pathLength: number | null;
  /** keyEncipherment or keyAgreement, or no key usage extension at all. */
  readonly mayExchangeKeys: boolean;
  /** TPM manufacturer of the subject alternative name, e.g. `id:00001014`; `null` when there is none. */
  readonly manufacturer: string | null;
  readonly unknownCritical: readonly string[];
  /** RSAPublicKey of a key that is declared for RSAES-OAEP, as some TPM makers do: OpenSSL reads no such key. Else `null`. */
  readonly oaepKey: Uint8Array | null;
}

const rsaesOaep = "1.2.840.113549.1.1.7";
const oid = {
  keyUsage: "2.5.29.15",
  subjectAlternativeName: "2.5.29.17",
  basicConstraints: "2.5.29.19",
  extendedKeyUsage: "2.5.29.37",
  tpmManufacturer: "2.23.133.2.1",
} as const;

/**
 * Reads the extensions of one DER certificate. TPM makers order, nest and mark them in several ways: a critical
 * subject alternative name beside an empty subject, one multi-valued RDN or three single ones.
 * Verifies nothing. @throws AttestError `ERR_ENDORSEMENT_MALFORMED`
 */
export function parseCertificateFields(der: Uint8Array): CertificateFields {
  const outer = parseDer(der);
  if (outer.length !== 1)
    throw new AttestError("ERR_ENDORSEMENT_MALFORMED", "certificate", { expected: "one", got: `${outer.length}` });
  const [tbs, algorithm] = derChildren(outer[0], sequence, "certificate");
  const extensions = parseExtensions(tbs);
  const usage = keyUsageBits(extensions.get(oid.keyUsage));
  const known: readonly string[] = Object.values(oid);
  return {
    acceptableSignature: signatureAlgorithms.has(algorithmOf(algorithm)),
    extendedKeyUsage: extendedKeyUsage(extensions.get(oid.extendedKeyUsage)),
    mayIssue: usage === null || (usage & 0x04) !== 0,
    pathLength: pathLengthOf(extensions.get(oid.basicConstraints)),
    mayExchangeKeys: usage === null || (usage & 0x28) !== 0,
    manufacturer: manufacturerOf(extensions.get(oid.subjectAlternativeName)),
    unknownCritical: [...extensions].filter(([id, { critical }]) => critical && !known.includes(id)).map(([id]) => id),
    oaepKey: oaepKeyOf(tbs),
  };
}

/** SubjectPublicKeyInfo is the sixth field, the seventh where a version stands in front. */
function oaepKeyOf(tbs: DerElement | undefined): Uint8Array | null {
  const fields = derChildren(tbs, sequence, "tbsCertificate");
  const [algorithm, key] = derChildren(fields[fields[0]?.tag === 0xa0 ? 6 : 5], sequence, "subjectPublicKeyInfo");
  return algorithmOf(algorithm) === rsaesOaep ? derContent(key, bitString, "subjectPublicKey").subarray(1) : null;
}

/** The INTEGER behind cA. One octet is enough: no chain here has 128 certificates. */
function pathLengthOf(extension: Extension | undefined): number | null {
  if (extension === undefined) return null;
  const length = derChildren(parseDer(extension.value)[0], sequence, "basicConstraints").find(
    ({ tag }) => tag === integer,
  );
  return length === undefined ? null : (length.content[length.content.length - 1] ?? 0);
}

interface Extension {
  readonly critical: boolean;
  readonly value: Uint8Array;
}

function parseExtensions(tbs: DerElement | undefined): ReadonlyMap<string, Extension> {
  const extensions = new Map<string, Extension>();
  const wrapper = derChildren(tbs, sequence, "tbsCertificate").find((element) => element.tag === 0xa3);
  if (wrapper === undefined) return extensions;
  for (const extension of derChildren(parseDer(wrapper.content)[0], sequence, "extensions")) {
    const [id, ...rest] = derChildren(extension, sequence, "extension");
    const name = derOid(derContent(id, objectIdentifier, "extension id"));
    if (extensions.has(name))
      throw new AttestError("ERR_ENDORSEMENT_MALFORMED", `extension ${name}`, { expected: "once", got: "twice" });
    const critical = rest.length === 2 && derContent(rest[0], 0x01, "critical")[0] === 0xff;
    extensions.set(name, { critical, value: derContent(rest.at(-1), octetString, "extension value") });
  }
  return extensions;
}

function algorithmOf(algorithm: DerElement | undefined): string {
  return derOid(
    derContent(derChildren(algorithm, sequence, "algorithmIdentifier")[0], objectIdentifier, "algorithmIdentifier"),
  );
}

/** First octet of the BIT STRING, shifted so that keyCertSign is 0x04, keyEncipherment 0x20, keyAgreement 0x08. */
function keyUsageBits(extension: Extension | undefined): number | null {
  if (extension === undefined) return null;
  return derContent(parseDer(extension.value)[0], bitString, "keyUsage")[1] ?? 0;
}

function extendedKeyUsage(extension: Extension | undefined): readonly string[] {
  if (extension === undefined) return [];
  return derChildren(parseDer(extension.value)[0], sequence, "extKeyUsage").map((purpose) =>
    derOid(derContent(purpose, objectIdentifier, "purpose")),
  );
}

/** GeneralNames, directoryName [4], any grouping of the attributes into RDNs. */
function manufacturerOf(extension: Extension | undefined): string | null {
  if (extension === undefined) return null;
  for (const name of derChildren(parseDer(extension.value)[0], sequence, "subjectAltName")) {
    if (name.tag !== 0xa4) continue;
    for (const rdn of derChildren(parseDer(name.content)[0], sequence, "directoryName")) {
      for (const attribute of derChildren(rdn, set, "RDN")) {
        const [type, value] = derChildren(attribute, sequence, "attribute");
        if (value === undefined || derOid(derContent(type, objectIdentifier, "attribute type")) !== oid.tpmManufacturer)
          continue;
        return new TextDecoder("utf-8").decode(value.content);
      }
    }
  }
  return null;
}
