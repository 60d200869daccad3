import { createCipheriv, randomBytes } from "node:crypto";
import { CREDENTIAL_NAME, concatBytes, measureObjectPolicy, type SigningKey } from "../policy/index.ts";
import { openEkCertificate } from "./ek-public.ts";
import { SealError } from "./errors.ts";
import { encodeImportBlob } from "./import-blob.ts";
import {
  type CredentialLabel,
  encodeCredentialLabel,
  SEALED_KEY_BYTES,
  type SealedPackage,
  signSealedPackage,
} from "./package.ts";
import { NONCE_BYTES, padSecret } from "./padding.ts";

/** Size of the secret of a `volume-key` credential: 64 bytes for XTS-AES-256, 32 for HMAC-SHA-256. */
export const VOLUME_KEY_BYTES = 96;

export interface OfflineSeal {
  /** DER. Its chain must have been verified: whoever can swap it receives the secret. */
  readonly ekCertificate: Uint8Array;
  /** 1 to 32766 bytes. Wiped by `sealOffline` before it settles, whatever the outcome. */
  readonly secret: Uint8Array;
  /** Release root, SubjectPublicKeyInfo PEM: only releases under it open the seal, for ever. */
  readonly rootKeyPem: string;
  readonly label: Omit<CredentialLabel, "ekName">;
  readonly operator: SigningKey;
}

/**
 * Seals a secret for one TPM, without that TPM: its EK certificate is enough. Returns the signed package.
 * The TPM holds a key of 32 bytes and the package the secret encrypted under it, whatever the secret's size: one way for all.
 *
 * @throws SealError ERR_SEAL_INPUT, ERR_SEAL_EK, ERR_SEALED_MALFORMED; PolicyError ERR_KEY_MALFORMED
 */
export async function sealOffline({
  ekCertificate,
  secret,
  rootKeyPem,
  label,
  operator,
}: OfflineSeal): Promise<Uint8Array> {
  const key = randomBytes(SEALED_KEY_BYTES);
  try {
    if (!CREDENTIAL_NAME.test(label.name)) {
      const got = JSON.stringify(label.name);
      throw new SealError("ERR_SEAL_INPUT", "credential name", { expected: "1 to 32 of a-z, 0-9 and -", got });
    }
    const ek = openEkCertificate(ekCertificate);
    const complete = { ...label, ekName: ek.name };
    const sealed: SealedPackage = {
      version: 2,
      ...complete,
      ...encodeImportBlob(ek, measureObjectPolicy(rootKeyPem, label.name), key),
      ...encryptSecret(key, secret, encodeCredentialLabel(complete)),
    };
    return await signSealedPackage(sealed, operator);
  } finally {
    key.fill(0);
    secret.fill(0);
  }
}

function encryptSecret(
  key: Uint8Array,
  secret: Uint8Array,
  label: Uint8Array,
): { readonly nonce: Uint8Array; readonly ciphertext: Uint8Array } {
  const padded = padSecret(secret);
  try {
    const nonce = Uint8Array.from(randomBytes(NONCE_BYTES));
    const cipher = createCipheriv("aes-256-gcm", key, nonce);
    cipher.setAAD(label);
    return { nonce, ciphertext: concatBytes(cipher.update(padded), cipher.final(), cipher.getAuthTag()) };
  } finally {
    padded.fill(0);
  }
}
