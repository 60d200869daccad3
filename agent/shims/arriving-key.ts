import { constants, createPublicKey, type KeyObject, publicEncrypt, randomBytes, verify } from "node:crypto";
import { concatBytes, DIGESTS, equalBytes, OAEP_DIGESTS, sha256 } from "../../policy/index.ts";
import type { UnwrapKeyRequest } from "../broker/index.ts";
import { AgentError } from "../errors.ts";
import type { Shim } from "../shim-client.ts";
import type { ArrivingKey } from "./arrivals.ts";
import type { KeyPlace } from "./domain-shim.ts";

const CKM_RSA_PKCS_OAEP = 0x9n;
const CKK = { rsa: 0x0n, ec: 0x3n } as const;

/** What a token's trust domain does with a key that is to come in. */
export function arrivingKey(request: UnwrapKeyRequest): ArrivingKey {
  const { key: by, place: name, where, blob, stillAllowed, label, id } = request;
  const nameless = { where: "session", label: "", id: new Uint8Array() } as const;
  return {
    ...{ name, by, where, blob, stillAllowed },
    tryOut: (shim, place) => shim.unwrap({ ...place, ...shimRequest(request), ...nameless }),
    unwrap: (shim, place) => shim.unwrap({ ...place, ...shimRequest(request), where, label, id }),
    prove: (shim, place) => prove(shim, place, request),
  };
}

function shimRequest({ mechanism, wrapped, keyType, does, allowed }: UnwrapKeyRequest) {
  return {
    ...{ mechanism: mechanism.value, oaep: mechanism.oaep, wrapped, objectClass: "private" as const },
    ...{ keyType: CKK[keyType], use: does, allowedMechanisms: allowed },
  };
}

/**
 * One real operation: what came in is the private half of the public key that the policy gives, and does what it is to do. Until then it is
 * used for nothing else.
 * @throws AgentError `ERR_KEY_MISMATCH`
 */
async function prove(shim: Shim, place: KeyPlace, { spki, does, keyType, allowed }: UnwrapKeyRequest): Promise<void> {
  const publicKey = createPublicKey({ key: Buffer.from(spki), format: "der", type: "spki" });
  const good =
    does === "decrypt"
      ? await decrypts(shim, place, publicKey)
      : await signs(shim, place, { publicKey, keyType, allowed });
  if (!good) throw new AgentError("ERR_KEY_MISMATCH", "key", { expected: "that of the policy", got: "another one" });
}

interface Signer {
  readonly publicKey: KeyObject;
  readonly keyType: "ec" | "rsa";
  readonly allowed: readonly bigint[];
}

async function signs(shim: Shim, place: KeyPlace, { publicKey, keyType, allowed }: Signer): Promise<boolean> {
  const message = randomBytes(32);
  const digest = sha256(message);
  if (keyType === "ec") {
    const signature = await shim.sign({ ...place, mechanism: 0x1041n, pss: null, data: digest });
    return verify("sha256", message, { key: publicKey, dsaEncoding: "ieee-p1363" }, signature);
  }
  const { mechanism: hash, mgf, digestInfoPrefix } = DIGESTS.sha256;
  if (allowed.includes(0x1n)) {
    const data = concatBytes(Uint8Array.from(digestInfoPrefix), digest);
    return verify("sha256", message, publicKey, await shim.sign({ ...place, mechanism: 0x1n, pss: null, data }));
  }
  const signature = await shim.sign({ ...place, mechanism: 0xdn, pss: { hash, mgf, saltLength: 32n }, data: digest });
  const padding = { key: publicKey, padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: 32 };
  return verify("sha256", message, padding, signature);
}

/** Many tokens know OAEP by SHA-1 only. */
async function decrypts(shim: Shim, place: KeyPlace, publicKey: KeyObject): Promise<boolean> {
  let refused: unknown = null;
  for (const oaepHash of ["sha256", "sha1"] as const) {
    const secret = new Uint8Array(randomBytes(32));
    const padding = { key: publicKey, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash };
    const ciphertext = new Uint8Array(publicEncrypt(padding, secret));
    const { mechanism: hash, mgf } = OAEP_DIGESTS[oaepHash];
    const oaep = { hash, mgf, label: new Uint8Array() };
    try {
      return equalBytes(await shim.decrypt({ ...place, mechanism: CKM_RSA_PKCS_OAEP, oaep, ciphertext }), secret);
    } catch (error) {
      if (!(error instanceof AgentError) || error.code !== "ERR_SHIM_REFUSED") throw error;
      refused = error;
    }
  }
  throw refused;
}
