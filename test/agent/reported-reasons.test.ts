import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { reportedReasons } from "../../agent/reported-reasons.ts";
import { encodeClaims, parseClaims, reason } from "../../attest/index.ts";
import { attempt } from "../support/appraisal-rows.ts";
import { makeClaims } from "../support/evidence-maker.ts";

const manyReasons = fc
  .tuple(fc.string({ unit: "binary", maxLength: 40 }), fc.nat(6000), fc.nat(3000))
  .map(([text, repeat, count]) => {
    const long = text.repeat(1 + Math.floor(repeat / Math.max(text.length, 1))).slice(0, repeat);
    return Array.from({ length: count }, () => reason("unpinned-object", long, "a pinned path", long));
  });

describe("the reasons of a report", () => {
  it("I10: whatever reasons a hostile library gives cause for, a report tells them within what a verifier reads", () => {
    fc.assert(
      fc.property(manyReasons, (reasons) => {
        const told = reportedReasons(reasons);
        const claims = makeClaims({
          ...{ events: [], launch: "refused", claims: {} },
          asserted: { reasons: told, incidents: Array.from({ length: 64 }, () => attempt("x".repeat(48))) },
        });
        const read = parseClaims(encodeClaims(claims));
        expect(read.asserted.reasons.length).toBe(told.length);
        if (told.length < reasons.length) {
          expect(told.at(-1)?.code).toBe("reasons-left-out");
          expect(told.at(-1)?.got).toBe(`${reasons.length - told.length + 1} more`);
        }
      }),
      { numRuns: 60 },
    );
  });
});
