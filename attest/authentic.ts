import { concatBytes, equalBytes, IronclawError, sha256, toHex } from "../policy/index.ts";
import { bankAlgorithm } from "./banks.ts";
import { enrolledKey, type ReportingKey } from "./enrolled-keys.ts";
import type { Enrolment } from "./enrolment.ts";
import { type Challenge, type Evidence, measureExtraData, type PcrSection, parsePcrs } from "./evidence.ts";
import { type Reason, reason, reasonFrom } from "./reason.ts";
import { parseQuoteAttest, parseTpmSignature, type QuoteAttest, tpmName } from "./tpm-structures.ts";

/**
 * Why this report is not one that the enrolled key made for this challenge; empty when it is. The key, its signature over the quote, the
 * quote's extraData over nonce and sections, and its selection and digest over the asked registers: one signature and the hashes of the
 * sections, and no log or claim is parsed. Whatever a carrier changes or asks for instead is found here, so a report that passes and does
 * not verify says something about its machine, and any other says nothing.
 *
 * Does not establish that the logs explain the registers or that the claims are true: see `verifyEvidence`, which checks all of this too.
 *
 * @param enrolment one that `parseEnrolment` or `createEnrolment` made
 */
export async function authenticReasons(
  evidence: Evidence,
  challenge: Challenge,
  enrolment: Enrolment,
): Promise<readonly Reason[]> {
  const enrolled = enrolledKey(enrolment);
  // Both, whatever the first says: the time does not tell whose key is enrolled.
  const reasons = [...keyReasons(evidence.ak, enrolled), ...(await signatureReasons(enrolled, evidence))];
  return reasons.length > 0 ? reasons : boundReasons(evidence, challenge);
}

function keyReasons(ak: Uint8Array, { publicArea, name }: ReportingKey): readonly Reason[] {
  if (equalBytes(ak, publicArea)) return [];
  return [attempt("ak", () => reason("ak-not-enrolled", "ak name", name, toHex(tpmName(ak)))).value];
}

async function signatureReasons(enrolled: ReportingKey, evidence: Evidence): Promise<readonly Reason[]> {
  const parsed = attempt("signature", () => parseTpmSignature(evidence.signature));
  if (!parsed.ok) return [parsed.value];
  const key = await enrolled.imported;
  if (await key?.verify(parsed.value, evidence.quote)) return [];
  return [reason("signature", "signature", "one of the attestation key over the quote", "one that does not verify")];
}

function boundReasons(evidence: Evidence, challenge: Challenge): readonly Reason[] {
  const quote = attempt("quote", () => parseQuoteAttest(evidence.quote));
  const pcrs = attempt("pcrs", () => parsePcrs(evidence.pcrs));
  return [
    ...(quote.ok ? challengeReasons(evidence, quote.value, challenge) : [quote.value]),
    ...(pcrs.ok ? pcrReasons(quote.ok ? quote.value : null, pcrs.value, challenge) : [pcrs.value]),
  ];
}

/** Where the quote is not over this nonce and these sections, or not of the asked registers. */
export function challengeReasons(evidence: Evidence, quote: QuoteAttest, challenge: Challenge): readonly Reason[] {
  const reasons: Reason[] = [];
  const expected = toHex(measureExtraData(challenge.nonce, evidence));
  const got = toHex(quote.extraData);
  if (got !== expected) reasons.push(reason("extra-data", "quote extraData (nonce, claims and logs)", expected, got));
  const selection = (bank: number, pcrs: readonly number[]) =>
    `0x${bank.toString(16).padStart(4, "0")}:${pcrs.join(",")}`;
  const asked = selection(bankAlgorithm(challenge.bank), challenge.pcrs);
  const quoted = quote.selections.map(({ hash, pcrs }) => selection(hash, pcrs)).join("+");
  if (asked !== quoted) reasons.push(reason("pcr-selection", "quote pcrSelect", asked, quoted));
  return reasons;
}

/** Where the section of register values, which nothing else binds, is not of the asked registers or not what the quote is over. */
export function pcrReasons(quote: QuoteAttest | null, pcrs: PcrSection, challenge: Challenge): readonly Reason[] {
  const reasons: Reason[] = [];
  if (pcrs.bank !== challenge.bank) reasons.push(reason("pcr-section", "pcrs bank", challenge.bank, pcrs.bank));
  const listed = [...pcrs.values.keys()].join(",");
  if (listed !== challenge.pcrs.join(","))
    reasons.push(reason("pcr-section", "pcrs values", challenge.pcrs.join(","), listed));
  if (quote === null) return reasons;
  // The digest algorithm is that of the signing scheme, and both schemes that are accepted use SHA-256.
  const digest = toHex(sha256(concatBytes(...pcrs.values.values())));
  const signed = toHex(quote.pcrDigest);
  if (digest !== signed) reasons.push(reason("pcr-digest", "quote pcrDigest", signed, digest));
  return reasons;
}

/** A value, or why there is none. */
type Attempt<T> = { readonly ok: true; readonly value: T } | { readonly ok: false; readonly value: Reason };

function attempt<T>(item: string, parse: () => T): Attempt<T> {
  try {
    return { ok: true, value: parse() };
  } catch (error) {
    if (!(error instanceof IronclawError)) throw error;
    return { ok: false, value: reasonFrom(error, `${item}: ${error.message}`) };
  }
}
