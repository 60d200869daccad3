import { X509Certificate } from "node:crypto";
import { describe, expect, it } from "vitest";
import { parseCertificateFields } from "../../attest/ek-certificate.ts";
import { verifyEndorsement } from "../../attest/endorsement.ts";
import type { TrustAnchor } from "../../attest/endorsement-chain.ts";
import { AttestError } from "../../attest/errors.ts";
import { toHex } from "../../policy/index.ts";
import { openEkCertificate } from "../../seal/ek-public.ts";
import { declareOaep, EXTENSIONS, type MadeCertificate, makeCertificate } from "../support/certificates.ts";

const at = new Date(Date.now() + 60_000);
const root = makeCertificate({ subject: "/CN=root", extensions: EXTENSIONS.authority, issuer: null });
const ekUnder = (issuer: MadeCertificate) => makeCertificate({ subject: "/CN=ek", extensions: EXTENSIONS.ek, issuer });
const anchor = (pem: string): TrustAnchor => ({
  name: "root",
  pem,
  assurance: "hardware-ek",
  requireEkPurpose: true,
  manufacturers: "any",
});

describe("a chain of EK certificates", () => {
  const issuer = makeCertificate({ subject: "/CN=issuer", extensions: EXTENSIONS.lastAuthority, issuer: root });

  it("I9: it verifies up to the pinned root", () => {
    const ek = ekUnder(issuer);
    expect(verifyEndorsement([ek.der, issuer.der], [anchor(root.pem)], at).assurance).toBe("hardware-ek");
    expect(parseCertificateFields(issuer.der).pathLength).toBe(0);
    expect(parseCertificateFields(root.der).pathLength).toBeNull();
  });

  it("I9: an authority that may have none below it cannot make one", () => {
    const below = makeCertificate({ subject: "/CN=below", extensions: EXTENSIONS.authority, issuer });
    const ek = ekUnder(below);
    expect(() => verifyEndorsement([ek.der, below.der, issuer.der], [anchor(root.pem)], at)).toThrow(
      /pinned authority/,
    );
    expect(() => verifyEndorsement([ek.der, below.der], [anchor(issuer.pem)], at)).toThrow(/pinned authority/);
  });

  it.each([
    ["an EK", EXTENSIONS.ek],
    ["an authority without the right to sign certificates", "basicConstraints=CA:TRUE\nkeyUsage=digitalSignature"],
    ["an authority that does not say so", "keyUsage=keyCertSign"],
  ])("I9: %s cannot issue", (_who, extensions) => {
    const impostor = makeCertificate({ subject: "/CN=impostor", extensions, issuer: root });
    const ek = ekUnder(impostor);
    expect(() => verifyEndorsement([ek.der, impostor.der], [anchor(root.pem)], at)).toThrow(/pinned authority/);
  });

  it("I9: an issuer of the same name with another key is not the issuer", () => {
    const twin = makeCertificate({ subject: "/CN=root", extensions: EXTENSIONS.authority, issuer: null });
    expect(() => verifyEndorsement([ekUnder(twin).der], [anchor(root.pem)], at)).toThrow(/pinned authority/);
  });

  it("I9: an expired certificate, a SHA-1 signature and an unknown critical extension are refused", () => {
    const sha1 = makeCertificate({ subject: "/CN=ek", extensions: EXTENSIONS.ek, issuer: root, digest: "sha1" });
    expect(() => verifyEndorsement([sha1.der], [anchor(root.pem)], at)).toThrow(/SHA-2/);
    const later = new Date(Date.now() + 31 * 86_400_000);
    expect(() => verifyEndorsement([ekUnder(root).der], [anchor(root.pem)], later)).toThrow(/dates/);
    const extensions = `${EXTENSIONS.ek}\nnameConstraints=critical,permitted;email:a@example.org`;
    const odd = makeCertificate({ subject: "/CN=ek", extensions, issuer: root });
    expect(() => verifyEndorsement([odd.der], [anchor(root.pem)], at)).toThrow(/critical/);
  });

  it("I9: a pinned root is trusted because it is pinned, whatever it signed itself with", () => {
    const old = makeCertificate({ subject: "/CN=old", extensions: EXTENSIONS.authority, issuer: null, digest: "sha1" });
    expect(verifyEndorsement([ekUnder(old).der], [anchor(old.pem)], at).anchor).toBe("root");
  });
});

describe("an RSA key that is declared for RSAES-OAEP", () => {
  const plain = ekUnder(root);
  const oaep = declareOaep(plain, root);

  it("I9: it gives the same EK as one that is not, here and where a PIN is sealed", () => {
    expect(() => new X509Certificate(oaep).publicKey).toThrow();
    const expected = verifyEndorsement([plain.der], [anchor(root.pem)], at);
    const got = verifyEndorsement([oaep], [anchor(root.pem)], at);
    expect(toHex(got.ekName)).toBe(toHex(expected.ekName));
    expect(toHex(openEkCertificate(oaep).name)).toBe(toHex(expected.ekName));
  });

  it("I10: its key cut short is a typed error", () => {
    const key = parseCertificateFields(oaep).oaepKey ?? new Uint8Array();
    const start = Buffer.from(oaep).indexOf(key);
    const damaged = oaep.with(start, 0x31);
    expect(() => verifyEndorsement([damaged], [anchor(root.pem)], at)).toThrow(AttestError);
    expect(() => openEkCertificate(damaged)).toThrow(/certificate/);
  });
});
