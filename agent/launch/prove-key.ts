import { constants, createPublicKey, type KeyObject, publicEncrypt, randomBytes, verify } from "node:crypto";
import { reason } from "../../attest/index.ts";
import { equalBytes, mechanismRow, sha256 } from "../../policy/index.ts";
import { AgentError } from "../errors.ts";
import type { OaepParameters, Shim } from "../shim-client.ts";
import type { KeyPlace } from "../shims/domain-shim.ts";
import { Refusal } from "./environment.ts";
import type { ServedKey } from "./keys.ts";

const CKM_RSA_PKCS_OAEP = 0x9n;
const CKK_AES = 0x1fn;

/** Ways in which the same message is sealed for an RSA key: tokens know one of them at least. CKM_ of the hash, CKG_ of the mask. */
const OAEP: readonly { readonly name: string; readonly hash: bigint; readonly mgf: bigint }[] = [
  { name: "sha256", hash: 0x250n, mgf: 2n },
  { name: "sha1", hash: 0x220n, mgf: 1n },
];

/**
 * One real operation of the kind that the key is for: the private key that this shim reaches belongs to the public key that the
 * policy names.
 * @throws Refusal when it does not; AgentError when the shim fails
 */
export async function proveKeyPair(shim: Shim, { name, does, spki }: ServedKey, place: KeyPlace): Promise<void> {
  const publicKey = createPublicKey({ key: Buffer.from(spki), format: "der", type: "spki" });
  const wrong = await PROOFS[does](shim, publicKey, place);
  if (wrong !== null)
    throw new Refusal([reason("key-mismatch", name, `a ${wrong} of the named public key`, `another ${wrong}`)]);
}

type Proof = (shim: Shim, publicKey: KeyObject, place: KeyPlace) => Promise<string | null>;

const PROOFS: Readonly<Record<ServedKey["does"], Proof>> = {
  sign: proveSignature,
  decrypt: (shim, publicKey, place) =>
    proveByOaep(publicKey, "plaintext", async (oaep, ciphertext, secret) => {
      const plaintext = await shim.decrypt({ ...place, mechanism: CKM_RSA_PKCS_OAEP, oaep, ciphertext });
      return equalBytes(plaintext, secret);
    }),
  // The key that comes out cannot be looked at: that one of these bytes came out at all is what only the right key can do.
  unwrap: (shim, publicKey, place) =>
    proveByOaep(publicKey, "wrapped key", async (oaep, wrapped) => {
      const kind = { objectClass: "secret", keyType: CKK_AES, use: "decrypt", where: "session" } as const;
      const nothing = { allowedMechanisms: [], label: "", id: new Uint8Array() };
      await shim.unwrap({ ...place, ...kind, ...nothing, mechanism: CKM_RSA_PKCS_OAEP, oaep, wrapped });
      return true;
    }),
};

async function proveSignature(shim: Shim, publicKey: KeyObject, place: KeyPlace): Promise<string | null> {
  const message = randomBytes(32);
  const isEc = publicKey.asymmetricKeyType === "ec";
  const mechanism = mechanismRow(isEc ? "CKM_ECDSA" : "CKM_SHA256_RSA_PKCS").value;
  const signature = await shim.sign({ ...place, mechanism, pss: null, data: isEc ? sha256(message) : message });
  const key = isEc ? ({ key: publicKey, dsaEncoding: "ieee-p1363" } as const) : publicKey;
  return verify("sha256", message, key, signature) ? null : "signature";
}

/** The first of the ways that the token takes. A refusal of all is the last one's error. */
async function proveByOaep(
  publicKey: KeyObject,
  what: string,
  open: (oaep: OaepParameters, sealed: Uint8Array, secret: Uint8Array) => Promise<boolean>,
): Promise<string | null> {
  let refused: unknown = new AgentError("ERR_LAUNCH", "key", { expected: "an RSA key", got: "another one" });
  if (publicKey.asymmetricKeyType !== "rsa") throw refused;
  for (const { name, hash, mgf } of OAEP) {
    const secret = new Uint8Array(randomBytes(32));
    const padding = { key: publicKey, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: name };
    try {
      const sealed = new Uint8Array(publicEncrypt(padding, secret));
      return (await open({ hash, mgf, label: new Uint8Array() }, sealed, secret)) ? null : what;
    } catch (error) {
      if (!(error instanceof AgentError) || error.code !== "ERR_SHIM_REFUSED") throw error;
      refused = error;
    }
  }
  throw refused;
}
