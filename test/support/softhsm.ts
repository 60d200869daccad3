import { createPublicKey } from "node:crypto";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { PublicKeySource, Signer } from "../../agent/broker/index.ts";
import { startPkcs11 } from "./pkcs11-process.ts";

export const SOFTHSM_LIBRARY = "/usr/lib/softhsm/libsofthsm2.so";

export interface SoftHsmToken {
  readonly serial: string;
  /** `release-ec` (P-256) and `release-rsa` (2048): sensitive, not extractable, sign only. */
  readonly publicKeys: ReadonlyMap<string, PublicKeySource>;
  /** Signs in a process of its own, which stays logged in. */
  readonly signer: Signer;
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
  const made = await holder.call<{ serial: string; ecPoint: string; modulus: string; exponent: string }>("setup", {
    library: SOFTHSM_LIBRARY,
    label: options.label,
    pin: options.pin,
  });
  const point = Buffer.from(made.ecPoint, "hex").subarray(3);
  const ec = { kty: "EC", crv: "P-256", x: text(point.subarray(0, 32)), y: text(point.subarray(32)) };
  const rsa = { kty: "RSA", n: text(Buffer.from(made.modulus, "hex")), e: text(Buffer.from(made.exponent, "hex")) };
  return {
    serial: made.serial.trim(),
    publicKeys: new Map([
      ["release-ec", { spki: spkiOf(ec), id: Uint8Array.of(1), label: "release-ec" }],
      ["release-rsa", { spki: spkiOf(rsa), id: Uint8Array.of(2), label: "release-rsa" }],
    ]),
    signer: {
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
    },
    close: () => holder.close(),
  };
}

function spkiOf(key: { kty: string; [field: string]: string }): Uint8Array {
  return Uint8Array.from(createPublicKey({ key, format: "jwk" }).export({ format: "der", type: "spki" }));
}

function text(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("base64url");
}
