import { type Operation, utf8 } from "../../policy/index.ts";
import type { BrokerKey } from "../broker/key.ts";
import { type AttributeValue, byteString, CKA, flag, ulong } from "./attributes.ts";

const CKO_PUBLIC_KEY = 2n;
const CKO_PRIVATE_KEY = 3n;
const CKK_RSA = 0n;
const CKK_EC = 3n;

/** @param subject of the key's certificate; empty for none */
export function commonAttributes(key: BrokerKey, subject: Uint8Array): [number, AttributeValue][] {
  return [
    [CKA.TOKEN, flag(true)],
    [CKA.LABEL, byteString(utf8(key.label))],
    [CKA.ID, byteString(key.id)],
    [CKA.KEY_TYPE, ulong(key.keyType === "rsa" ? CKK_RSA : CKK_EC)],
    [CKA.SUBJECT, byteString(subject)],
    [CKA.START_DATE, byteString(new Uint8Array())],
    [CKA.END_DATE, byteString(new Uint8Array())],
    [CKA.DERIVE, flag(false)],
    [CKA.MODIFIABLE, flag(false)],
    [CKA.COPYABLE, flag(false)],
    // By the protocol a byte string, unlike the other truth values.
    [CKA.DESTROYABLE, byteString(Uint8Array.of(0))],
    [CKA.PUBLIC_KEY_INFO, byteString(key.spki)],
    ...(key.keyType === "rsa"
      ? ([
          [CKA.MODULUS, byteString(key.modulus)],
          [CKA.PUBLIC_EXPONENT, byteString(key.exponent)],
        ] satisfies [number, AttributeValue][])
      : ([
          [CKA.EC_PARAMS, byteString(key.ecParams)],
          [CKA.EC_POINT, byteString(key.ecPoint)],
        ] satisfies [number, AttributeValue][])),
  ];
}

/** `does` is what the key is for, and all that it is for. */
export function privateAttributes(does: Operation | null, hasHistory: boolean): [number, AttributeValue][] {
  return [
    [CKA.CLASS, ulong(CKO_PRIVATE_KEY)],
    [CKA.PRIVATE, flag(true)],
    [CKA.SENSITIVE, flag(true)],
    [CKA.EXTRACTABLE, flag(false)],
    [CKA.ALWAYS_SENSITIVE, flag(hasHistory)],
    [CKA.NEVER_EXTRACTABLE, flag(hasHistory)],
    [CKA.SIGN, flag(does === "sign")],
    [CKA.SIGN_RECOVER, flag(false)],
    [CKA.DECRYPT, flag(does === "decrypt")],
    [CKA.UNWRAP, flag(does === "unwrap")],
    [CKA.ALWAYS_AUTHENTICATE, flag(false)],
    [CKA.WRAP_WITH_TRUSTED, flag(false)],
  ];
}

export function publicAttributes(key: BrokerKey, does: Operation | null): [number, AttributeValue][] {
  return [
    [CKA.CLASS, ulong(CKO_PUBLIC_KEY)],
    [CKA.PRIVATE, flag(false)],
    [CKA.ENCRYPT, flag(false)],
    [CKA.VERIFY, flag(does === "sign")],
    [CKA.VERIFY_RECOVER, flag(false)],
    [CKA.WRAP, flag(false)],
    ...(key.keyType === "rsa"
      ? ([[CKA.MODULUS_BITS, ulong(BigInt(key.bits))]] satisfies [number, AttributeValue][])
      : []),
  ];
}
