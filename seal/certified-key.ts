import { createHash } from "node:crypto";
import { TpmObject, type Tpm as Tss } from "node-tpm2-tss";
import type { KeyCertificate } from "../attest/index.ts";
import { fromHex } from "../policy/index.ts";

/**
 * TPMT_PUBLIC: ECC, nameAlg SHA-256, attributes 0x40472 (fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, sign), no
 * policy, symmetric NULL, ECDSA with SHA-256, P-256, KDF NULL, both coordinates empty. Not restricted: what it signs was hashed outside.
 */
const TEMPLATE = fromHex("0023000b00040472000000100018000b0003001000000000");

/** A key of this TPM and this boot, which an attestation key has certified. */
export interface CertifiedKey {
  readonly certificate: KeyCertificate;
  /** Its Name: nameAlg SHA-256, then the digest of its public area. */
  readonly name: Uint8Array;
  /** TPMT_SIGNATURE over SHA-256 of the message. @throws TpmError */
  sign(message: Uint8Array): Promise<Uint8Array>;
}

/**
 * Makes a signing key in the null hierarchy, whose seed ends with the boot, and has `ak` certify it with TPM2_Certify. Between two
 * signatures the key is a saved context: a TPM has room for three objects.
 * @param purpose the certificate's extraData, at most 64 bytes: what the key is for
 * @throws TpmError
 */
export async function createCertifiedKey(tss: Tss, ak: TpmObject, purpose: Uint8Array): Promise<CertifiedKey> {
  await using key = await tss.createPrimary("null", TEMPLATE);
  const { attest, signature } = await tss.certify(key, ak, purpose);
  const context = await tss.contextSave(key);
  return {
    certificate: { publicArea: key.publicArea, attest, signature },
    name: key.name,
    sign: async (message) => {
      await using loaded = await loadObject(tss, context);
      return await tss.sign(loaded, createHash("sha256").update(message).digest());
    },
  };
}

/** A saved object. @throws TpmError, also when it was saved before the TPM was reset */
export async function loadObject(tss: Tss, context: Uint8Array): Promise<TpmObject> {
  const loaded = await tss.contextLoad(context);
  if (loaded instanceof TpmObject) return loaded;
  throw new TypeError("saved object: came back as a session");
}
