import { describe, expect, it } from "vitest";
import type { DerElement } from "../../attest/der.ts";
import {
  authority,
  commonName,
  endEntity,
  integer,
  keyUsage,
  oid,
  pssWith,
  purposes,
  sequence,
  signingWith,
  type WrittenCertificate,
  type WrittenExtension,
  writeCertificate,
} from "../support/certificate-writer.ts";

import {
  anchorFor,
  ec,
  ek,
  leaf,
  type Pair,
  pinned,
  root,
  rootCertificate,
  rootExtensions,
  rsaEk,
  rsaPair,
  verify,
} from "../support/endorsement-shapes.ts";

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

  it("I10: more than eight certificates, or none, are refused unread", () => {
    expect(() => verify(new Array<Uint8Array>(9).fill(Uint8Array.of(1)))).toThrow(/1 to 8 certificates, got 9/);
    expect(() => verify([])).toThrow(/1 to 8 certificates, got 0/);
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
