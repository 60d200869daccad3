import { generateKeyPairSync, type KeyObject } from "node:crypto";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import type { DerElement } from "../../attest/der.ts";
import { splitCertificates, trimCertificate } from "../../attest/ek-certificate.ts";
import { verifyEndorsement } from "../../attest/endorsement.ts";
import type { TrustAnchor } from "../../attest/endorsement-chain.ts";
import { AttestError } from "../../attest/errors.ts";
import { concatBytes } from "../../policy/index.ts";
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
  nest,
  oid,
  pssWith,
  purposes,
  rdn,
  sequence,
  signingWith,
  text,
  tpmAttributes,
  type WrittenCertificate,
  type WrittenExtension,
  writeCertificate,
} from "../support/certificate-writer.ts";
import { encodeDer } from "../support/der-writer.ts";
import { toPem } from "../support/vendor-chains.ts";

const at = new Date("2030-01-01T00:00:00Z");
const ec = (namedCurve: string) => generateKeyPairSync("ec", { namedCurve });
const rsaPair = (modulusLength: number) => generateKeyPairSync("rsa", { modulusLength });
type Pair = { readonly publicKey: KeyObject; readonly privateKey: KeyObject };

const root = ec("P-256");
const ek = ec("P-256");
const rsaEk = rsaPair(2048);
const rootExtensions = [authority(), keyUsage(0x04)];
const rootCertificate = (pair: Pair, changes: Partial<WrittenCertificate> = {}) =>
  writeCertificate({
    ...{
      subject: commonName("root"),
      key: pair.publicKey,
      extensions: rootExtensions,
      signing: signingWith(pair.privateKey),
    },
    ...changes,
  });

const anchorFor = (der: Uint8Array, changes: Partial<TrustAnchor> = {}): TrustAnchor => ({
  ...{
    name: "root",
    pem: toPem(der),
    assurance: "hardware-ek",
    requireEkPurpose: true,
    manufacturers: ["id:49465800"],
  },
  ...changes,
});
const pinned = anchorFor(rootCertificate(root));

/** An EK certificate under the root, with changes. */
const leaf = (changes: Partial<WrittenCertificate> = {}) =>
  writeCertificate({ key: ek.publicKey, signing: signingWith(root.privateKey), ...changes });
const verify = (chain: readonly Uint8Array[], anchors: readonly TrustAnchor[] = [pinned]) =>
  verifyEndorsement(chain, anchors, at);

/** The usual extensions, those of the same kind replaced. */
const having = (...changed: readonly WrittenExtension[]): readonly WrittenExtension[] => [
  ...ekExtensions.filter(({ id }) => !changed.some((other) => other.id === id)),
  ...changed,
];
const without = (...ids: readonly string[]) => ekExtensions.filter(({ id }) => !ids.includes(id));
const [manufacturer = attribute("2.5.4.3", ""), model = manufacturer, version = manufacturer] = tpmAttributes();
const other = {
  dns: element(0x82, new TextEncoder().encode("tpm.example.org")),
  email: element(0x81, new TextEncoder().encode("a@example.org")),
};

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

describe("an authority", () => {
  const issuer = (pair: Pair, changes: Partial<WrittenCertificate> = {}) =>
    writeCertificate({
      ...{
        subject: commonName("issuer"),
        key: pair.publicKey,
        extensions: rootExtensions,
        signing: signingWith(root.privateKey),
      },
      ...changes,
    });
  const under = (pair: Pair, changes: Partial<WrittenCertificate> = {}) =>
    leaf({ issuer: commonName("issuer"), signing: signingWith(pair.privateKey), ...changes });
  const middle = ec("P-256");

  it.each<[string, Pair]>([
    ["RSA 2048", rsaPair(2048)],
    ["RSA 3072", rsaPair(3072)],
    ["RSA 4096", rsaPair(4096)],
    ["P-384", ec("P-384")],
    ["P-521", ec("P-521")],
  ])("I9: it may have an %s key", (_, pair) => {
    expect(verify([under(pair), issuer(pair)]).anchor).toBe("root");
    expect(verify([leaf({ signing: signingWith(pair.privateKey) })], [anchorFor(rootCertificate(pair))]).anchor).toBe(
      "root",
    );
  });

  it("I9: it may sign with RSASSA-PSS and SHA-2, and not with the SHA-1 that PSS means when it says nothing", () => {
    const pair = rsaPair(2048);
    const signed = (hash: "sha256" | "sha1") => under(pair, { signing: pssWith(pair.privateKey, hash) });
    expect(verify([signed("sha256"), issuer(pair)]).anchor).toBe("root");
    expect(() => verify([signed("sha1"), issuer(pair)])).toThrow(
      /signature: expected RSA or ECDSA with SHA-2, got rsassaPss/,
    );
  });

  it("I9: it may mark its certificate policies critical, and be valid for ever", () => {
    const policies = { id: "2.5.29.32", critical: true, value: sequence(sequence(oid("2.5.29.32.0"))) };
    const extensions = [...rootExtensions, policies];
    expect(verify([under(middle), issuer(middle, { extensions, notAfter: "99991231235959Z" })]).anchor).toBe("root");
  });

  it.each<[string, readonly WrittenExtension[], RegExp]>([
    [
      "that makes AK certificates",
      [...rootExtensions, purposes("2.23.133.8.3")],
      /issuer extKeyUsage: expected 2.23.133.8.1, got 2.23.133.8.3/,
    ],
    [
      "of constrained names",
      [...rootExtensions, { id: "2.5.29.30", value: sequence() }],
      /extensions: .*got 2.5.29.30/,
    ],
    [
      "of constrained policies",
      [...rootExtensions, { id: "2.5.29.36", critical: true, value: sequence() }],
      /extensions: .*got 2.5.29.36/,
    ],
    ["that is none", [endEntity, keyUsage(0x04)], /no authority/],
    ["that may not sign certificates", [authority(), keyUsage(0x02)], /pinned authority/],
  ])("I9: one %s issues no EK certificate", (_, extensions, message) => {
    expect(() => verify([under(middle), issuer(middle, { extensions })])).toThrow(message);
  });

  it("I9: one that names the EK purpose, or any purpose, issues", () => {
    for (const purpose of ["2.23.133.8.1", "2.5.29.37.0"])
      expect(
        verify([under(middle), issuer(middle, { extensions: [...rootExtensions, purposes(purpose)] })]).anchor,
      ).toBe("root");
  });

  it("I9: a path length counts the authorities below", () => {
    const lowest = ec("P-256");
    const low = writeCertificate({
      ...{
        subject: commonName("low"),
        issuer: commonName("issuer"),
        key: lowest.publicKey,
        extensions: rootExtensions,
      },
      signing: signingWith(middle.privateKey),
    });
    const chain = (pathLength: DerElement) => [
      leaf({ issuer: commonName("low"), signing: signingWith(lowest.privateKey) }),
      low,
      issuer(middle, { extensions: [authority(pathLength), keyUsage(0x04)] }),
    ];
    expect(verify(chain(integer(1))).anchor).toBe("root");
    expect(verify(chain(integer(1, 0))).anchor).toBe("root");
    expect(() => verify(chain(integer(0)))).toThrow(/1 authorities below one that allows 0/);
    const narrow = anchorFor(rootCertificate(root, { extensions: [authority(integer(1)), keyUsage(0x04)] }));
    expect(() => verify(chain(integer(1)), [narrow])).toThrow(/2 authorities below one that allows 1/);
  });

  it("I9: a weak or unknown key issues nothing, also when it is pinned", () => {
    for (const pair of [rsaPair(1024), ec("secp256k1")]) {
      expect(() => verify([under(pair), issuer(pair)])).toThrow(/unknown or weak/);
      const anchor = anchorFor(rootCertificate(pair));
      expect(() => verify([leaf({ signing: signingWith(pair.privateKey) })], [anchor])).toThrow(/unknown or weak/);
    }
  });

  it("I9: an ended authority issues nothing, pinned or not; a renewed one beside it does", () => {
    const ended = { notAfter: "250101000000Z" };
    expect(() => verify([under(middle), issuer(middle, ended)])).toThrow(/certificate dates/);
    const old = anchorFor(rootCertificate(root, ended), { name: "old root" });
    expect(() => verify([leaf()], [old])).toThrow(/trust anchor old root dates/);
    expect(verify([leaf()], [old, pinned]).anchor).toBe("root");
  });

  it("I9: of two that are pinned the lower one decides", () => {
    const low = anchorFor(issuer(middle), { name: "low", assurance: "provider-ek" });
    expect(verify([under(middle), issuer(middle)], [pinned, low]).assurance).toBe("provider-ek");
  });

  it("I9: a chain may go on above the pinned authority, whatever stands there", () => {
    const strange = rootCertificate(ec("P-256"), { serial: integer(9) });
    expect(verify([leaf(), rootCertificate(root), strange]).anchor).toBe("root");
  });

  it.each<[string, () => readonly Uint8Array[]]>([
    [
      "a self-signed stranger",
      () => [writeCertificate({ subject: commonName("root"), key: ek.publicKey, signing: signingWith(ek.privateKey) })],
    ],
    [
      "an issuer of the root's name with another key",
      () => [leaf({ signing: signingWith(middle.privateKey) }), rootCertificate(middle)],
    ],
    ["a chain with its issuer last", () => [under(middle), rootCertificate(root), issuer(middle)]],
    ["a chain without its issuer", () => [under(middle)]],
    [
      "authorities that issued each other",
      () => {
        const [one, two] = [ec("P-256"), ec("P-256")];
        const cross = (subject: string, key: Pair, by: string, signer: Pair) =>
          writeCertificate({
            subject: commonName(subject),
            issuer: commonName(by),
            key: key.publicKey,
            extensions: rootExtensions,
            signing: signingWith(signer.privateKey),
          });
        const a = cross("a", one, "b", two);
        const b = cross("b", two, "a", one);
        return [leaf({ issuer: commonName("a"), signing: signingWith(one.privateKey) }), a, b, a, b];
      },
    ],
    ["the same certificate five times", () => new Array<Uint8Array>(5).fill(under(middle))],
  ])("I9: %s does not end at a pinned authority", (_, chain) => {
    expect(() => verify(chain())).toThrow(/pinned authority/);
  });

  it("I9: a chain that begins with the issuer is refused as such", () => {
    expect(() => verify([issuer(middle), under(middle)])).toThrow(/end entity/);
  });

  it("I9: an EK certificate does not stand behind itself, though it were pinned", () => {
    const signedBySelf = writeCertificate({
      key: ek.publicKey,
      issuer: commonName(""),
      signing: signingWith(ek.privateKey),
    });
    for (const der of [leaf(), signedBySelf]) expect(() => verify([der], [anchorFor(der)])).toThrow(/pinned authority/);
  });

  it("I10: more than five certificates, or none, are refused unread", () => {
    expect(() => verify(new Array<Uint8Array>(6).fill(Uint8Array.of(1)))).toThrow(/1 to 5 certificates, got 6/);
    expect(() => verify([])).toThrow(/1 to 5 certificates, got 0/);
  });

  it("I10: a signature of another kind than the issuer's key is a refusal", () => {
    const mixed = leaf({
      signing: { ...signingWith(rsaEk.privateKey), sign: (tbs) => signingWith(root.privateKey).sign(tbs) },
    });
    expect(() => verify([mixed])).toThrow(/pinned authority.*kind of signature/);
  });

  it("I10: a text that is no certificate, or two of them, is no trust anchor", () => {
    for (const pem of [
      "",
      "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
      `${pinned.pem}${pinned.pem}`,
    ])
      expect(() => verify([leaf()], [{ ...pinned, pem }])).toThrow(
        expect.objectContaining({ code: "ERR_ENDORSEMENT_MALFORMED" }),
      );
  });
});

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
