import { utf8 } from "../../../policy/bytes.ts";
import {
  decodeSpkiPem,
  encodeSpkiPem,
  encodeVerificationKeyPublic,
  keyIdOf,
  parseVerificationKey,
} from "../../../policy/keys.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  const pem = new TextDecoder().decode(bytes);
  expectSame(utf8(`${pem.trimEnd()}\n`), utf8(encodeSpkiPem(decodeSpkiPem(pem))), "public key");
  keyIdOf(pem);
  parseVerificationKey(pem);
  encodeVerificationKeyPublic(pem);
}
