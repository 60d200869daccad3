import type { CertifyAttest } from "../../attest/tpm-certify.ts";
import type { ClockInfo, QuoteAttest } from "../../attest/tpm-structures.ts";
import { ByteWriter } from "../../policy/bytes.ts";

/** TPMS_ATTEST as a TPM writes it. The verifier only reads quotes, so their writer is here. */
export function encodeQuote(attest: QuoteAttest): Uint8Array {
  const writer = new ByteWriter().u32(0xff544347).u16(0x8018).sized16(attest.qualifiedSigner).sized16(attest.extraData);
  clock(writer, attest.clockInfo).u64(attest.firmwareVersion).u32(attest.selections.length);
  for (const { hash, pcrs } of attest.selections) {
    const bitmap = new Uint8Array(4);
    for (const pcr of pcrs) bitmap[pcr >> 3] = (bitmap[pcr >> 3] ?? 0) | (1 << (pcr & 7));
    writer.u16(hash).u8(bitmap.length).bytes(bitmap);
  }
  return writer.sized16(attest.pcrDigest).finish();
}

/** The same of TPM2_Certify. */
export function encodeCertify(attest: CertifyAttest): Uint8Array {
  const writer = new ByteWriter().u32(0xff544347).u16(0x8017).sized16(attest.qualifiedSigner).sized16(attest.extraData);
  return clock(writer, attest.clockInfo)
    .u64(attest.firmwareVersion)
    .sized16(attest.name)
    .sized16(attest.qualifiedName)
    .finish();
}

function clock(writer: ByteWriter, { clock: milliseconds, resetCount, restartCount, safe }: ClockInfo): ByteWriter {
  return writer
    .u64(milliseconds)
    .u32(resetCount)
    .u32(restartCount)
    .u8(safe ? 1 : 0);
}
