import { createPublicKey, type KeyObject, X509Certificate } from "node:crypto";
import { fromHex, sha256 } from "../policy/index.ts";
import { type CertificateFields, parseCertificateFields } from "./ek-certificate.ts";
import type { AssuranceClass } from "./enrolment.ts";
import { AttestError } from "./errors.ts";
import { encodeTpmPublic, type TpmPublic, tpmAlg, tpmName } from "./tpm-structures.ts";

/** Extended key usage of an EK certificate (tcg-kp-EKCertificate). */
const ekPurpose = "2.23.133.8.1";
const maxChain = 5;

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

/** An endorsement key that a pinned authority stands behind. */
export interface Endorsement {
  readonly assurance: AssuranceClass;
  readonly anchor: string;
  readonly manufacturer: string | null;
  /** TPMT_PUBLIC, built from the certificate and the standard template: never what the TPM said. */
  readonly ekPublic: TpmPublic;
  readonly ekPublicArea: Uint8Array;
  readonly ekName: Uint8Array;
  readonly ekCertificateSha256: Uint8Array;
}

interface Certificate {
  readonly x509: X509Certificate;
  readonly fields: CertificateFields;
}

/**
 * Verify an EK certificate chain up to a pinned authority and compute the EK's public area and Name from it.
 *
 * Does not establish that the TPM is here: MakeCredential towards this EK and its answer do. Revocation is not
 * consulted. A provider's or software TPM's certificate says nothing about hardware; `assurance` does.
 *
 * @param chain DER, the EK's first, then any intermediates in order
 * @throws AttestError `ERR_ENDORSEMENT_MALFORMED`, `ERR_ENDORSEMENT_REFUSED`
 */
export function verifyEndorsement(
  chain: readonly Uint8Array[],
  anchors: readonly TrustAnchor[],
  at: Date,
): Endorsement {
  if (chain.length === 0 || chain.length > maxChain)
    throw refused("ek certificate chain", `1 to ${maxChain} certificates`, `${chain.length}`);
  const certificates = chain.map(parseCertificate);
  const [ek] = certificates;
  const [der] = chain;
  if (ek === undefined || der === undefined) throw refused("ek certificate chain", "a certificate", "none");
  for (const certificate of certificates) verifyCertificate(certificate, at);
  const anchor = findAnchor(certificates, anchors, at);
  verifyEkCertificate(ek, anchor);
  const ekPublic = ekPublicFromSpki(exportJwk(ekCertificateKey(der)));
  const ekPublicArea = encodeTpmPublic(ekPublic);
  return {
    assurance: anchor.assurance,
    anchor: anchor.name,
    manufacturer: ek.fields.manufacturer,
    ekPublic,
    ekPublicArea,
    ekName: tpmName(ekPublicArea),
    ekCertificateSha256: sha256(der),
  };
}

function parseCertificate(der: Uint8Array): Certificate {
  const fields = parseCertificateFields(der);
  try {
    return { x509: new X509Certificate(der), fields };
  } catch (cause) {
    throw new AttestError("ERR_ENDORSEMENT_MALFORMED", "certificate", {
      expected: "X.509",
      got: "something else",
      cause,
    });
  }
}

function verifyCertificate(certificate: Certificate, at: Date): void {
  verifyValidity(certificate, at);
  if (!certificate.fields.acceptableSignature)
    throw refused("certificate signature", "RSA or ECDSA with SHA-2", "another algorithm");
}

function verifyValidity({ x509, fields }: Certificate, at: Date): void {
  const from = x509.validFromDate;
  const to = x509.validToDate;
  if (!(from <= at && at <= to)) {
    // Printed as found: a damaged date has no ISO form.
    throw refused("certificate dates", `${x509.validFrom} to ${x509.validTo}`, at.toISOString());
  }
  const [unknown] = fields.unknownCritical;
  if (unknown !== undefined) throw refused("certificate extensions", "no unknown critical one", unknown);
}

/**
 * The public key of an EK certificate. Verifies nothing: see `verifyEndorsement`.
 * @throws AttestError `ERR_ENDORSEMENT_MALFORMED`
 */
export function ekCertificateKey(der: Uint8Array): KeyObject {
  const { x509, fields } = parseCertificate(der);
  try {
    if (fields.oaepKey === null) return x509.publicKey;
    return createPublicKey({ key: Buffer.from(fields.oaepKey), format: "der", type: "pkcs1" });
  } catch (cause) {
    throw new AttestError("ERR_ENDORSEMENT_MALFORMED", "certificate key", {
      expected: "a public key",
      got: "something else",
      cause,
    });
  }
}

/** Walk up: each certificate is issued by the next, the last by an anchor (or is one). */
function findAnchor(certificates: readonly Certificate[], anchors: readonly TrustAnchor[], at: Date): TrustAnchor {
  for (const [index, certificate] of certificates.entries()) {
    const anchor = anchors.find((candidate) => isAnchoredBy(certificate, candidate, at, index));
    if (anchor !== undefined) return anchor;
    const issuer = certificates[index + 1];
    if (issuer === undefined || !issues(issuer, certificate, index)) break;
  }
  throw refused("ek certificate chain", "one that ends at a pinned authority", "another issuer or a bad signature");
}

function isAnchoredBy(certificate: Certificate, anchor: TrustAnchor, at: Date, index: number): boolean {
  const root = parseCertificate(pemToDer(anchor.pem));
  if (index > 0 && root.x509.fingerprint256 === certificate.x509.fingerprint256) return true;
  if (!issues(root, certificate, index)) return false;
  // Its own signature counts for nothing, whatever the algorithm: the anchor is trusted because it is pinned.
  verifyValidity(root, at);
  return true;
}

/** @param below how many authorities stand below the issuer */
function issues(issuer: Certificate, subject: Certificate, below: number): boolean {
  if (!issuer.x509.ca || !issuer.fields.mayIssue) return false;
  if (issuer.fields.pathLength !== null && below > issuer.fields.pathLength) return false;
  try {
    return subject.x509.checkIssued(issuer.x509) && subject.x509.verify(issuer.x509.publicKey);
  } catch {
    return false; // a key of a kind that cannot verify
  }
}

function verifyEkCertificate({ x509, fields }: Certificate, anchor: TrustAnchor): void {
  if (x509.ca) throw refused("ek certificate basicConstraints", "an end entity", "a certificate authority");
  if (!fields.mayExchangeKeys) throw refused("ek certificate keyUsage", "keyEncipherment or keyAgreement", "neither");
  if (anchor.requireEkPurpose && !fields.extendedKeyUsage.includes(ekPurpose)) {
    throw refused("ek certificate extKeyUsage", ekPurpose, fields.extendedKeyUsage.join(", ") || "none");
  }
  if (anchor.manufacturers === "any") return;
  if (fields.manufacturer === null || !anchor.manufacturers.includes(fields.manufacturer)) {
    throw refused("ek certificate tpmManufacturer", anchor.manufacturers.join(" or "), fields.manufacturer ?? "none");
  }
}

/** PolicyA of the low-range templates: PolicySecret(endorsement), SHA-256. */
const policyA = fromHex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa");
/** PolicyB of the high-range templates, SHA-384. */
const policyB = fromHex(
  "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12",
);

interface JsonWebKey {
  readonly kty?: string;
  readonly crv?: string;
  readonly n?: string;
  readonly e?: string;
  readonly x?: string;
  readonly y?: string;
}

/** Only its type for a key that has no JWK form (DSA, most curves): it is none of the two that an EK has. */
function exportJwk(key: KeyObject): JsonWebKey {
  try {
    return key.export({ format: "jwk" });
  } catch {
    return { kty: key.asymmetricKeyType ?? "unknown" };
  }
}

/** TPMT_PUBLIC of the templates L-1 (RSA 2048) and H-3 (P-384) of the TCG EK Credential Profile with this key in it. */
function ekPublicFromSpki(jwk: JsonWebKey): TpmPublic {
  if (jwk.kty === "RSA" && jwk.e === "AQAB") {
    const modulus = fromBase64Url(jwk.n);
    if (modulus.length !== 256) throw refused("ek key", "RSA 2048", `RSA ${8 * modulus.length}`);
    const symmetric = { algorithm: tpmAlg.aes, keyBits: 128, mode: tpmAlg.cfb };
    const common = { nameAlg: tpmAlg.sha256, attributes: 0x300b2, authPolicy: policyA, symmetric, scheme: null };
    return { kind: "rsa", ...common, keyBits: 2048, exponent: 0, modulus };
  }
  if (jwk.kty === "EC" && jwk.crv === "P-384") {
    const symmetric = { algorithm: tpmAlg.aes, keyBits: 256, mode: tpmAlg.cfb };
    const common = { nameAlg: tpmAlg.sha384, attributes: 0x300f2, authPolicy: policyB, symmetric, scheme: null };
    return { kind: "ecc", ...common, curve: 0x0004, x: fromBase64Url(jwk.x), y: fromBase64Url(jwk.y) };
  }
  throw refused("ek key", "RSA 2048 or P-384", `${jwk.kty ?? "unknown"} ${jwk.crv ?? ""}`.trim());
}

function fromBase64Url(text: string | undefined): Uint8Array {
  return Uint8Array.fromBase64(text ?? "", { alphabet: "base64url" });
}

function pemToDer(pem: string): Uint8Array {
  try {
    return new Uint8Array(new X509Certificate(pem).raw);
  } catch (cause) {
    throw new AttestError("ERR_ENDORSEMENT_MALFORMED", "trust anchor", {
      expected: "a PEM certificate",
      got: "something else",
      cause,
    });
  }
}

function refused(what: string, expected: string, got: string): AttestError {
  return new AttestError("ERR_ENDORSEMENT_REFUSED", what, { expected, got });
}
