import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { splitCertificateFile } from "../../attest/certificate-file.ts";
import { parsePemCertificate } from "../../attest/endorsement-chain.ts";
import { AttestError } from "../../attest/errors.ts";
import { concatBytes, pemBlocks, utf8 } from "../../policy/index.ts";
import { leaf, root, rootCertificate } from "../support/endorsement-shapes.ts";
import { toPem } from "../support/vendor-chains.ts";

const ek = leaf();
const authority = rootCertificate(root);
const pem = toPem(ek);

/** A block as some tool may write it. */
function written(der: Uint8Array, width: number, end: string): string {
  const lines = der.toBase64().match(new RegExp(`.{1,${width}}`, "g")) ?? [];
  return ["-----BEGIN CERTIFICATE-----", ...lines, "-----END CERTIFICATE-----", ""].join(end);
}

describe("a file with certificates", () => {
  it("I9: it is DER in a row or PEM of any spelling, and the same certificates come out in the same order", () => {
    const padding = fc.array(fc.constantFrom(0x00, 0xff, 0x0a, 0x0d), { maxLength: 50 });
    const block = fc.record({
      der: fc.constantFrom(ek, authority),
      width: fc.constantFrom(1, 60, 64, 76, 10_000),
      end: fc.constantFrom("\n", "\r\n", "\r", " \n\t"),
      before: fc.string({ unit: "grapheme", maxLength: 20 }),
    });
    fc.assert(
      fc.property(fc.array(block, { minLength: 1, maxLength: 5 }), fc.string(), padding, (blocks, after, behind) => {
        const certificates = blocks.map(({ der }) => der);
        const text = blocks.map(({ der, width, end, before }) => before + end + written(der, width, end)).join("");
        for (const bytes of [utf8(text + after), concatBytes(...certificates, Uint8Array.from(behind))]) {
          expect(splitCertificateFile(bytes, 5)).toEqual(certificates);
          if (certificates.length > 1)
            expect(() => splitCertificateFile(bytes, certificates.length - 1)).toThrow(
              /certificates: expected at most/,
            );
        }
        if (certificates.length === 1) expect(parsePemCertificate(text + after).der).toEqual(certificates[0]);
        else expect(() => parsePemCertificate(text + after)).toThrow(/expected one PEM certificate, got \d/);
      }),
    );
  });

  it.each<[string, string]>([
    ["a byte order mark in front", `\ufeff${pem}`],
    ["what openssl says of it in front", `Certificate:\n    Data:\n        Version: 3 (0x2)\n${pem}`],
    ["a name in another script in front", `0\u00e9: \u82b1\u5b50\r\n${pem}`],
    ["a key behind it", `${pem}-----BEGIN PUBLIC KEY-----\n????\n-----END PUBLIC KEY-----\n`],
    ["padding of the TPM inside", toPem(concatBytes(ek, new Uint8Array(40).fill(0xff)))],
  ])("I9: with %s it is read", (_, text) => {
    expect(splitCertificateFile(utf8(text), 1)).toEqual([ek]);
    expect(parsePemCertificate(text).der).toEqual(ek);
  });

  it.each<[string, Uint8Array, RegExp]>([
    ["two certificates for one", utf8(pem + pem), /certificates: expected at most 1, got 2/],
    ["two in DER for one", concatBytes(ek, authority), /certificates: expected at most 1, got more/],
    ["nothing", new Uint8Array(), /expected DER or PEM, got something else/],
    ["noise", new Uint8Array(99).fill(7), /expected DER or PEM, got something else/],
    ["another block", utf8(pem.replaceAll("CERTIFICATE", "PUBLIC KEY")), /expected DER or PEM/],
    ["a block that does not end", utf8(pem.replace("END", "end")), /damaged or does not end/],
    ["a second block that does not end", utf8(pem + pem.replace("END", "end")), /damaged or does not end/],
    ["a block in a block", utf8(pem.replace("\n", "\n-----BEGIN CERTIFICATE-----\n")), /damaged or does not end/],
    ["base64 with another character", utf8(pem.replace("M", "!")), /damaged or does not end/],
    ["a block of other bytes", utf8(toPem(Uint8Array.of(1, 2, 3))), /certificate: expected DER/],
    ["a block of two certificates", utf8(toPem(concatBytes(ek, authority))), /certificates: expected at most 1/],
    ["a block of nothing", utf8(toPem(new Uint8Array())), /certificate: expected DER/],
  ])("I10: with %s it is refused", (_, bytes, message) => {
    expect(() => splitCertificateFile(bytes, 1)).toThrow(message);
    expect(() => splitCertificateFile(bytes, 1)).toThrow(AttestError);
    expect(() => parsePemCertificate(new TextDecoder().decode(bytes))).toThrow(AttestError);
  });

  it("I10: any bytes, and a damaged text, end in certificates or a typed error", () => {
    const texts = fc
      .tuple(fc.nat(pem.length), fc.string({ maxLength: 3 }))
      .map(([at, put]) => pem.slice(0, at) + put + pem.slice(at + 1));
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 200 }), texts.map(utf8)), (bytes) => {
        try {
          for (const der of splitCertificateFile(bytes, 2)) expect(der[0]).toBe(0x30);
        } catch (error) {
          expect(error).toBeInstanceOf(AttestError);
        }
      }),
    );
  });

  it("I10: a mebibyte of beginnings is refused like one", () => {
    const begin = "-----BEGIN CERTIFICATE-----\n";
    expect(pemBlocks(begin.repeat((1 << 20) / begin.length), "CERTIFICATE")).toBeNull();
  });
});
