import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { derOid } from "../../attest/der.ts";
import { describeEkCertificate } from "../../attest/ek-description.ts";
import { ekExtensions, oid, purposes, sequence } from "../support/certificate-writer.ts";
import { having, leaf, verify } from "../support/endorsement-shapes.ts";
import { expectTyped } from "../support/typed-or-same.ts";

/** The example of ITU-T X.667: a UUID as an arc. */
const uuid = "2.25.329800735698586629295641978511506172918";

describe("an object identifier", () => {
  it("I9: it is read as it was written, with arcs of any size up to those of UUIDs and beyond", () => {
    const arc = fc.bigInt({ min: 0n, max: 2n ** 130n });
    const identifier = fc
      .tuple(fc.constantFrom(0n, 1n, 2n), arc, fc.array(arc, { maxLength: 4 }))
      .map(([first, second, rest]) => [first, first < 2n ? second % 40n : second, ...rest].join("."));
    fc.assert(fc.property(identifier, (dotted) => void expect(derOid(oid(dotted).content)).toBe(dotted)));
    expect(derOid(oid(uuid).content)).toBe(uuid);
  });

  it("I10: accepted bytes have one spelling, and any others end in a typed error", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 140 }), (bytes) =>
        expectTyped(() => expect(oid(derOid(bytes)).content).toEqual(bytes)),
      ),
    );
    fc.assert(
      fc.property(fc.array(fc.constantFrom(0x00, 0x80, 0x81, 0x7f, 0xff), { minLength: 1, maxLength: 6 }), (octets) =>
        expectTyped(() => expect(oid(derOid(Uint8Array.from(octets))).content).toEqual(Uint8Array.from(octets))),
      ),
    );
  });

  it.each<[string, readonly number[], RegExp]>([
    ["none", [], /whole arcs/],
    ["a cut arc", [0x2a, 0x81], /whole arcs/],
    ["zeros in front of an arc", [0x2a, 0x80, 0x01], /shortest form/],
    ["more than 128 octets", new Array(129).fill(1), /at most 128 octets, got 129/],
  ])("I10: %s is malformed", (_, octets, message) => {
    expect(() => derOid(Uint8Array.from(octets))).toThrow(message);
  });

  it("I9: an EK certificate may have an extension or a purpose whose identifier holds a UUID; a critical one is refused by it", () => {
    const extension = { id: uuid, value: sequence() };
    expect(verify([leaf({ extensions: [...ekExtensions, extension] })]).anchor).toBe("root");
    const der = leaf({ extensions: having(purposes("2.23.133.8.1", uuid)) });
    expect(verify([der]).anchor).toBe("root");
    expect(describeEkCertificate(der).purposes).toEqual(["2.23.133.8.1", uuid]);
    const critical = leaf({ extensions: [...ekExtensions, { ...extension, critical: true }] });
    expect(() => verify([critical])).toThrow(`got ${uuid}`);
  });
});
