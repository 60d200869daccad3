import { parseQuoteAttest } from "../../../attest/tpm-structures.ts";
import { encodeQuote } from "../../support/quote-writer.ts";
import { expectTrue } from "../property.ts";

/** The bitmap's width is not kept, so the law is about what was read: written down, it reads as the same quote. */
export function run(bytes: Uint8Array): void {
  const attest = parseQuoteAttest(bytes);
  const again = parseQuoteAttest(encodeQuote(attest));
  expectTrue(asText(attest) === asText(again), "TPMS_ATTEST: read again it is another quote");
}

function asText(value: unknown): string {
  return JSON.stringify(value, (_, field: unknown) => (typeof field === "bigint" ? `${field}` : field));
}
