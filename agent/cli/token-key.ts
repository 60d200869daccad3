import {
  concatBytes,
  encodeSpkiPem,
  equalBytes,
  fromHex,
  parseVerificationKey,
  type SigningKey,
  sha256,
  verifySignature,
} from "../../policy/index.ts";
import type { SealError } from "../../seal/index.ts";
import type { Pkcs11Uri } from "./pkcs11-uri.ts";
import {
  asTokenError,
  findObjects,
  readAttribute,
  readTokenPin,
  type TokenSession,
  tokenError,
  withTokenSession,
} from "./token-session.ts";

// PKCS#11 v2.40, pkcs11t.h.
const CKU_CONTEXT_SPECIFIC = 2;
const CKO = { publicKey: 2, privateKey: 3 } as const;
const CKA = {
  class: 0x0,
  label: 0x3,
  keyType: 0x100,
  id: 0x102,
  sign: 0x108,
  modulus: 0x120,
  publicExponent: 0x122,
  ecParams: 0x180,
  ecPoint: 0x181,
  alwaysAuthenticate: 0x202,
} as const;
const CKK = { rsa: 0x0, ec: 0x3 } as const;
const CKM = { rsaPkcs: 0x1, ecdsa: 0x1041 } as const;

const P256_PARAMS = fromHex("06082a8648ce3d030107");
const P256_SPKI = fromHex("3059301306072a8648ce3d020106082a8648ce3d030107034200");
const RSA_SPKI = fromHex("30820122300d06092a864886f70d01010105000382010f003082010a0282010100");
const RSA_EXPONENT = fromHex("0203010001");
/** RFC 8017, section 9.2: the DigestInfo of SHA-256, without the digest. */
const SHA256_DIGEST_INFO = fromHex("3031300d060960864801650304020105000420");
const SIGNATURE_ROOM = 512;

/**
 * A key that stays on its token. Every signature has a log-in and a session of its own, closed before it is returned, and is verified
 * under the public half: a token may hold another key's public object beside it.
 *
 * @throws SealError ERR_KEY_TOKEN: no such key or two of them, another kind of key, or the token's own refusal. Never names the PIN.
 */
export async function openTokenKey(uri: Pkcs11Uri): Promise<SigningKey> {
  const pin = readTokenPin(uri.pinSource);
  const { PKCS11 } = await import("pkcs11js").catch((cause: unknown) => {
    throw tokenError("pkcs11js", "its native part, built by `npm test` or `npm start`", "none", cause);
  });
  const library = new PKCS11();
  asTokenError("library", () => library.load(uri.modulePath));
  const spkiPem = withTokenSession(library, uri, pin, (session) =>
    readPublicKey(session, findPrivateKey(session, uri)),
  );
  return {
    spkiPem,
    sign: async (data) => {
      const signature = withTokenSession(library, uri, pin, (session) => signOnce(session, uri, spkiPem, data));
      if (await verifySignature(spkiPem, data, signature)) return signature;
      throw tokenError("signature", "one of the public key beside it", "another key's");
    },
  };
}

function findPrivateKey(session: TokenSession, { object, id }: Pkcs11Uri): Buffer {
  const keys = findObjects(session, [
    { type: CKA.class, value: CKO.privateKey },
    ...(object === undefined ? [] : [{ type: CKA.label, value: object }]),
    ...(id === undefined ? [] : [{ type: CKA.id, value: Buffer.from(id) }]),
  ]);
  const [key, second] = keys;
  if (key === undefined) throw tokenError("private key", "one that the URI names", "none");
  if (second !== undefined)
    throw tokenError("private key", "one that the URI names", "two", undefined, "name its object and its id");
  return key;
}

/** The public object that shares the private key's CKA_ID. */
function readPublicKey(session: TokenSession, privateKey: Buffer): string {
  const id = readAttribute(session, privateKey, CKA.id);
  const keyType = readAttribute(session, privateKey, CKA.keyType).readUInt8(0);
  const [found, second] = findObjects(session, [
    { type: CKA.class, value: CKO.publicKey },
    { type: CKA.id, value: id },
  ]);
  if (id.length === 0 || found === undefined || second !== undefined) {
    const got = id.length === 0 ? "a key without an id" : found === undefined ? "none" : "two";
    throw tokenError("public key", "one with the private key's id", got);
  }
  const spki = keyType === CKK.ec ? readP256(session, found) : readRsa(session, found, keyType);
  const pem = encodeSpkiPem(spki);
  parseVerificationKey(pem);
  return pem;
}

function readP256(session: TokenSession, key: Buffer): Uint8Array {
  const point = readAttribute(session, key, CKA.ecPoint);
  // An OCTET STRING of the point; older tokens give the point alone.
  const raw = point.length === 67 && point[0] === 0x04 && point[1] === 65 ? point.subarray(2) : point;
  const isP256 = equalBytes(readAttribute(session, key, CKA.ecParams), P256_PARAMS);
  if (!isP256 || raw.length !== 65 || raw[0] !== 0x04) throw anotherKind("another curve");
  return concatBytes(P256_SPKI, raw);
}

function readRsa(session: TokenSession, key: Buffer, keyType: number): Uint8Array {
  if (keyType !== CKK.rsa) throw anotherKind("another kind");
  const modulus = withoutZeros(readAttribute(session, key, CKA.modulus));
  const exponent = withoutZeros(readAttribute(session, key, CKA.publicExponent));
  if (modulus.length !== 256 || !equalBytes(exponent, RSA_EXPONENT.subarray(2)))
    throw anotherKind(`RSA-${modulus.length * 8} with exponent 0x${exponent.toString("hex").slice(0, 16)}`);
  return concatBytes(RSA_SPKI, modulus, RSA_EXPONENT);
}

function withoutZeros(value: Buffer): Buffer {
  const first = value.findIndex((byte) => byte !== 0);
  return value.subarray(first < 0 ? value.length : first);
}

function anotherKind(got: string): SealError {
  return tokenError("public key", "ECDSA P-256, or RSA-2048 with exponent 65537", got);
}

function signOnce(session: TokenSession, uri: Pkcs11Uri, spkiPem: string, data: Uint8Array): Uint8Array {
  const { library, handle, pin } = session;
  const key = findPrivateKey(session, uri);
  const digest = sha256(data);
  const ec = parseVerificationKey(spkiPem).kind === "p256";
  const input = Buffer.from(ec ? digest : concatBytes(SHA256_DIGEST_INFO, digest));
  return asTokenError("C_Sign", () => {
    library.C_SignInit(handle, { mechanism: ec ? CKM.ecdsa : CKM.rsaPkcs }, key);
    if (asksEachTime(session, key)) library.C_Login(handle, CKU_CONTEXT_SPECIFIC, pin);
    return Uint8Array.from(library.C_Sign(handle, input, Buffer.alloc(SIGNATURE_ROOM)));
  });
}

/** CKA_ALWAYS_AUTHENTICATE, as a PIV card's signature key has it. Libraries that do not know the attribute do not ask. */
function asksEachTime({ library, handle }: TokenSession, key: Buffer): boolean {
  try {
    const [found] = library.C_GetAttributeValue(handle, key, [{ type: CKA.alwaysAuthenticate }]);
    return Buffer.isBuffer(found?.value) && found.value[0] === 1;
  } catch {
    return false;
  }
}
