import { constants, createCipheriv, type KeyObject, publicEncrypt } from "node:crypto";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Bench, runTokenTool, type Token } from "./shim-fixture.ts";

/** The only OAEP parameters that SoftHSM 2.6.1 takes. */
export const SHA1_OAEP = { hash: 0x220n, mgf: 1n, label: new Uint8Array(0) };
export const MECHANISM = { oaep: 0x9n, keyWrap: 0x2109n, keyWrapPad: 0x210an } as const;

/** An AES-256 key that wraps for the key `kek` (id 05) of a token. */
export interface WrappingKey {
  /** RFC 3394; whole blocks of 8 bytes. */
  wrap(key: Uint8Array): Uint8Array;
  /** RFC 5649. */
  wrapPadded(key: Uint8Array): Uint8Array;
}

/** Imports the key into the token, as an operator would whose workloads wrap elsewhere. */
export function importWrappingKey(bench: Bench, token: Token): WrappingKey {
  const key = Uint8Array.from({ length: 32 }, (_, index) => 255 - 3 * index);
  const file = join(bench.directory, "kek");
  writeFileSync(file, key);
  const object = ["--type", "secrkey", "--key-type", "AES:32", "--label", "kek", "--id", "05", "--sensitive"];
  runTokenTool(token, ["--write-object", file, ...object, "--usage-wrap", "--usage-decrypt"]);
  const under = (cipher: string, iv: string) => (data: Uint8Array) => {
    const wrapping = createCipheriv(cipher, key, Buffer.from(iv, "hex"));
    return Uint8Array.from(Buffer.concat([wrapping.update(data), wrapping.final()]));
  };
  return {
    wrap: under("id-aes256-wrap", "a6a6a6a6a6a6a6a6"),
    wrapPadded: under("id-aes256-wrap-pad", "a65959a6"),
  };
}

export function encryptOaep(key: KeyObject, data: Uint8Array): Uint8Array {
  return Uint8Array.from(publicEncrypt({ key, padding: constants.RSA_PKCS1_OAEP_PADDING, oaepHash: "sha1" }, data));
}
