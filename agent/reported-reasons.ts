import { cutText, type Reason, reason } from "../attest/index.ts";
import { utf8 } from "../policy/index.ts";

/** What a report has room for beside everything else in it: a text of this many UTF-16 code units has at most three times as many bytes. */
const reported = { count: 256, bytes: 64 << 10, text: 1024 } as const;

/** The reasons, or the first of them and one that counts the rest: a library can give cause for thousands, and a report must stay readable. */
export function reportedReasons(reasons: readonly Reason[]): readonly Reason[] {
  const kept: Reason[] = [];
  let bytes = 0;
  // CBOR has no lone surrogate.
  const cut = (text: string) => cutText(text.toWellFormed(), reported.text);
  for (const { code, item, expected, got } of reasons) {
    const short = { code: cut(code), item: cut(item), expected: cut(expected), got: cut(got) };
    bytes += utf8(Object.values(short).join("")).length;
    if (kept.length === reported.count || bytes > reported.bytes) break;
    kept.push(short);
  }
  const left = reasons.length - kept.length;
  return left === 0 ? kept : [...kept, reason("reasons-left-out", "reasons", `${kept.length} told`, `${left} more`)];
}
