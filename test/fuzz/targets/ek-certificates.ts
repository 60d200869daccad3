import { encodeEkCertificates, parseEkCertificates } from "../../../attest/evidence.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  expectSame(bytes, encodeEkCertificates(parseEkCertificates(bytes)), "ek-certificates");
}
