import { type KeyObject, X509Certificate } from "node:crypto";
import { pemBlocks } from "../policy/index.ts";
import { type CertificateFields, parseCertificateFields, trimCertificate } from "./ek-certificate.ts";
import type { AssuranceClass } from "./enrolment.ts";
import { AttestError } from "./errors.ts";

/** Extended key usage of an EK certificate (tcg-kp-EKCertificate). */
export const ekPurpose = "2.23.133.8.1";
const anyPurpose = "2.5.29.37.0";
/** Firmware TPMs of one maker have seven: the EK's, three of authorities in the processor, two of the maker's, the root's. A report holds as many as this. */
export const maxChain = 8;

/** A pinned certificate authority, and what it is known to write into its certificates. Nothing here is optional. */
export interface TrustAnchor {
  readonly name: string;
  /** One certificate; it need not be self-signed, but nothing above it counts. */
  readonly pem: string;
  /** What an EK under it is worth. The CA of a software TPM is `software-tpm`, whatever its certificates say. */
  readonly assurance: AssuranceClass;
  /** Some providers leave the EK purpose out, or put it on the issuer. */
  readonly requireEkPurpose: boolean;
  /** TPM manufacturers, e.g. `id:00001014`; "any" also lets a certificate without the attribute pass. */
  readonly manufacturers: readonly string[] | "any";
}

export interface Certificate {
  /** Without padding. */
  readonly der: Uint8Array;
  readonly x509: X509Certificate;
  readonly fields: CertificateFields;
}

interface Pinned {
  readonly anchor: TrustAnchor;
  readonly root: Certificate;
}

/** Verifies nothing. @throws AttestError `ERR_ENDORSEMENT_MALFORMED` */
export function parseCertificate(bytes: Uint8Array): Certificate {
  const der = trimCertificate(bytes);
  const fields = parseCertificateFields(der);
  try {
    return { der, x509: new X509Certificate(der), fields };
  } catch (cause) {
    throw new AttestError("ERR_ENDORSEMENT_MALFORMED", "certificate", {
      expected: "X.509",
      got: "something else",
      cause,
    });
  }
}

/** The one certificate of a PEM text. @throws AttestError `ERR_ENDORSEMENT_MALFORMED`, also for several */
export function parsePemCertificate(pem: string): Certificate {
  const blocks = pemBlocks(pem, "CERTIFICATE") ?? [];
  const [block] = blocks;
  if (block === undefined || blocks.length > 1)
    throw malformed("trust anchor", "one PEM certificate", block === undefined ? "something else" : `${blocks.length}`);
  return parseCertificate(block);
}

/**
 * An EK's certificate and those of the given issuers that stand above it, in their order: each names the one before it as its subject's issuer. No signature
 * is looked at: see `verifyEndorsement`. People have issuers in files of several, and some TPMs keep theirs the other way round.
 * @throws AttestError `ERR_ENDORSEMENT_MALFORMED`
 */
export function orderChain(ek: Uint8Array, issuers: readonly Uint8Array[]): readonly Uint8Array[] {
  const left = issuers.map(parseCertificate);
  const chain: Certificate[] = [];
  let next: Certificate | undefined = parseCertificate(ek);
  while (next !== undefined) {
    const subject: Certificate = next;
    chain.push(subject);
    const at = left.findIndex((issuer) => isNamedIssuer(issuer, subject));
    next = at < 0 ? undefined : left.splice(at, 1)[0];
  }
  return chain.map(({ der }) => der);
}

/**
 * Walk up: each certificate is issued by the next, the last by an anchor (or is one). The lowest authority that is pinned decides.
 * @param certificates the EK's first; those above the one that a pinned authority issued are not looked at
 * @throws AttestError `ERR_ENDORSEMENT_REFUSED`, `ERR_ENDORSEMENT_MALFORMED` for an anchor that is no certificate
 */
export function findAnchor(
  certificates: readonly Certificate[],
  anchors: readonly TrustAnchor[],
  at: Date,
): TrustAnchor {
  const pinned = anchors.map((anchor) => ({ anchor, root: parsePemCertificate(anchor.pem) }));
  for (const [index, certificate] of certificates.entries()) {
    const itself = index > 0 ? pinned.filter(({ root }) => isSame(root, certificate)) : [];
    if (itself.length > 0) return firstValid(itself, at);
    verifyCertificate(certificate, at);
    const above = pinned.filter(({ root }) => issueProblem(root, certificate, index) === null);
    if (above.length > 0) return firstValid(above, at);
    const issuer = certificates[index + 1];
    const problem =
      issuer === undefined ? missingIssuer(certificate, pinned, index) : issueProblem(issuer, certificate, index);
    if (problem !== null) throw refused("ek certificate chain", "one that ends at a pinned authority", problem);
    if (issuer !== undefined) verifyPurpose(issuer);
  }
  throw refused("ek certificate chain", "one that ends at a pinned authority", "none");
}

/** Its own signature counts for nothing, whatever the algorithm: an anchor is trusted because it is pinned. */
function firstValid(pinned: readonly Pinned[], at: Date): TrustAnchor {
  const [first] = pinned;
  const valid = pinned.find(({ root }) => isValidAt(root, at)) ?? first;
  if (valid === undefined) throw refused("trust anchor", "one", "none");
  verifyValidity(valid.root, at, `trust anchor ${valid.anchor.name}`);
  return valid.anchor;
}

function isSame(one: Certificate, other: Certificate): boolean {
  return one.x509.fingerprint256 === other.x509.fingerprint256;
}

function verifyCertificate(certificate: Certificate, at: Date): void {
  verifyValidity(certificate, at, "certificate");
  const { signature } = certificate.fields;
  if (!signature.acceptable) throw refused("certificate signature", "RSA or ECDSA with SHA-2", signature.name);
}

function isValidAt({ x509 }: Certificate, at: Date): boolean {
  return x509.validFromDate <= at && at <= x509.validToDate;
}

function verifyValidity(certificate: Certificate, at: Date, what: string): void {
  const { x509, fields } = certificate;
  if (!isValidAt(certificate, at)) {
    // Printed as found: a damaged date has no ISO form.
    throw refused(`${what} dates`, `${x509.validFrom} to ${x509.validTo}`, at.toISOString());
  }
  const [unknown] = fields.unsupported;
  if (unknown !== undefined) throw refused(`${what} extensions`, "no constraint, and no unknown critical one", unknown);
}

/** An authority whose purposes are written issues for these alone. One that makes AK certificates stands under the same root often. */
function verifyPurpose({ fields }: Certificate): void {
  const { extendedKeyUsage } = fields;
  if (
    extendedKeyUsage.length === 0 ||
    extendedKeyUsage.some((purpose) => purpose === ekPurpose || purpose === anyPurpose)
  )
    return;
  throw refused("issuer extKeyUsage", ekPurpose, extendedKeyUsage.join(", "));
}

/**
 * Why `issuer` did not or must not issue `subject`; `null` when it did.
 * @param below how many authorities stand below the issuer
 */
function issueProblem(issuer: Certificate, subject: Certificate, below: number): string | null {
  const { authority, mayIssue, pathLength } = issuer.fields;
  if (!isNamedIssuer(issuer, subject)) return "one that names another issuer, issuer key or kind of signature";
  if (!authority || !mayIssue) return "an issuer that is no authority for certificates";
  if (pathLength !== null && below > pathLength) return `${below} authorities below one that allows ${pathLength}`;
  const key = publicKeyOf(issuer);
  if (key === null || !mayVerify(key)) return "an issuer with a key of an unknown or weak kind";
  try {
    return subject.x509.verify(key) ? null : "a bad signature";
  } catch {
    return "a signature of another kind than the issuer's key";
  }
}

function isNamedIssuer(issuer: Certificate, subject: Certificate): boolean {
  try {
    return subject.x509.checkIssued(issuer.x509);
  } catch {
    return false;
  }
}

function publicKeyOf({ x509 }: Certificate): KeyObject | null {
  try {
    return x509.publicKey;
  } catch {
    return null;
  }
}

const curves: ReadonlySet<string | undefined> = new Set(["prime256v1", "secp384r1", "secp521r1"]);

/** RSA of 2048 to 8192 bits, or one of the three NIST curves: bounded work, and no key that can be broken. */
function mayVerify({ asymmetricKeyType, asymmetricKeyDetails }: KeyObject): boolean {
  const { modulusLength = 0, publicExponent = 0n, namedCurve } = asymmetricKeyDetails ?? {};
  if (asymmetricKeyType === "ec") return curves.has(namedCurve);
  const isRsa = asymmetricKeyType === "rsa" || asymmetricKeyType === "rsa-pss";
  return isRsa && modulusLength >= 2048 && modulusLength <= 8192 && publicExponent < 1n << 32n;
}

/** Says which authority is missing; where one of that name is pinned, why it is not the issuer. */
function missingIssuer(certificate: Certificate, pinned: readonly Pinned[], below: number): string {
  const issuer = oneLine(certificate.x509.issuer);
  const namesake = pinned.find(({ root }) => oneLine(root.x509.subject) === issuer);
  if (namesake === undefined) return `another issuer: ${issuer}`;
  return `${issueProblem(namesake.root, certificate, below) ?? "another issuer"} (${namesake.anchor.name})`;
}

/** A distinguished name for people, cut short: it is the machine's word. Node has none for an empty one. */
export function oneLine(name: string | undefined): string {
  const text = (name ?? "").split("\n").join(", ");
  return text.length > 200 ? `${text.slice(0, 200)}...` : text || "(empty)";
}

function malformed(what: string, expected: string, got: string): AttestError {
  return new AttestError("ERR_ENDORSEMENT_MALFORMED", what, { expected, got });
}

function refused(what: string, expected: string, got: string): AttestError {
  return new AttestError("ERR_ENDORSEMENT_REFUSED", what, { expected, got });
}
