import { parseQuoteAttest } from "../../../attest/tpm-structures.ts";
import { expectTrue } from "../property.ts";
import { encodeQuoteAttest } from "../quote.ts";

/** The bitmap's width is not kept, so the law is about what was read: written down, it reads as the same quote. */
export function run(bytes: Uint8Array): void {
  const attest = parseQuoteAttest(bytes);
  const again = parseQuoteAttest(encodeQuoteAttest(attest));
  expectTrue(asText(attest) === asText(again), "TPMS_ATTEST: read again it is another quote");
}

function asText(value: unknown): string {
  return JSON.stringify(value, (_, field: unknown) => (typeof field === "bigint" ? `${field}` : field));
}
