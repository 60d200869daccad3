import { equalBytes, fromHex } from "../policy/index.ts";
import { AttestError } from "./errors.ts";
import { encodeTpmPublic, type TpmPublic, tpmAlg } from "./tpm-structures.ts";

/** Templates of the TCG EK Credential Profile (version 2.6, annexes B.3 and B.4) that this project knows, by their names there. */
export const ekProfileNames = ["L-1", "L-2", "H-1", "H-2", "H-3"] as const;
export type EkProfileName = (typeof ekProfileNames)[number];

/** The same five, by key and range; `high` is the range above 0x01c00012, whose keys also take an empty password. */
export type EndorsementKeyKind = "rsa2048" | "p256" | "p384" | "rsa2048-high" | "p256-high";

/** The public key of an EK, without its template. Coordinates have the size of the field. */
export type EkKey =
  | { readonly kind: "rsa"; readonly modulus: Uint8Array }
  | { readonly kind: "ecc"; readonly curve: number; readonly x: Uint8Array; readonly y: Uint8Array };

/** Everything that a template fixes, and where a TPM keeps the key and its certificate. */
export interface EkProfile {
  readonly name: EkProfileName;
  readonly kind: EndorsementKeyKind;
  readonly key:
    | { readonly kind: "rsa"; readonly bytes: 256 }
    | { readonly kind: "ecc"; readonly curve: number; readonly bytes: 32 | 48 };
  /** nameAlg, which a policy session for this key must have. */
  readonly hash: "sha256" | "sha384";
  /** Size of `hash` in bytes. */
  readonly hashSize: 32 | 48;
  /** AES key size of the storage wrapping, in bits. */
  readonly symmetricBits: 128 | 256;
  /** TPMA_OBJECT. */
  readonly attributes: number;
  readonly authPolicy: Uint8Array;
  /**
   * The policies that PolicyOR joins after PolicySecret(endorsement); empty when PolicySecret is all. A key of the high range would
   * take the empty password too, but such a use counts for the dictionary-attack lockout when the power is cut after it.
   */
  readonly alternatives: readonly Uint8Array[];
  /** NV index of the certificate. */
  readonly certificateIndex: number;
  /** Where swtpm and provisioning tools keep the key: 0x8101 and the low half of the certificate's index, L-1 excepted. */
  readonly persistentHandle: number;
  /** Bytes of each part of `unique` in the template: zeros in the low range, nothing in the high one. */
  readonly templateUnique: number;
}

/** TPM_ECC_CURVE. */
export const eccCurve = { p256: 0x0003, p384: 0x0004 } as const;

/** fixedTPM, fixedParent, sensitiveDataOrigin, adminWithPolicy, restricted, decrypt; the high range has userWithAuth as well. */
const lowAttributes = 0x0003_00b2;
const highAttributes = 0x0003_00f2;

// PolicyA is PolicySecret(TPM_RH_ENDORSEMENT), PolicyC is PolicyAuthorizeNV of an index not used here, PolicyB joins them by PolicyOR.
const policyA = {
  sha256: fromHex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa"),
  sha384: fromHex("8bbf2266537c171cb56e403c4dc1d4b64f432611dc386e6f532050c3278c930e143e8bb1133824ccb431053871c6db53"),
} as const;
const policyC = {
  sha256: fromHex("3767e2edd43ff45a3a7e1eaefcef78643dca964632e7aad82c673a30d8633fde"),
  sha384: fromHex("d6032ce61f2fb3c240eb3cf6a33237ef2b6a16f4293c22b455e261cffd217ad5b4947c2d73e63005eed2dc2b3593d165"),
} as const;
const policyB = {
  sha256: fromHex("ca3d0a99a2b93906f7a3342414efcfb3a385d44cd1fd459089d19b5071c0b7a0"),
  sha384: fromHex("b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12"),
} as const;

const sha256 = { hash: "sha256", hashSize: 32, symmetricBits: 128 } as const;
const sha384 = { hash: "sha384", hashSize: 48, symmetricBits: 256 } as const;
const low = { attributes: lowAttributes, authPolicy: policyA.sha256, alternatives: [] } as const;
const high = (hash: "sha256" | "sha384") => ({
  ...{ attributes: highAttributes, authPolicy: policyB[hash], alternatives: [policyA[hash], policyC[hash]] },
  templateUnique: 0,
});
const rsa = { kind: "rsa", bytes: 256 } as const;
const p256 = { kind: "ecc", curve: eccCurve.p256, bytes: 32 } as const;
const p384 = { kind: "ecc", curve: eccCurve.p384, bytes: 48 } as const;

/** The one table of endorsement keys: whatever else knows about a template takes it from here. */
export const ekProfiles: Readonly<Record<EndorsementKeyKind, EkProfile>> = {
  rsa2048: {
    ...{ name: "L-1", kind: "rsa2048", key: rsa, ...sha256, ...low, templateUnique: 256 },
    ...{ certificateIndex: 0x01c00002, persistentHandle: 0x81010001 },
  },
  p256: {
    ...{ name: "L-2", kind: "p256", key: p256, ...sha256, ...low, templateUnique: 32 },
    ...{ certificateIndex: 0x01c0000a, persistentHandle: 0x8101000a },
  },
  "rsa2048-high": {
    ...{ name: "H-1", kind: "rsa2048-high", key: rsa, ...sha256, ...high("sha256") },
    ...{ certificateIndex: 0x01c00012, persistentHandle: 0x81010012 },
  },
  "p256-high": {
    ...{ name: "H-2", kind: "p256-high", key: p256, ...sha256, ...high("sha256") },
    ...{ certificateIndex: 0x01c00014, persistentHandle: 0x81010014 },
  },
  p384: {
    ...{ name: "H-3", kind: "p384", key: p384, ...sha384, ...high("sha384") },
    ...{ certificateIndex: 0x01c00016, persistentHandle: 0x81010016 },
  },
};

const everyProfile = Object.values(ekProfiles);

/** The profile of that name. Total: the type names no other. */
export function ekProfileNamed(name: EkProfileName): EkProfile {
  const found = everyProfile.find((profile) => profile.name === name);
  if (found === undefined) throw new TypeError(`EK profile: ${name}`);
  return found;
}

/** The profile of that name, or null when a text names none. */
export function readEkProfileName(text: unknown): EkProfileName | null {
  return ekProfileNames.find((name) => name === text) ?? null;
}

/** Does the certificate's NV index belong to a known profile? Says nothing about what is in the index. */
export function ekProfileOfCertificateIndex(nvIndex: number): EkProfile | null {
  return everyProfile.find(({ certificateIndex }) => certificateIndex === nvIndex) ?? null;
}

/**
 * Profiles that a key can have, the most common first: L-1 or L-2 before H-1 or H-2, which have the same kind of key. A certificate
 * does not say which one was used.
 */
export function ekProfilesOfKey(key: EkKey): readonly EkProfile[] {
  return everyProfile.filter((profile) =>
    key.kind === "rsa"
      ? profile.key.kind === "rsa" && key.modulus.length === profile.key.bytes
      : profile.key.kind === "ecc" && key.curve === profile.key.curve,
  );
}

/** The usual profile of such a key: L-1, L-2 or H-3. @throws AttestError `ERR_ENDORSEMENT_REFUSED` for a key of none */
export function defaultEkProfile(key: EkKey): EkProfile {
  const [usual] = ekProfilesOfKey(key);
  if (usual !== undefined) return usual;
  const got = key.kind === "rsa" ? `RSA ${8 * key.modulus.length}` : `curve ${key.curve}`;
  throw new AttestError("ERR_ENDORSEMENT_REFUSED", "ek key", { expected: "RSA 2048, P-256 or P-384", got });
}

/**
 * The profile of a public area that a machine states, or null where it is of none: every field but the key itself is compared.
 * Establishes nothing about the machine: it is what the machine says.
 */
export function ekProfileOfPublic(area: TpmPublic): EkProfile | null {
  const stated = encodeTpmPublic(area);
  return (
    ekProfilesOfKey(area).find((profile) => equalBytes(encodeTpmPublic(publicArea(profile, area)), stated)) ?? null
  );
}

/**
 * TPMT_PUBLIC of the EK with this key, as TPM2_CreatePrimary would give it.
 * @throws AttestError `ERR_ENDORSEMENT_REFUSED` for a key that the profile does not have
 */
export function ekPublic(profile: EkProfile, key: EkKey): TpmPublic {
  if (ekProfilesOfKey(key).includes(profile)) return publicArea(profile, key);
  const names = ekProfilesOfKey(key).map(({ name }) => name);
  throw new AttestError("ERR_ENDORSEMENT_REFUSED", "ek profile", {
    expected: names.join(" or ") || "a key of a known profile",
    got: profile.name,
    hint: "the certificate must be that of the endorsement key which the machine uses",
  });
}

/** The template: what TPM2_CreatePrimary in the endorsement hierarchy makes this TPM's EK from. */
export function ekTemplate(profile: EkProfile): Uint8Array {
  const part = new Uint8Array(profile.templateUnique);
  const { key } = profile;
  const unique = key.kind === "rsa" ? { kind: key.kind, modulus: part } : { ...key, x: part, y: part };
  return encodeTpmPublic(publicArea(profile, unique));
}

function publicArea(profile: EkProfile, key: EkKey): TpmPublic {
  const common = {
    nameAlg: tpmAlg[profile.hash],
    attributes: profile.attributes,
    authPolicy: profile.authPolicy,
    symmetric: { algorithm: tpmAlg.aes, keyBits: profile.symmetricBits, mode: tpmAlg.cfb },
    scheme: null,
  };
  if (key.kind === "ecc") return { kind: "ecc", ...common, curve: key.curve, x: key.x, y: key.y };
  return { kind: "rsa", ...common, keyBits: 8 * profile.key.bytes, exponent: 0, modulus: key.modulus };
}
