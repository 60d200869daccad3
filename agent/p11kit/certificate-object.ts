import { type CertificateParts, fromBase64, type Policy, parseCertificate, utf8 } from "../../policy/index.ts";
import type { BrokerKey } from "../broker/key.ts";
import { type AttributeValue, byteString, CKA, flag, ulong } from "./attributes.ts";

const CKO_CERTIFICATE = 1n;
const CKC_X_509 = 0n;
const CK_CERTIFICATE_CATEGORY_UNSPECIFIED = 0n;

export type KeyCertificate = CertificateParts;

/** Read once for each policy: narrowing replaces it. */
const read = new WeakMap<Policy["certificates"], Map<string, KeyCertificate | null>>();

/** The certificate that the policy has for a key of its own; null for none. Nobody has verified it but for its public key. */
export function certificateOf({ certificates }: Policy, key: string): KeyCertificate | null {
  const known = read.get(certificates) ?? new Map<string, KeyCertificate | null>();
  read.set(certificates, known);
  const base64 = Object.hasOwn(certificates, key) ? certificates[key] : undefined;
  const certificate = known.get(key) ?? (base64 === undefined ? null : parseCertificate(fromBase64(base64)));
  known.set(key, certificate);
  return certificate;
}

/** By CKA_ID and CKA_LABEL it belongs to the key. Never trusted: it is there to be found, not to be believed. */
export function certificateAttributes(
  key: BrokerKey,
  { der, serial, issuer, subject, spki }: KeyCertificate,
): readonly [number, AttributeValue][] {
  return [
    [CKA.CLASS, ulong(CKO_CERTIFICATE)],
    [CKA.TOKEN, flag(true)],
    [CKA.PRIVATE, flag(false)],
    [CKA.LABEL, byteString(utf8(key.label))],
    [CKA.ID, byteString(key.id)],
    [CKA.CERTIFICATE_TYPE, ulong(CKC_X_509)],
    [CKA.CERTIFICATE_CATEGORY, ulong(CK_CERTIFICATE_CATEGORY_UNSPECIFIED)],
    [CKA.TRUSTED, flag(false)],
    [CKA.SUBJECT, byteString(subject)],
    [CKA.ISSUER, byteString(issuer)],
    [CKA.SERIAL_NUMBER, byteString(serial)],
    [CKA.VALUE, byteString(der)],
    [CKA.PUBLIC_KEY_INFO, byteString(spki)],
    [CKA.START_DATE, byteString(new Uint8Array())],
    [CKA.END_DATE, byteString(new Uint8Array())],
    [CKA.MODIFIABLE, flag(false)],
    [CKA.COPYABLE, flag(false)],
    // By the protocol a byte string, unlike the other truth values.
    [CKA.DESTROYABLE, byteString(Uint8Array.of(0))],
  ];
}
