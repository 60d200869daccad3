import { attestationKeyReasons } from "../../../attest/attestation-key.ts";
import {
  encodeTpmPublic,
  endorsementPrimaryQualifiedName,
  parseTpmPublic,
  tpmName,
} from "../../../attest/tpm-structures.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  const area = parseTpmPublic(bytes);
  expectSame(bytes, encodeTpmPublic(area), "TPMT_PUBLIC");
  attestationKeyReasons(area);
  tpmName(bytes);
  endorsementPrimaryQualifiedName(bytes);
}
