import { algorithmOf, type SignatureAlgorithm, signatureAlgorithmOf } from "./certificate-signature.ts";
import { type DerElement, derBoolean, derChildren, derContent, derNumber, derOid, derSingle } from "./der.ts";
import { AttestError } from "./errors.ts";
import { parseTpmSubject, type TpmSubject } from "./tpm-subject.ts";

const sequence = 0x30;
const objectIdentifier = 0x06;
const octetString = 0x04;
const bitString = 0x03;
const integer = 0x02;

/** What Node's X509Certificate does not say, or says wrongly, about a TPM's certificates. */
export interface CertificateFields {
  readonly signature: SignatureAlgorithm;
  readonly extendedKeyUsage: readonly string[];
  /** basicConstraints cA. */
  readonly authority: boolean;
  /** keyCertSign, or no key usage extension at all. */
  readonly mayIssue: boolean;
  /** How many authorities may stand below this one; `null` for any number. */
  readonly pathLength: number | null;
  /** keyEncipherment or keyAgreement, or no key usage extension at all. */
  readonly mayExchangeKeys: boolean;
  /** keyCertSign is written: no EK has that. */
  readonly signsCertificates: boolean;
  /** From the subject alternative name; all `null` where there is none. */
  readonly tpm: TpmSubject;
  /** Extensions that are critical and unknown, or constrain what nothing here can compare. */
  readonly unsupported: readonly string[];
  /** RSAPublicKey of a key that is declared for RSAES-OAEP, as some TPM makers do: OpenSSL reads no such key. Else `null`. */
  readonly oaepKey: Uint8Array | null;
}

const rsaesOaep = "1.2.840.113549.1.1.7";
const oid = {
  keyUsage: "2.5.29.15",
  subjectAltName: "2.5.29.17",
  basicConstraints: "2.5.29.19",
  extendedKeyUsage: "2.5.29.37",
} as const;

/**
 * May be critical without being refused, beside those that are read. certificatePolicies: many TPM makers' authorities mark it; no policy
 * is asked for here, so any set of them passes (RFC 5280, 6.1.1, initial-explicit-policy false). subjectDirectoryAttributes: describes only.
 */
const harmless: ReadonlySet<string> = new Set(["2.5.29.9", "2.5.29.32", ...Object.values(oid)]);

/** nameConstraints, policyConstraints, inhibitAnyPolicy: not evaluated, so refused even where they are not critical. */
const constraints: ReadonlySet<string> = new Set(["2.5.29.30", "2.5.29.36", "2.5.29.54"]);

/**
 * Reads the extensions of one DER certificate. TPM makers order, nest and mark them in several ways: see `parseTpmSubject`.
 * Verifies nothing. @throws AttestError `ERR_ENDORSEMENT_MALFORMED`
 */
export function parseCertificateFields(der: Uint8Array): CertificateFields {
  const [tbs, algorithm] = derChildren(derSingle(der, "certificate"), sequence, "certificate");
  const fields = derChildren(tbs, sequence, "tbsCertificate");
  checkSerial(fields.find(({ tag }) => tag !== 0xa0));
  const extensions = parseExtensions(fields);
  const usage = keyUsageBits(extensions.get(oid.keyUsage));
  const basic = basicConstraints(extensions.get(oid.basicConstraints));
  return {
    signature: signatureAlgorithmOf(algorithm),
    extendedKeyUsage: extendedKeyUsage(extensions.get(oid.extendedKeyUsage)),
    ...basic,
    mayIssue: usage === null || (usage & 0x04) !== 0,
    mayExchangeKeys: usage === null || (usage & 0x28) !== 0,
    signsCertificates: usage !== null && (usage & 0x04) !== 0,
    tpm: tpmSubject(extensions.get(oid.subjectAltName)),
    unsupported: [...extensions].filter(isUnsupported).map(([id]) => id),
    oaepKey: oaepKeyOf(fields),
  };
}

/**
 * The certificates that stand one after another in a file or an NV index, up to the padding (zeros, ones or a line's end) that may follow.
 * Verifies nothing. @throws AttestError `ERR_ENDORSEMENT_MALFORMED` for none, more than `max`, or other bytes behind them
 */
export function splitCertificates(bytes: Uint8Array, max: number): readonly Uint8Array[] {
  const certificates: Uint8Array[] = [];
  let rest = bytes;
  while (rest[0] === sequence) {
    const length = elementLength(rest);
    certificates.push(rest.slice(0, length));
    rest = rest.subarray(length);
    if (certificates.length > max) throw malformed("certificates", `at most ${max}`, "more");
  }
  if (certificates.length === 0) throw malformed("certificate", "DER", "something else");
  if (rest.some((octet) => !padding.has(octet))) throw malformed("certificate", "padding behind it", "other bytes");
  return certificates;
}

/** One certificate, without the padding that some TPMs store behind it. @throws as `splitCertificates` */
export function trimCertificate(bytes: Uint8Array): Uint8Array {
  const [certificate = bytes] = splitCertificates(bytes, 1);
  return certificate;
}

/** The certificate at the start, whatever is behind it; `null` where there is none, as in an NV index never filled. */
export function firstCertificate(bytes: Uint8Array): Uint8Array | null {
  try {
    return bytes[0] === sequence ? bytes.slice(0, elementLength(bytes)) : null;
  } catch {
    return null;
  }
}

const padding: ReadonlySet<number> = new Set([0x00, 0xff, 0x0a, 0x0d]);

/** Octets of the element at the start, at most 64 KiB. */
function elementLength(bytes: Uint8Array): number {
  const first = bytes[1] ?? 0;
  const count = first < 0x80 ? 0 : first & 0x7f;
  if (count > 2) throw malformed("certificate", "at most 64 KiB", "a longer length");
  const length = count === 0 ? first : bytes.subarray(2, 2 + count).reduce((sum, octet) => sum * 256 + octet, 0);
  const total = 2 + count + length;
  if (total > bytes.length) throw malformed("certificate", `${total} bytes`, `${bytes.length}`);
  return total;
}

/** RFC 5280, 4.1.2.2: positive, at most 20 octets and a sign. */
function checkSerial(serial: DerElement | undefined): void {
  const content = derContent(serial, integer, "serialNumber");
  if (content.length === 0 || content.length > 21 || (content[0] ?? 0) >= 0x80)
    throw malformed(
      "serialNumber",
      "a positive number of at most 20 octets",
      content.length === 0 ? "nothing" : "another",
    );
}

/** SubjectPublicKeyInfo is the sixth field, the seventh where a version stands in front. */
function oaepKeyOf(fields: readonly DerElement[]): Uint8Array | null {
  const [algorithm, key] = derChildren(fields[fields[0]?.tag === 0xa0 ? 6 : 5], sequence, "subjectPublicKeyInfo");
  return algorithmOf(algorithm) === rsaesOaep ? derContent(key, bitString, "subjectPublicKey").subarray(1) : null;
}

interface Extension {
  readonly critical: boolean;
  readonly value: Uint8Array;
}

function isUnsupported([id, { critical }]: readonly [string, Extension]): boolean {
  return constraints.has(id) || (critical && !harmless.has(id));
}

function parseExtensions(fields: readonly DerElement[]): ReadonlyMap<string, Extension> {
  const extensions = new Map<string, Extension>();
  const wrapper = fields.find((element) => element.tag === 0xa3);
  if (wrapper === undefined) return extensions;
  for (const extension of derChildren(derSingle(wrapper.content, "extensions"), sequence, "extensions")) {
    const parts = derChildren(extension, sequence, "extension");
    if (parts.length < 2 || parts.length > 3) throw malformed("extension", "2 or 3 parts", `${parts.length}`);
    const name = derOid(derContent(parts[0], objectIdentifier, "extension id"));
    if (extensions.has(name)) throw malformed(`extension ${name}`, "once", "twice");
    const critical = parts.length === 3 && derBoolean(parts[1], "critical");
    extensions.set(name, { critical, value: derContent(parts.at(-1), octetString, "extension value") });
  }
  return extensions;
}

function basicConstraints(extension: Extension | undefined): Pick<CertificateFields, "authority" | "pathLength"> {
  if (extension === undefined) return { authority: false, pathLength: null };
  const what = "basicConstraints";
  const parts = derChildren(derSingle(extension.value, what), sequence, what);
  const [first] = parts;
  const authority = first?.tag === 0x01 && derBoolean(first, what);
  const length = parts.find(({ tag }) => tag === integer);
  return { authority, pathLength: length === undefined ? null : derNumber(length, "pathLenConstraint") };
}

/** First octet of the BIT STRING: keyCertSign is 0x04, keyEncipherment 0x20, keyAgreement 0x08. */
function keyUsageBits(extension: Extension | undefined): number | null {
  if (extension === undefined) return null;
  return derContent(derSingle(extension.value, "keyUsage"), bitString, "keyUsage")[1] ?? 0;
}

function extendedKeyUsage(extension: Extension | undefined): readonly string[] {
  if (extension === undefined) return [];
  return derChildren(derSingle(extension.value, "extKeyUsage"), sequence, "extKeyUsage").map((purpose) =>
    derOid(derContent(purpose, objectIdentifier, "purpose")),
  );
}

function tpmSubject(extension: Extension | undefined): TpmSubject {
  return extension === undefined
    ? { manufacturer: null, model: null, version: null }
    : parseTpmSubject(extension.value);
}

function malformed(what: string, expected: string, got: string): AttestError {
  return new AttestError("ERR_ENDORSEMENT_MALFORMED", what, { expected, got });
}
