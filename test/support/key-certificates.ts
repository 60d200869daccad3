import { createPublicKey, generateKeyPairSync, type KeyObject } from "node:crypto";
import type { PublicKeySource } from "../../agent/broker/index.ts";
import { toBase64 } from "../../policy/index.ts";
import { commonName, endEntity, integer, keyUsage, signingWith, writeCertificate } from "./certificate-writer.ts";

/** Certificates that one authority issues for keys of a token. */
export interface KeyAuthority {
  /** DER, for a key of which only the public half is at hand. */
  certificate(key: KeyObject, subject: string): Uint8Array;
  /** The policy's `certificates` of these keys: `CN=<name>`. */
  certificatesOf(keys: ReadonlyMap<string, PublicKeySource>, names: readonly string[]): Record<string, string>;
}

export function openKeyAuthority(): KeyAuthority {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const certificate = (key: KeyObject, subject: string): Uint8Array =>
    writeCertificate({
      ...{ key, subject: commonName(subject), issuer: commonName("issuing authority"), serial: integer(0x01, 0x2c) },
      ...{ extensions: [endEntity, keyUsage(0x80)], signing: signingWith(privateKey) },
    });
  const publicKey = (spki: Uint8Array) => createPublicKey({ key: Buffer.from(spki), format: "der", type: "spki" });
  return {
    certificate,
    certificatesOf: (keys, names) =>
      Object.fromEntries(
        names.map((name) => [name, toBase64(certificate(publicKey(keys.get(name)?.spki ?? new Uint8Array()), name))]),
      ),
  };
}
