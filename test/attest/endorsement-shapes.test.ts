import { generateKeyPairSync } from "node:crypto";
import { describe, expect, it } from "vitest";
import { verifyEndorsement } from "../../attest/endorsement.ts";
import { AttestError } from "../../attest/errors.ts";
import {
  altName,
  attribute,
  authority,
  boolean,
  commonName,
  directoryName,
  ekExtensions,
  element,
  endEntity,
  extensionIds,
  integer,
  keyUsage,
  oid,
  purposes,
  rdn,
  sequence,
  text,
  tpmAttributes,
  type WrittenCertificate,
} from "../support/certificate-writer.ts";
import { encodeDer } from "../support/der-writer.ts";

import {
  anchorFor,
  at,
  ec,
  ek,
  having,
  leaf,
  manufacturer,
  model,
  other,
  pinned,
  root,
  rootCertificate,
  rsaEk,
  rsaPair,
  verify,
  version,
  without,
} from "../support/endorsement-shapes.ts";

describe("an EK certificate of the shape that a maker may write", () => {
  it.each([
    ["three RDNs of one attribute", directoryName(rdn(manufacturer), rdn(model), rdn(version))],
    ["one RDN of three attributes", directoryName(rdn(manufacturer, model, version))],
    ["two RDNs, in another order", directoryName(rdn(version, manufacturer), rdn(model))],
    [
      "further attributes beside",
      directoryName(rdn(attribute("2.5.4.10", "Maker")), rdn(manufacturer), rdn(model), rdn(version)),
    ],
    ["PrintableString", directoryName(...tpmAttributes(0x13).map((one) => rdn(one)))],
    ["IA5String", directoryName(...tpmAttributes(0x16).map((one) => rdn(one)))],
  ])("I9: its TPM attributes are read from %s", (_, names) => {
    for (const names_ of [[names], [other.dns, names], [names, other.email]]) {
      const endorsement = verify([leaf({ extensions: having(altName(...names_)) })]);
      expect(endorsement).toMatchObject({ manufacturer: "id:49465800", profile: "L-2", assurance: "hardware-ek" });
    }
  });

  it.each<[string, Partial<WrittenCertificate>]>([
    ["a subject that is not empty", { subject: commonName("unknown") }],
    ["no end at all", { notAfter: "99991231235959Z" }],
    ["its beginning as GeneralizedTime", { notBefore: "20200101000000Z" }],
    ["its end as UTCTime", { notAfter: "491231235959Z" }],
    ["a serial number of twenty octets", { serial: integer(0x7f, ...new Array<number>(19).fill(1)) }],
    ["keyAgreement", { extensions: having(keyUsage(0x08)) }],
    ["keyEncipherment and digitalSignature", { extensions: having(keyUsage(0xa0)) }],
    ["no key usage", { extensions: without(extensionIds.keyUsage) }],
    ["no basic constraints", { extensions: without(extensionIds.basicConstraints) }],
    ["cA written as FALSE", { extensions: having({ ...endEntity, value: sequence(boolean(0x00)) }) }],
    [
      "a subject alternative name that is not critical",
      { extensions: having({ ...altName(directoryName(rdn(manufacturer))), critical: false }) },
    ],
    [
      "critical written as FALSE",
      { extensions: having({ ...altName(directoryName(rdn(manufacturer))), critical: boolean(0x00) }) },
    ],
    [
      "critical certificate policies",
      { extensions: [...ekExtensions, { id: "2.5.29.32", critical: true, value: sequence(sequence(oid("1.2.3.4"))) }] },
    ],
    [
      "critical directory attributes",
      { extensions: [...ekExtensions, { id: "2.5.29.9", critical: true, value: sequence() }] },
    ],
    [
      "unknown extensions that are not critical",
      { extensions: [...ekExtensions, { id: "1.3.6.1.4.1.99999.1", value: text("anything") }] },
    ],
    ["several purposes", { extensions: having(purposes("1.3.6.1.5.5.7.3.2", "2.23.133.8.1")) }],
  ])("I9: it may have %s", (_, changes) => {
    expect(verify([leaf(changes)]).anchor).toBe("root");
  });

  it("I9: its key may be RSA 2048, P-256 or P-384, each with its template", () => {
    const profiles = [rsaEk, ek, ec("P-384")].map(({ publicKey }) => verify([leaf({ key: publicKey })]).profile);
    expect(profiles).toEqual(["L-1", "L-2", "H-3"]);
  });

  it("I9: it may name no purpose where the anchor says so, and no manufacturer where any will do", () => {
    const lax = anchorFor(rootCertificate(root), { requireEkPurpose: false, manufacturers: "any" });
    const bare = leaf({
      extensions: without(extensionIds.extendedKeyUsage, extensionIds.subjectAltName),
      subject: commonName("tpm"),
    });
    expect(verify([bare], [lax]).manufacturer).toBeNull();
    expect(() => verify([bare])).toThrow(/extKeyUsage: expected 2.23.133.8.1, got none/);
  });

  it("I9: the case of a vendor ID says nothing", () => {
    const lower = directoryName(rdn(attribute("2.23.133.2.1", "id:4e544300")));
    const anchor = anchorFor(rootCertificate(root), { manufacturers: ["id:4E544300"] });
    expect(verify([leaf({ extensions: having(altName(lower)) })], [anchor]).manufacturer).toBe("id:4e544300");
  });
});

describe("the claimed template of an EK", () => {
  it("I9: it changes the public area and the Name, never what the certificate stands for", () => {
    const usual = verify([leaf()]);
    const high = verifyEndorsement([leaf()], [pinned], at, "H-2");
    expect(high.profile).toBe("H-2");
    expect(high.ekName).not.toEqual(usual.ekName);
    expect({ ...high, profile: null, ekPublic: null, ekPublicArea: null, ekName: null }).toMatchObject({
      ...{ assurance: usual.assurance, anchor: usual.anchor, manufacturer: usual.manufacturer },
    });
    expect(verifyEndorsement([leaf()], [pinned], at, "L-2").ekName).toEqual(usual.ekName);
  });

  it.each(["L-1", "H-1", "H-3"] as const)("I9: %s for a P-256 key is refused", (claimed) => {
    expect(() => verifyEndorsement([leaf()], [pinned], at, claimed)).toThrow(
      new RegExp(`ek profile: expected L-2 or H-2, got ${claimed}`),
    );
  });
});

describe("an EK certificate that must not count", () => {
  const usage = (bits: number) => ({ extensions: having(keyUsage(bits)) });
  it.each<[string, Partial<WrittenCertificate>, RegExp]>([
    ["of an authority", { extensions: having(authority()) }, /end entity/],
    ["whose key may sign certificates", usage(0x24), /end entity/],
    ["whose key may only sign", usage(0x80), /keyUsage/],
    [
      "for another purpose",
      { extensions: having(purposes("2.23.133.8.3")) },
      /extKeyUsage: expected 2.23.133.8.1, got 2.23.133.8.3/,
    ],
    ["for any purpose", { extensions: having(purposes("2.5.29.37.0")) }, /extKeyUsage/],
    [
      "without a TPM's attributes",
      { extensions: having(altName(other.dns)) },
      /tpmManufacturer: expected id:49465800, got none/,
    ],
    ["that has ended", { notAfter: "291231235959Z" }, /certificate dates/],
    ["that has not begun", { notBefore: "300102000000Z" }, /certificate dates/],
    [
      "with an unknown critical extension",
      { extensions: [...ekExtensions, { id: "1.2.3.4", critical: true, value: sequence() }] },
      /extensions: .*got 1.2.3.4/,
    ],
    ["of a 3072-bit RSA key", { key: rsaPair(3072).publicKey }, /ek key: .* got RSA 3072/],
    ["of a 1024-bit RSA key", { key: rsaPair(1024).publicKey }, /ek key: .* got RSA 1024/],
    [
      "of an RSA key with another exponent",
      { key: generateKeyPairSync("rsa", { modulusLength: 2048, publicExponent: 3 }).publicKey },
      /another exponent/,
    ],
    ["of a P-521 key", { key: ec("P-521").publicKey }, /ek key: .* got EC P-521/],
    ["of a key of another curve", { key: ec("secp256k1").publicKey }, /ek key: .*secp256k1/],
    ["of an Ed25519 key", { key: generateKeyPairSync("ed25519").publicKey }, /ek key/],
    [
      "of an RSA key for signatures only",
      { key: generateKeyPairSync("rsa-pss", { modulusLength: 2048 }).publicKey },
      /ek key/,
    ],
  ])("I9: one %s is refused", (_, changes, message) => {
    expect(() => verify([leaf(changes)])).toThrow(message);
    expect(() => verify([leaf(changes)])).toThrow(expect.objectContaining({ code: "ERR_ENDORSEMENT_REFUSED" }));
  });

  const twice = (value: string) => altName(directoryName(rdn(manufacturer), rdn(attribute("2.23.133.2.1", value))));
  it.each<[string, Partial<WrittenCertificate>]>([
    ["two manufacturers", { extensions: having(twice("id:00000000")) }],
    [
      "two manufacturers in two names",
      { extensions: having(altName(directoryName(rdn(manufacturer)), directoryName(rdn(manufacturer)))) },
    ],
    [
      "a manufacturer in a string of another kind",
      { extensions: having(altName(directoryName(rdn(attribute("2.23.133.2.1", "id", 0x1e))))) },
    ],
    [
      "a manufacturer that is not UTF-8",
      {
        extensions: having(
          altName(directoryName(rdn(sequence(oid("2.23.133.2.1"), element(0x0c, Uint8Array.of(0xff)))))),
        ),
      },
    ],
    [
      "a manufacturer of a thousand letters",
      { extensions: having(altName(directoryName(rdn(attribute("2.23.133.2.1", "x".repeat(1000)))))) },
    ],
    ["an extension twice", { extensions: [...ekExtensions, endEntity] }],
    [
      "bytes behind an extension's value",
      {
        extensions: having({
          ...keyUsage(0x20),
          value: encodeDer([element(0x03, Uint8Array.of(0, 0x20)), boolean(0)]),
        }),
      },
    ],
    [
      "critical neither true nor false",
      { extensions: having({ ...altName(directoryName(rdn(manufacturer))), critical: boolean(0x01) }) },
    ],
    ["an empty serial number", { serial: integer() }],
    ["a negative serial number", { serial: integer(0x80) }],
    ["a serial number of a hundred octets", { serial: integer(...new Array<number>(100).fill(1)) }],
    [
      "a path length of eight octets",
      { extensions: having({ ...endEntity, value: sequence(integer(1, 1, 1, 1, 1, 1, 1, 1)) }) },
    ],
    ["a negative path length", { extensions: having({ ...endEntity, value: sequence(integer(0xff)) }) }],
  ])("I10: one with %s is malformed", (_, changes) => {
    expect(() => verify([leaf(changes)])).toThrow(expect.objectContaining({ code: "ERR_ENDORSEMENT_MALFORMED" }));
  });

  it("I10: what is nested ten thousand deep, and what has ten thousand parts, ends in a typed error in bounded time", () => {
    let deep = sequence();
    for (let depth = 0; depth < 10_000; depth++)
      deep = element(0x30, encodeDer([{ tag: 0x30, content: deep.content.slice(0, 40_000) }]));
    const many = Array.from({ length: 10_000 }, () => element(0x05, new Uint8Array()));
    const extensions = Array.from({ length: 4_000 }, (_, index) => ({ id: `1.2.${index}`, value: sequence() }));
    const start = process.cpuUsage().user;
    for (const changes of [
      { extensions: having({ ...altName(), value: deep }) },
      { extensions: having(altName(...many)) },
      { extensions: [...ekExtensions, ...extensions, endEntity] },
      { subject: sequence(...many) },
    ])
      expect(() => verify([leaf(changes)])).toThrow(AttestError);
    expect((process.cpuUsage().user - start) / 1e6).toBeLessThan(5);
  });
});
