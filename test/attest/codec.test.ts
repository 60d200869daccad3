import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  assuranceClasses,
  attestationKeyReasons,
  encodeAppraisalPolicy,
  encodeEkCertificates,
  encodeEnrolment,
  encodePcrs,
  encodeTpmPublic,
  encodeTpmSignature,
  formatDevices,
  parseAppraisalPolicy,
  parseDer,
  parseDevices,
  parseEkCertificates,
  parseEnrolment,
  parseFirmwareLog,
  parsePcrs,
  parsePe,
  parseQuoteAttest,
  parseTpmPublic,
  parseTpmSignature,
  type TpmPublic,
  type TpmSignature,
  tpmName,
} from "../../attest/index.ts";
import { sha256Hex, toBase64, toHex, utf8 } from "../../policy/index.ts";
import { anyAppraisalPolicy } from "../support/appraisal-policies.ts";
import { encodeDer } from "../support/der-writer.ts";
import { encodeLog, type LogBank } from "../support/firmware-log-writer.ts";
import { peImage } from "../support/pe-image.ts";
import { encodeQuote } from "../support/quote-writer.ts";
import { damaged, expectTyped, expectTypedOrSame } from "../support/typed-or-same.ts";

const bytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });
const u16 = fc.nat(0xffff);
const u32 = fc.nat(0xffffffff);
const u64 = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
const upTo = (maxLength: number) => fc.uint8Array({ maxLength });

const common = {
  nameAlg: u16,
  attributes: u32,
  authPolicy: upTo(64),
  symmetric: fc.option(fc.record({ algorithm: fc.constantFrom(6, 0x13), keyBits: u16, mode: u16 })),
  scheme: fc.option(fc.record({ scheme: fc.constantFrom(0x14, 0x18), hash: u16 })),
};
const anyPublic: fc.Arbitrary<TpmPublic> = fc.oneof(
  fc.record({ kind: fc.constant("ecc" as const), ...common, curve: u16, x: upTo(66), y: upTo(66) }),
  fc.record({ kind: fc.constant("rsa" as const), ...common, keyBits: u16, exponent: u32, modulus: upTo(512) }),
);
const anySignature: fc.Arbitrary<TpmSignature> = fc.oneof(
  fc.record({ kind: fc.constant("ecdsa" as const), hash: u16, r: upTo(66), s: upTo(66) }),
  fc.record({ kind: fc.constant("rsassa" as const), hash: u16, signature: upTo(512) }),
);
const anyQuote = fc.record({
  qualifiedSigner: upTo(66),
  extraData: upTo(66),
  clockInfo: fc.record({ clock: u64, resetCount: u32, restartCount: u32, safe: fc.boolean() }),
  firmwareVersion: u64,
  selections: fc.array(
    fc.record({ hash: u16, pcrs: fc.uniqueArray(fc.nat(31)).map((pcrs) => pcrs.sort((a, b) => a - b)) }),
    { maxLength: 16 },
  ),
  pcrDigest: upTo(64),
});

describe("codecs of attest", () => {
  test("I10: TPMT_PUBLIC", () => {
    fc.assert(fc.property(anyPublic, (area) => void expect(parseTpmPublic(encodeTpmPublic(area))).toEqual(area)));
    expectTypedOrSame((area) => encodeTpmPublic(parseTpmPublic(area)), anyPublic.map(encodeTpmPublic));
    fc.assert(fc.property(anyPublic, (area) => void expect(attestationKeyReasons(area)).toBeInstanceOf(Array)));
  });

  test("I10: TPMT_SIGNATURE", () => {
    fc.assert(
      fc.property(anySignature, (value) => void expect(parseTpmSignature(encodeTpmSignature(value))).toEqual(value)),
    );
    expectTypedOrSame((value) => encodeTpmSignature(parseTpmSignature(value)), anySignature.map(encodeTpmSignature));
  });

  test("I10: TPMS_ATTEST of a quote, with any selections", () => {
    fc.assert(fc.property(anyQuote, (quote) => void expect(parseQuoteAttest(encodeQuote(quote))).toEqual(quote)));
    // The width of a bitmap is not kept: accepted bytes are compared by what they say.
    const again = (value: Uint8Array) => {
      const quote = parseQuoteAttest(value);
      expect(parseQuoteAttest(encodeQuote(quote))).toEqual(quote);
      return value;
    };
    expectTypedOrSame(again, anyQuote.map(encodeQuote));
  });

  test("I10: PCR values of both banks, and lists of certificates", () => {
    const anyPcrs = fc
      .constantFrom(["sha256", 32] as const, ["sha384", 48] as const)
      .chain(([bank, size]) =>
        fc
          .uniqueArray(fc.tuple(fc.nat(23), bytes(size)), { selector: ([pcr]) => pcr })
          .map((list) => ({ bank, values: new Map(list) })),
      );
    fc.assert(fc.property(anyPcrs, (pcrs) => void expect(parsePcrs(encodePcrs(pcrs))).toEqual(pcrs)));
    expectTypedOrSame((value) => encodePcrs(parsePcrs(value)), anyPcrs.map(encodePcrs));
    const anyList = fc.array(upTo(300), { maxLength: 8 });
    fc.assert(
      fc.property(anyList, (list) => void expect(parseEkCertificates(encodeEkCertificates(list))).toEqual(list)),
    );
  });

  test("I10: DER elements", () => {
    const tag = fc.nat(255).filter((value) => (value & 0x1f) !== 0x1f);
    const any = fc.array(
      fc.record({
        tag,
        content: fc.oneof(
          upTo(20),
          upTo(300),
          fc.nat(15_000).map((length) => new Uint8Array(length)),
        ),
      }),
      { maxLength: 4 },
    );
    fc.assert(fc.property(any, (elements) => void expect(parseDer(encodeDer(elements))).toEqual(elements)));
    expectTypedOrSame((der) => encodeDer(parseDer(der)), any.map(encodeDer));
    expect(() => parseDer(new Uint8Array(65_537))).toThrow(/at most 65536 bytes/);
  });

  test("I10: firmware logs, with any events in any banks", () => {
    const event = fc.record({ pcr: fc.nat(23), type: u32, data: upTo(40) });
    const banks = fc.uniqueArray(fc.constantFrom<LogBank>("sha1", "sha256", "sha384", "sha512", "sm3"), {
      minLength: 1,
    });
    const any = fc.record({
      banks,
      entries: fc.array(event, { maxLength: 8 }),
      vendorInfo: upTo(20),
      digest: fc.constant(zeros),
    });
    fc.assert(
      fc.property(any, (log) => {
        const read = parseFirmwareLog(encodeLog(log));
        expect(read.algorithms).toHaveLength(log.banks.length);
        expect(read.events.map(({ pcr, type, data }) => ({ pcr, type, data }))).toEqual(log.entries);
      }),
    );
  });

  test("I10: sections of an image", () => {
    const section = fc.tuple(fc.stringMatching(/^\.[a-z]{1,7}$/), fc.uint8Array({ minLength: 1, maxLength: 600 }));
    fc.assert(
      fc.property(fc.array(section, { maxLength: 5 }), (sections) => {
        const read = parsePe(peImage(sections)).sections;
        expect(read.map(({ name, virtualSize }) => [name, virtualSize])).toEqual(
          sections.map(([name, content]) => [name, content.length]),
        );
      }),
    );
  });

  test("I9: enrolments of any fit key", () => {
    const point = fc.tuple(bytes(32), bytes(32));
    const any = fc
      .record({
        point,
        name: fc.stringMatching(/^[\w.-]{1,64}$/),
        ek: bytes(32),
        assurance: fc.constantFrom(...assuranceClasses),
        certificate: fc.option(bytes(32)),
      })
      .map(({ point: [x, y], name, ek, assurance, certificate }) => {
        const area = encodeTpmPublic({
          kind: "ecc",
          nameAlg: 0x000b,
          attributes: 0x50472,
          authPolicy: new Uint8Array(),
          symmetric: null,
          scheme: { scheme: 0x0018, hash: 0x000b },
          curve: 3,
          x,
          y,
        });
        const ekCertificateSha256 = certificate === null ? null : toHex(certificate);
        return {
          version: 1 as const,
          name,
          ekName: `000b${toHex(ek)}`,
          akPublic: toBase64(area),
          akName: toHex(tpmName(area)),
          assurance,
          ekCertificateSha256,
        };
      });
    fc.assert(
      fc.property(any, (enrolment) => void expect(parseEnrolment(encodeEnrolment(enrolment))).toEqual(enrolment)),
    );
    // For people: white space is free, so only what is read is compared.
    fc.assert(
      fc.property(damaged(any.map(encodeEnrolment)), (input) => {
        expectTyped(() => parseEnrolment(input));
      }),
    );
  });

  test("I9: appraisal policies", () => {
    fc.assert(
      fc.property(anyAppraisalPolicy, (document) => {
        const bytes = encodeAppraisalPolicy(document);
        expect(parseAppraisalPolicy(bytes)).toEqual({ document, sha256: sha256Hex(bytes) });
      }),
    );
    fc.assert(
      fc.property(damaged(anyAppraisalPolicy.map(encodeAppraisalPolicy)), (input) => {
        expectTyped(() => parseAppraisalPolicy(input));
      }),
    );
  });

  test("I1: lists of devices", () => {
    const any = fc.array(fc.stringMatching(/^(usb:)?[0-9a-f]{4}:[0-9a-f]{4}$/)).map((list) => list.sort());
    fc.assert(fc.property(any, (devices) => void expect(parseDevices(formatDevices(devices))).toEqual(devices)));
    const again = (text: Uint8Array) => utf8(formatDevices(parseDevices(new TextDecoder().decode(text))));
    expectTypedOrSame(
      again,
      any.map((devices) => utf8(formatDevices(devices))),
    );
  });
});

const sizes = { sha1: 20, sha256: 32, sha384: 48, sha512: 64, sm3: 32 } as const;

/** Not every hash is there to compute with, and a reader does not check digests. */
function zeros(bank: LogBank): Uint8Array {
  return new Uint8Array(sizes[bank]);
}
