import { parseCertificateFields } from "../../../attest/ek-certificate.ts";

export function run(bytes: Uint8Array): void {
  parseCertificateFields(bytes);
}
