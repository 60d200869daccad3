import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject, sign } from "node:crypto";
import type { AttestationResult, EarKey } from "../../attest/index.ts";
import { judge, withoutPcrs } from "./appraisal.ts";

/** RFC 7515 appendix A.3: a private key that everybody knows. */
export const publishedKey = createPrivateKey({
  format: "jwk",
  key: {
    ...{ kty: "EC", crv: "P-256", x: "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU" },
    ...{ y: "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0", d: "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI" },
  },
});

/** Signs as the command's key files do: SHA-256, r||s. */
export function earKeyOf(privateKey: KeyObject): EarKey {
  return {
    spkiPem: createPublicKey(privateKey).export({ type: "spki", format: "pem" }) as string, // a PEM is text
    sign: async (data) => new Uint8Array(sign("sha256", data, { key: privateKey, dsaEncoding: "ieee-p1363" })),
  };
}

export function newEarKey(): EarKey {
  return earKeyOf(generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey);
}

/** A fixed judgement: one warning, on a TPM that a provider runs. */
export async function exampleResult(): Promise<AttestationResult> {
  const result = await judge({ reference: { pcrs: withoutPcrs("1") } });
  return { ...result, evidence: "e5".repeat(32) }; // the report's signature is another one each time
}

export const base64urlOf = (value: unknown) =>
  Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64url");

/** A token with this header and payload, signed by the key, whatever they say. */
export async function signAnything(key: EarKey, header: unknown, payload: unknown): Promise<string> {
  const input = `${base64urlOf(header)}.${base64urlOf(payload)}`;
  return `${input}.${Buffer.from(await key.sign(Buffer.from(input))).toString("base64url")}`;
}
