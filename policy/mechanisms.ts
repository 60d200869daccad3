/** What a key is for. A key does exactly one of these. */
export type Operation = "sign" | "decrypt" | "unwrap";
export type DigestName = "sha256" | "sha384" | "sha512";
/** For OAEP, whose security rests on no collision resistance, SHA-1 will do: many tokens have no other. */
export type OaepDigestName = DigestName | "sha1";
/** A weakness of a mechanism that a policy must accept by name. */
export type AcceptedRisk = "padding-oracle" | "raw-rsa";
export type MechanismType =
  | "CKM_ECDSA"
  | "CKM_ECDSA_SHA256"
  | "CKM_RSA_PKCS"
  | "CKM_SHA256_RSA_PKCS"
  | "CKM_RSA_PKCS_PSS"
  | "CKM_SHA256_RSA_PKCS_PSS"
  | "CKM_RSA_PKCS_OAEP"
  | "CKM_RSA_X_509";

export interface MechanismRow {
  readonly type: MechanismType;
  /** CK_MECHANISM_TYPE (PKCS #11 2.40). */
  readonly value: bigint;
  readonly keyType: "ec" | "rsa";
  readonly operations: readonly Operation[];
  /** The digest that the mechanism's own name fixes; null: the policy says which, or there is none (`takesDigest`). */
  readonly hashes: DigestName | null;
  readonly parameters: "none" | "pss" | "oaep";
}

/** Every mechanism that a policy may name. */
export const MECHANISMS: readonly MechanismRow[] = [
  row("CKM_ECDSA", 0x1041n, "ec", ["sign"], null, "none"),
  row("CKM_ECDSA_SHA256", 0x1044n, "ec", ["sign"], "sha256", "none"),
  row("CKM_RSA_PKCS", 0x1n, "rsa", ["sign", "decrypt"], null, "none"),
  row("CKM_SHA256_RSA_PKCS", 0x40n, "rsa", ["sign"], "sha256", "none"),
  row("CKM_RSA_PKCS_PSS", 0xdn, "rsa", ["sign"], null, "pss"),
  row("CKM_SHA256_RSA_PKCS_PSS", 0x43n, "rsa", ["sign"], "sha256", "pss"),
  row("CKM_RSA_PKCS_OAEP", 0x9n, "rsa", ["decrypt", "unwrap"], null, "oaep"),
  row("CKM_RSA_X_509", 0x3n, "rsa", ["sign", "decrypt"], null, "none"),
];

export interface DigestRow {
  /** Bytes. */
  readonly size: number;
  /** CKM_SHAxxx, the `hashAlg` of CK_RSA_PKCS_PSS_PARAMS. */
  readonly mechanism: bigint;
  /** CKG_MGF1_SHAxxx. */
  readonly mgf: bigint;
  /** DER in front of the digest in a DigestInfo (RFC 8017, section 9.2, note 1). */
  readonly digestInfoPrefix: readonly number[];
}

export const DIGESTS: Readonly<Record<DigestName, DigestRow>> = {
  sha256: { size: 32, mechanism: 0x250n, mgf: 2n, digestInfoPrefix: digestInfoPrefix(1, 32) },
  sha384: { size: 48, mechanism: 0x260n, mgf: 3n, digestInfoPrefix: digestInfoPrefix(2, 48) },
  sha512: { size: 64, mechanism: 0x270n, mgf: 4n, digestInfoPrefix: digestInfoPrefix(3, 64) },
};

export const OAEP_DIGESTS: Readonly<Record<OaepDigestName, Pick<DigestRow, "size" | "mechanism" | "mgf">>> = {
  ...DIGESTS,
  sha1: { size: 20, mechanism: 0x220n, mgf: 1n },
};

/** The weakness that a mechanism has in this use; null for none that a policy would have to accept. */
export function riskOf(type: MechanismType, operation: Operation): AcceptedRisk | null {
  if (type === "CKM_RSA_X_509") return "raw-rsa";
  return type === "CKM_RSA_PKCS" && operation !== "sign" ? "padding-oracle" : null;
}

/** Is a digest part of what a mechanism does in this use? */
export function takesDigest(type: MechanismType, operation: Operation): boolean {
  return riskOf(type, operation) === null;
}

export function mechanismRow(type: MechanismType): MechanismRow {
  const found = MECHANISMS.find((candidate) => candidate.type === type);
  if (found === undefined) throw new TypeError(`mechanism type: ${type} has no row`);
  return found;
}

function row(
  type: MechanismType,
  value: bigint,
  keyType: "ec" | "rsa",
  operations: readonly Operation[],
  hashes: DigestName | null,
  parameters: MechanismRow["parameters"],
): MechanismRow {
  return { type, value, keyType, operations, hashes, parameters };
}

/** SEQUENCE { SEQUENCE { OID 2.16.840.1.101.3.4.2.<arc>, NULL }, OCTET STRING of `size` bytes }, up to the octets. */
function digestInfoPrefix(arc: number, size: number): readonly number[] {
  return [0x30, 17 + size, 0x30, 13, 6, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, arc, 5, 0, 4, size];
}
