import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { splitCertificates, trimCertificate } from "../../attest/ek-certificate.ts";
import { AttestError } from "../../attest/errors.ts";
import { concatBytes } from "../../policy/index.ts";
import { nest } from "../support/certificate-writer.ts";
import { encodeDer } from "../support/der-writer.ts";

import { leaf, root, rootCertificate, verify } from "../support/endorsement-shapes.ts";

it("I10: a certificate cut short anywhere is malformed", () => {
  const whole = leaf();
  for (let length = 0; length < whole.length; length += 3)
    expect(() => verify([whole.slice(0, length)])).toThrow(AttestError);
  expect(() => verify([encodeDer([nest(0x30)])])).toThrow(AttestError);
});

describe("whatever the bytes are", () => {
  const whole = leaf();
  const settled = (act: () => unknown) => {
    try {
      act();
    } catch (error) {
      expect(error).toBeInstanceOf(AttestError);
    }
  };

  it("I10: a certificate with one byte changed, and any bytes, end in a value or a typed error", () => {
    fc.assert(
      fc.property(fc.nat(whole.length - 1), fc.nat(255), (index, octet) => {
        if (whole[index] !== octet) expect(() => verify([whole.with(index, octet)])).toThrow(AttestError);
      }),
      { numRuns: 500 },
    );
    fc.assert(fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => settled(() => verify([bytes]))));
  });

  it("I9: certificates that stand in a row come apart as they were, whatever padding is behind them", () => {
    const root_ = rootCertificate(root);
    const row = fc.array(fc.constantFrom(whole, root_), { minLength: 1, maxLength: 5 });
    const padding = fc.array(fc.constantFrom(0x00, 0xff, 0x0a, 0x0d), { maxLength: 50 });
    fc.assert(
      fc.property(row, padding, (certificates, behind) => {
        expect(splitCertificates(concatBytes(...certificates, Uint8Array.from(behind)), 5)).toEqual(certificates);
        if (certificates.length === 1)
          expect(trimCertificate(concatBytes(...certificates, Uint8Array.from(behind)))).toEqual(certificates[0]);
      }),
    );
    fc.assert(fc.property(fc.uint8Array({ maxLength: 100 }), (bytes) => settled(() => splitCertificates(bytes, 5))));
  });
});
