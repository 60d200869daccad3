import { ByteReader, equalBytes, toHex } from "../policy/index.ts";
import { attestationKeyReasons, verifyAttestationSignature } from "./attestation-key.ts";
import { AttestError } from "./errors.ts";
import { type Reason, reason } from "./reason.ts";
import {
  type ClockInfo,
  endorsementPrimaryQualifiedName,
  parseClockInfo,
  parseTpmPublic,
  parseTpmSignature,
  tpmName,
} from "./tpm-structures.ts";

/** TPMS_ATTEST of type TPM_ST_ATTEST_CERTIFY: an object that was loaded in the signer's TPM. */
export interface CertifyAttest {
  readonly qualifiedSigner: Uint8Array;
  readonly extraData: Uint8Array;
  readonly clockInfo: ClockInfo;
  readonly firmwareVersion: bigint;
  readonly name: Uint8Array;
  readonly qualifiedName: Uint8Array;
}

/**
 * Reads TPMS_ATTEST of TPM2_Certify: TPM_GENERATED_VALUE, TPM_ST_ATTEST_CERTIFY, nothing behind.
 * Does not establish that any TPM made it: see `certifiedKeyReasons`.
 * @throws AttestError `ERR_TPM_STRUCTURE`, PolicyError `ERR_BYTES_*`
 */
export function parseCertifyAttest(bytes: Uint8Array): CertifyAttest {
  const reader = new ByteReader(bytes, "TPMS_ATTEST");
  expectNumber("magic", 0xff544347, reader.u32("magic"));
  expectNumber("type", 0x8017, reader.u16("type"));
  const attest = {
    qualifiedSigner: reader.sized16("qualifiedSigner", 66),
    extraData: reader.sized16("extraData", 66),
    clockInfo: parseClockInfo(reader),
    firmwareVersion: reader.u64("firmwareVersion"),
    name: reader.sized16("name", 66),
    qualifiedName: reader.sized16("qualifiedName", 66),
  };
  reader.end();
  return attest;
}

/** A key and what an attestation key says of it: TPMT_PUBLIC, TPMS_ATTEST, TPMT_SIGNATURE. */
export interface KeyCertificate {
  readonly publicArea: Uint8Array;
  readonly attest: Uint8Array;
  readonly signature: Uint8Array;
}

/**
 * Why a certificate is not one that this attestation key made, with TPM2_Certify, of this key and for this purpose; empty when it is.
 * Does not establish what else the key signs, nor whose TPM it is: the enrolment knows that of the attestation key.
 * @param akPublic TPMT_PUBLIC
 * @throws AttestError `ERR_TPM_STRUCTURE`, PolicyError `ERR_BYTES_*` for bytes that are none of the three structures
 */
export async function certifiedKeyReasons(
  { publicArea, attest, signature }: KeyCertificate,
  akPublic: Uint8Array,
  purpose: Uint8Array,
): Promise<readonly Reason[]> {
  const ak = parseTpmPublic(akPublic);
  const certified = parseCertifyAttest(attest);
  const reasons: Reason[] = [...attestationKeyReasons(ak)];
  const expect = (item: string, expected: Uint8Array, got: Uint8Array) => {
    if (!equalBytes(expected, got)) reasons.push(reason("key-certificate", item, toHex(expected), toHex(got)));
  };
  // A key under another parent has the same Name and another qualified Name.
  expect("certificate qualifiedSigner", endorsementPrimaryQualifiedName(akPublic), certified.qualifiedSigner);
  expect("certificate extraData", purpose, certified.extraData);
  expect("certificate name", tpmName(publicArea), certified.name);
  if (!(await verifyAttestationSignature(ak, parseTpmSignature(signature), attest)))
    reasons.push(reason("signature", "certificate", "a signature of the attestation key", "one that does not verify"));
  return reasons;
}

function expectNumber(what: string, expected: number, got: number): void {
  if (got === expected) return;
  const hex = (value: number) => `0x${value.toString(16)}`;
  throw new AttestError("ERR_TPM_STRUCTURE", `TPMS_ATTEST ${what}`, { expected: hex(expected), got: hex(got) });
}
