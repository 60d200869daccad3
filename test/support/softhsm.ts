import { createPublicKey } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { PublicKeySource, Token } from "../../agent/broker/index.ts";
import { tokenRefuses } from "./broker-fixture.ts";
import { Pkcs11Failure, startPkcs11 } from "./pkcs11-process.ts";

export const SOFTHSM_LIBRARY = "/usr/lib/softhsm/libsofthsm2.so";

export interface SoftHsmToken {
  readonly serial: string;
  /** `release-ec` (P-256) and `release-rsa` (2048), sign only, and `vault` (RSA 2048), decrypt only: sensitive, not extractable. */
  readonly publicKeys: ReadonlyMap<string, PublicKeySource>;
  /** A process of its own, which stays logged in. */
  readonly token: Token;
  close(): Promise<void>;
}

/** Makes a SoftHSM token with its two keys in `directory` (its configuration file and `tokens/`). */
export async function createSoftHsmToken(options: {
  directory: string;
  pin: string;
  label: string;
}): Promise<SoftHsmToken> {
  const tokens = join(options.directory, "tokens");
  mkdirSync(tokens, { recursive: true });
  const configuration = join(options.directory, "softhsm2.conf");
  writeFileSync(configuration, `directories.tokendir = ${tokens}\nobjectstore.backend = file\nlog.level = ERROR\n`);
  const holder = startPkcs11({ SOFTHSM2_CONF: configuration });
  const made = await holder.call<{ serial: string; ecPoint: string } & Record<"rsa" | "vault", RsaNumbers>>("setup", {
    library: SOFTHSM_LIBRARY,
    label: options.label,
    pin: options.pin,
  });
  const point = Buffer.from(made.ecPoint, "hex").subarray(3);
  const ec = { kty: "EC", crv: "P-256", x: text(point.subarray(0, 32)), y: text(point.subarray(32)) };
  return {
    serial: made.serial.trim(),
    publicKeys: new Map([
      ["release-ec", { spki: spkiOf(ec), id: Uint8Array.of(1), label: "release-ec" }],
      ["release-rsa", { spki: rsaSpki(made.rsa), id: Uint8Array.of(2), label: "release-rsa" }],
      ["vault", { spki: rsaSpki(made.vault), id: Uint8Array.of(0x2a), label: "vault" }],
    ]),
    token: {
      reserve: () => ({ [Symbol.dispose]: () => undefined }),
      sign: async ({ key, mechanism, data }) => {
        // 5 is the number pkcs11js has for CK_RSA_PKCS_PSS_PARAMS.
        const pss =
          mechanism.pss === null
            ? {}
            : {
                pss: {
                  type: 5,
                  hashAlg: Number(mechanism.pss.hash),
                  mgf: Number(mechanism.pss.mgf),
                  saltLen: Number(mechanism.pss.saltLength),
                },
              };
        const fields = {
          label: key,
          mechanism: Number(mechanism.value),
          data: Buffer.from(data).toString("hex"),
          ...pss,
        };
        return Uint8Array.from(Buffer.from(await holder.call<string>("sign", fields), "hex"));
      },
      decrypt: async ({ key, mechanism, data }) => {
        const fields = { label: key, mechanism: Number(mechanism.value), data: Buffer.from(data).toString("hex") };
        // 4 is the number pkcs11js has for CK_RSA_PKCS_OAEP_PARAMS.
        const oaep =
          mechanism.oaep === null
            ? {}
            : { oaep: { type: 4, hashAlg: Number(mechanism.oaep.hash), mgf: Number(mechanism.oaep.mgf), source: 1 } };
        try {
          return Uint8Array.from(Buffer.from(await holder.call<string>("decrypt", { ...fields, ...oaep }), "hex"));
        } catch (error) {
          if (error instanceof Pkcs11Failure && error.rv !== null) throw tokenRefuses(BigInt(error.rv));
          throw error;
        }
      },
      unwrap: async () => {
        throw tokenRefuses(0x54n);
      },
    },
    close: () => holder.close(),
  };
}

interface RsaNumbers {
  readonly modulus: string;
  readonly exponent: string;
}

function rsaSpki({ modulus, exponent }: RsaNumbers): Uint8Array {
  return spkiOf({ kty: "RSA", n: text(Buffer.from(modulus, "hex")), e: text(Buffer.from(exponent, "hex")) });
}

function spkiOf(key: { kty: string; [field: string]: string }): Uint8Array {
  return Uint8Array.from(createPublicKey({ key, format: "jwk" }).export({ format: "der", type: "spki" }));
}

function text(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("base64url");
}
