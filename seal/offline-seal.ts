import { measureObjectPolicy, ROOT_POLICY_REF, type SigningKey } from "../policy/index.ts";
import { openEkCertificate } from "./ek-public.ts";
import { SealError } from "./errors.ts";
import { encodeImportBlob } from "./import-blob.ts";
import { signSealedPackage } from "./package.ts";

/** Size of the sealed data: u8 length, PIN, zeros. The same for every PIN, so that its length does not show. */
export const SEALED_DATA_BYTES = 64;

export interface OfflineSeal {
  /** DER. Its chain must have been verified: whoever can swap it receives the PIN. */
  readonly ekCertificate: Uint8Array;
  /** 1 to 63 bytes. Wiped by `sealOffline` before it settles, whatever the outcome. */
  readonly pin: Uint8Array;
  /** Release root, SubjectPublicKeyInfo PEM: only releases under it open the seal, for ever. */
  readonly rootKeyPem: string;
  readonly name: string;
  readonly generation: number;
  readonly tokenSerial: string;
  readonly operator: SigningKey;
}

/**
 * Seals a PIN for one TPM, without that TPM: its EK certificate is enough. Returns the signed package.
 *
 * @throws SealError ERR_SEAL_INPUT, ERR_SEAL_EK, ERR_SEALED_MALFORMED; PolicyError ERR_KEY_MALFORMED
 */
export async function sealOffline(input: OfflineSeal): Promise<Uint8Array> {
  const data = new Uint8Array(SEALED_DATA_BYTES);
  try {
    padPin(input.pin, data);
    const ek = openEkCertificate(input.ekCertificate);
    const blob = encodeImportBlob(ek, measureObjectPolicy(input.rootKeyPem), data);
    const { name, generation, tokenSerial } = input;
    const sealed = {
      version: 1 as const,
      name,
      generation,
      tokenSerial,
      ekName: ek.name,
      policyRef: ROOT_POLICY_REF,
      ...blob,
    };
    return await signSealedPackage(sealed, input.operator);
  } finally {
    data.fill(0);
    input.pin.fill(0);
  }
}

function padPin(pin: Uint8Array, data: Uint8Array): void {
  if (pin.length < 1 || pin.length >= data.length) {
    throw new SealError("ERR_SEAL_INPUT", "PIN", {
      expected: `1 to ${data.length - 1} bytes`,
      got: pin.length === 0 ? "none" : "more",
    });
  }
  data[0] = pin.length;
  data.set(pin, 1);
}
