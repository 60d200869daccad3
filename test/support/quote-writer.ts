import type { QuoteAttest } from "../../attest/tpm-structures.ts";
import { ByteWriter } from "../../policy/bytes.ts";

/** TPMS_ATTEST as a TPM writes it. The verifier only reads quotes, so their writer is here. */
export function encodeQuote(attest: QuoteAttest): Uint8Array {
  const { clockInfo } = attest;
  const writer = new ByteWriter().u32(0xff544347).u16(0x8018).sized16(attest.qualifiedSigner).sized16(attest.extraData);
  writer
    .u64(clockInfo.clock)
    .u32(clockInfo.resetCount)
    .u32(clockInfo.restartCount)
    .u8(clockInfo.safe ? 1 : 0);
  writer.u64(attest.firmwareVersion).u32(attest.selections.length);
  for (const { hash, pcrs } of attest.selections) {
    const bitmap = new Uint8Array(4);
    for (const pcr of pcrs) bitmap[pcr >> 3] = (bitmap[pcr >> 3] ?? 0) | (1 << (pcr & 7));
    writer.u16(hash).u8(bitmap.length).bytes(bitmap);
  }
  return writer.sized16(attest.pcrDigest).finish();
}
