import { createHash, type KeyObject } from "node:crypto";
import { ekCertificateKey } from "../attest/index.ts";
import { ByteWriter, concatBytes, fromHex } from "../policy/index.ts";
import { SealError } from "./errors.ts";

/** What an EK template fixes: TCG EK Credential Profile, L-1 (RSA-2048) and H-3 (P-384). */
export interface EkProfile {
  readonly kind: "L-1" | "H-3";
  readonly hash: "sha256" | "sha384";
  /** Size of `hash` in bytes. */
  readonly hashSize: 32 | 48;
  /** AES key size of the storage wrapping, in bits. */
  readonly symmetricBits: 128 | 256;
  readonly persistentHandle: number;
}

/** An endorsement key rebuilt from its certificate: what TPM2_ReadPublic would return, without a TPM. */
export interface EkPublic {
  readonly profile: EkProfile;
  readonly key: KeyObject;
  /** TPMT_PUBLIC, no size in front. */
  readonly tpmtPublic: Uint8Array;
  /** nameAlg || H(TPMT_PUBLIC). */
  readonly name: Uint8Array;
}

export const EK_L1: EkProfile = {
  kind: "L-1",
  hash: "sha256",
  hashSize: 32,
  symmetricBits: 128,
  persistentHandle: 0x8101_0001,
};
export const EK_H3: EkProfile = {
  kind: "H-3",
  hash: "sha384",
  hashSize: 48,
  symmetricBits: 256,
  persistentHandle: 0x8101_0016,
};

const L1_POLICY = fromHex("837197674484b3f81a90cc8d46a5d724fd52d76e06520b64f2a1da1b331469aa");
const H3_POLICY = fromHex(
  "b26e7d28d11a50bc53d882bcf5fd3a1a074148bb35d3b4e4cb1c0ad9bde419cacb47ba09699646150f9fc000f3f80e12",
);

/** The profile whose Name algorithm and size this is, or null. */
export function ekProfileOfName(name: Uint8Array): EkProfile | null {
  const nameAlg = ((name[0] ?? 0) << 8) | (name[1] ?? 0);
  if (name.length === 34 && nameAlg === 0x000b) return EK_L1;
  return name.length === 50 && nameAlg === 0x000c ? EK_H3 : null;
}

/**
 * Rebuilds the EK's public area from the certificate's key and the standard template.
 * Does not verify the certificate: chain, roots and purpose must be verified first, see `attest`.
 *
 * @throws SealError ERR_SEAL_EK when the bytes are no certificate or the key is neither RSA-2048 nor P-384
 */
export function openEkCertificate(der: Uint8Array): EkPublic {
  const key = readKey(der);
  const jwk = exportJwk(key);
  const field = (value: string | undefined) => Uint8Array.from(Buffer.from(value ?? "", "base64url"));
  if (jwk.kty === "RSA" && field(jwk.n).length === 256 && jwk.e === "AQAB") {
    return finish(EK_L1, 0x000b, key, rsaPublic(field(jwk.n)));
  }
  if (jwk.kty === "EC" && jwk.crv === "P-384") return finish(EK_H3, 0x000c, key, eccPublic(field(jwk.x), field(jwk.y)));
  throw new SealError("ERR_SEAL_EK", "EK certificate key", {
    expected: "RSA-2048 with exponent 65537, or ECC P-384",
    got: `${jwk.kty ?? "?"} ${jwk.crv ?? ""}`.trim(),
  });
}

function readKey(der: Uint8Array): KeyObject {
  try {
    return ekCertificateKey(der);
  } catch (cause) {
    throw new SealError("ERR_SEAL_EK", "EK certificate", {
      expected: "an X.509 certificate in DER",
      got: `${der.length} bytes`,
      cause,
    });
  }
}

/** Only its type for a key that has no JWK form (DSA, most curves): it is none of the two that an EK has. */
function exportJwk(key: KeyObject): Readonly<Partial<Record<"kty" | "crv" | "n" | "e" | "x" | "y", string>>> {
  try {
    return key.export({ format: "jwk" });
  } catch {
    return { kty: key.asymmetricKeyType ?? "unknown" };
  }
}

function finish(profile: EkProfile, nameAlg: number, key: KeyObject, tpmtPublic: Uint8Array): EkPublic {
  const digest = createHash(profile.hash).update(tpmtPublic).digest();
  return {
    profile,
    key,
    tpmtPublic,
    name: concatBytes(new ByteWriter().u16(nameAlg).finish(), digest),
  };
}

// fixedTPM, fixedParent, sensitiveDataOrigin, adminWithPolicy, restricted, decrypt; H-3 has userWithAuth as well.
function rsaPublic(modulus: Uint8Array): Uint8Array {
  const head = new ByteWriter().u16(0x0001).u16(0x000b).u32(0x0003_00b2).sized16(L1_POLICY);
  return head.u16(0x0006).u16(128).u16(0x0043).u16(0x0010).u16(2048).u32(0).sized16(modulus).finish();
}

function eccPublic(x: Uint8Array, y: Uint8Array): Uint8Array {
  const head = new ByteWriter().u16(0x0023).u16(0x000c).u32(0x0003_00f2).sized16(H3_POLICY);
  return head.u16(0x0006).u16(256).u16(0x0043).u16(0x0010).u16(0x0004).u16(0x0010).sized16(x).sized16(y).finish();
}
