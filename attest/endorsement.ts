import { createPublicKey, type KeyObject } from "node:crypto";
import { sha256 } from "../policy/index.ts";
import {
  defaultEkProfile,
  type EkKey,
  type EkProfile,
  type EkProfileName,
  eccCurve,
  ekProfileNamed,
  ekProfilesOfKey,
  ekPublic,
} from "./ek-profiles.ts";
import {
  type Certificate,
  ekPurpose,
  findAnchor,
  maxChain,
  parseCertificate,
  type TrustAnchor,
} from "./endorsement-chain.ts";
import type { AssuranceClass } from "./enrolment.ts";
import { AttestError } from "./errors.ts";
import { encodeTpmPublic, type TpmPublic, tpmName } from "./tpm-structures.ts";

/** An endorsement key that a pinned authority stands behind. */
export interface Endorsement {
  readonly assurance: AssuranceClass;
  readonly anchor: string;
  readonly manufacturer: string | null;
  /** The template. The certificate does not name it: the usual one for its key, or what the machine claimed (`withEkProfile`). */
  readonly profile: EkProfileName;
  /** TPMT_PUBLIC, built from the certificate and the template: never what the TPM said. */
  readonly ekPublic: TpmPublic;
  readonly ekPublicArea: Uint8Array;
  readonly ekName: Uint8Array;
  readonly ekCertificateSha256: Uint8Array;
}

/**
 * Verify an EK certificate chain up to a pinned authority and compute the EK's public area and Name from it.
 *
 * Does not establish that the TPM is here: MakeCredential towards this EK and its answer do. Revocation is not
 * consulted. A provider's or software TPM's certificate says nothing about hardware; `assurance` does.
 *
 * @param chain DER, the EK's first, then any intermediates in order
 * @param claimed the template that the machine says its EK has: L-1, L-2 or H-3 by the certificate's key, if not given
 * @throws AttestError `ERR_ENDORSEMENT_MALFORMED`, `ERR_ENDORSEMENT_REFUSED`
 */
export function verifyEndorsement(
  chain: readonly Uint8Array[],
  anchors: readonly TrustAnchor[],
  at: Date,
  claimed?: EkProfileName,
): Endorsement {
  if (chain.length === 0 || chain.length > maxChain)
    throw refused("ek certificate chain", `1 to ${maxChain} certificates`, `${chain.length}`);
  const certificates = chain.map(parseCertificate);
  const [ek] = certificates;
  if (ek === undefined) throw refused("ek certificate chain", "a certificate", "none");
  const anchor = findAnchor(certificates, anchors, at);
  verifyEkCertificate(ek, anchor);
  const key = ekKeyOf(certificateKey(ek));
  const profile = claimed === undefined ? defaultEkProfile(key) : ekProfileNamed(claimed);
  return {
    assurance: anchor.assurance,
    anchor: anchor.name,
    manufacturer: ek.fields.tpm.manufacturer,
    ...endorsedKey(profile, key),
    ekCertificateSha256: sha256(ek.der),
  };
}

/**
 * The same endorsement for the template that the machine says its EK was made from. Nobody gains trust by a wrong claim: the key is the
 * certified one, and every template known here makes it a restricted decryption key. Where two templates have the same hash and cipher
 * (L-1 and H-1, L-2 and H-2), a credential opens under either; the Name is then one that no TPM has, so what is sealed to it opens nowhere and
 * reports that name their EK truly are refused. One TPM could be enrolled twice that way: compare `ekCertificateSha256`, not the Name alone.
 * @throws AttestError `ERR_ENDORSEMENT_REFUSED` for a template that has no such key
 */
export function withEkProfile(endorsement: Endorsement, claimed: EkProfileName): Endorsement {
  return { ...endorsement, ...endorsedKey(ekProfileNamed(claimed), endorsement.ekPublic) };
}

function endorsedKey(
  profile: EkProfile,
  key: EkKey,
): Pick<Endorsement, "profile" | "ekPublic" | "ekPublicArea" | "ekName"> {
  const area = ekPublic(profile, key);
  const ekPublicArea = encodeTpmPublic(area);
  return { profile: profile.name, ekPublic: area, ekPublicArea, ekName: tpmName(ekPublicArea) };
}

/**
 * The public key of an EK certificate. Verifies nothing: see `verifyEndorsement`.
 * @throws AttestError `ERR_ENDORSEMENT_MALFORMED`
 */
export function ekCertificateKey(der: Uint8Array): KeyObject {
  return certificateKey(parseCertificate(der));
}

function certificateKey({ x509, fields }: Certificate): KeyObject {
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

function verifyEkCertificate({ fields }: Certificate, anchor: TrustAnchor): void {
  if (fields.authority || fields.signsCertificates)
    throw refused("ek certificate basicConstraints", "an end entity", "a certificate authority");
  if (!fields.mayExchangeKeys) throw refused("ek certificate keyUsage", "keyEncipherment or keyAgreement", "neither");
  if (anchor.requireEkPurpose && !fields.extendedKeyUsage.includes(ekPurpose)) {
    throw refused("ek certificate extKeyUsage", ekPurpose, fields.extendedKeyUsage.join(", ") || "none");
  }
  if (anchor.manufacturers === "any") return;
  const { manufacturer } = fields.tpm;
  // The digits of a vendor ID are hexadecimal: their case says nothing.
  const allowed = anchor.manufacturers.map((id) => id.toLowerCase());
  if (manufacturer === null || !allowed.includes(manufacturer.toLowerCase())) {
    throw refused("ek certificate tpmManufacturer", anchor.manufacturers.join(" or "), manufacturer ?? "none");
  }
}

interface JsonWebKey {
  readonly kty?: string;
  readonly crv?: string;
  readonly n?: string;
  readonly e?: string;
  readonly x?: string;
  readonly y?: string;
}

/** Only its type for a key that has no JWK form (DSA, most curves): it is none of those that an EK has. */
function exportJwk(key: KeyObject): JsonWebKey {
  try {
    return key.export({ format: "jwk" });
  } catch {
    return { kty: key.asymmetricKeyType ?? "unknown" };
  }
}

/**
 * The key as the EK templates know keys: RSA 2048 with exponent 65537, P-256 or P-384.
 * @throws AttestError `ERR_ENDORSEMENT_REFUSED` for any other
 */
export function ekKeyOf(key: KeyObject): EkKey {
  const jwk = exportJwk(key);
  const found: EkKey =
    jwk.kty === "RSA" && jwk.e === "AQAB"
      ? { kind: "rsa", modulus: fromBase64Url(jwk.n) }
      : { kind: "ecc", curve: curves.get(jwk.crv) ?? 0, x: fromBase64Url(jwk.x), y: fromBase64Url(jwk.y) };
  if (ekProfilesOfKey(found).length > 0) return found;
  throw refused("ek key", "RSA 2048 with exponent 65537, P-256 or P-384", describeKey(key, jwk));
}

const curves: ReadonlyMap<string | undefined, number> = new Map([
  ["P-256", eccCurve.p256],
  ["P-384", eccCurve.p384],
]);

function describeKey(key: KeyObject, { kty, crv, e }: JsonWebKey): string {
  const { modulusLength, namedCurve } = key.asymmetricKeyDetails ?? {};
  const size = crv ?? namedCurve ?? modulusLength;
  const exponent = kty === "RSA" && e !== "AQAB" ? " with another exponent" : "";
  return `${[kty ?? "unknown", size].filter((part) => part !== undefined).join(" ")}${exponent}`;
}

function fromBase64Url(text: string | undefined): Uint8Array {
  return Uint8Array.fromBase64(text ?? "", { alphabet: "base64url" });
}

function refused(what: string, expected: string, got: string): AttestError {
  return new AttestError("ERR_ENDORSEMENT_REFUSED", what, { expected, got });
}
