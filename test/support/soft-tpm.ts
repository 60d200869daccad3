import { constants, createDecipheriv, createHmac, createPrivateKey, privateDecrypt, randomBytes } from "node:crypto";
import { type TrustAnchor, tpmName, verifyEndorsement } from "../../attest/index.ts";
import { toHex } from "../../policy/index.ts";
import { EXTENSIONS, type MadeCertificate, makeCertificate } from "./certificates.ts";
import { type SoftKey, softEccKey } from "./evidence-maker.ts";

/** Keys in software that can do what a TPM does at an enrolment, for tests that need many of them fast. */
export interface SoftTpm {
  readonly ekCertificate: Uint8Array;
  readonly ekName: string;
  readonly ak: SoftKey;
  /** The same EK, and an AK of another template. */
  withAnotherKey(): Promise<SoftTpm>;
  /** TPM2_ActivateCredential. Throws when the credential is for another EK or AK. */
  activate(credentialBlob: Uint8Array, encryptedSecret: Uint8Array): Uint8Array;
}

export interface SoftAuthority {
  readonly anchor: TrustAnchor;
  /** DER of the authorities between an EK and the anchor, the lowest first. */
  readonly issuers: readonly Uint8Array[];
  makeTpm(): Promise<SoftTpm>;
}

/** @param between how many authorities stand between an EK and the anchor */
export function makeAuthority(between = 0): SoftAuthority {
  const subject = `/CN=soft ${randomBytes(4).toString("hex")}`;
  const root = makeCertificate({ subject, extensions: extensionsAbove(between), issuer: null });
  const issuers: MadeCertificate[] = [];
  for (let below = between - 1; below >= 0; below -= 1) {
    const issuer = issuers[0] ?? root;
    issuers.unshift(makeCertificate({ subject: `${subject} ${below}`, extensions: extensionsAbove(below), issuer }));
  }
  const anchor: TrustAnchor = {
    ...{ name: "soft CA", pem: root.pem, assurance: "provider-ek", requireEkPurpose: true, manufacturers: "any" },
  };
  const chain = issuers.map(({ der }) => der);
  return { anchor, issuers: chain, makeTpm: () => makeTpm(issuers[0] ?? root, chain, anchor) };
}

const extensionsAbove = (below: number) => (below === 0 ? EXTENSIONS.lastAuthority : EXTENSIONS.authority);

async function makeTpm(issuer: MadeCertificate, issuers: readonly Uint8Array[], anchor: TrustAnchor): Promise<SoftTpm> {
  const ek = makeCertificate({ subject: "/CN=ek", extensions: EXTENSIONS.ek, issuer });
  const { ekName } = verifyEndorsement([ek.der, ...issuers], [anchor], new Date());
  const withKey = (ak: SoftKey): SoftTpm => ({
    ...{ ekCertificate: ek.der, ekName: toHex(ekName), ak },
    withAnotherKey: async () => withKey(await softEccKey()),
    activate: (blob, secret) => activate(ek.keyPem, ak, blob, secret),
  });
  return withKey(await softEccKey());
}

/** TPM 2.0 Part 1, Annex B.10.4 and section 24.4: the seed under OAEP, an HMAC over what is encrypted and the Name, then AES-128-CFB. */
function activate(keyPem: string, ak: SoftKey, blob: Uint8Array, encryptedSecret: Uint8Array): Uint8Array {
  const oaep = { padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha256", oaepLabel: Buffer.from("IDENTITY\0") };
  const seed = privateDecrypt({ key: createPrivateKey(keyPem), ...oaep }, encryptedSecret);
  const name = Buffer.from(tpmName(ak.publicArea));
  const integrity = Buffer.from(blob.subarray(2, 34));
  const identity = Buffer.from(blob.subarray(34));
  const hmacKey = kdfa(seed, "INTEGRITY", Buffer.alloc(0), 256);
  const computed = createHmac("sha256", hmacKey).update(identity).update(name).digest();
  if (!computed.equals(integrity)) throw new Error("TPM_RC_INTEGRITY");
  const decipher = createDecipheriv("aes-128-cfb", kdfa(seed, "STORAGE", name, 128), Buffer.alloc(16));
  const plain = Buffer.concat([decipher.update(identity), decipher.final()]);
  return new Uint8Array(plain.subarray(2, 2 + plain.readUInt16BE(0)));
}

function kdfa(seed: Buffer, label: string, context: Buffer, bits: number): Buffer {
  const [counter, length] = [Buffer.alloc(4), Buffer.alloc(4)];
  counter.writeUInt32BE(1);
  length.writeUInt32BE(bits);
  const block = Buffer.concat([counter, Buffer.from(`${label}\0`), context, length]);
  return createHmac("sha256", seed)
    .update(block)
    .digest()
    .subarray(0, bits / 8);
}
