import { generateKeyPairSync, X509Certificate } from "node:crypto";
import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import { parseDer } from "../../attest/der.ts";
import { MAX_CERTIFICATE, parseCertificate, parsePolicy, sha256Hex, toBase64, toHex } from "../../policy/index.ts";
import { comparePolicies } from "../../policy/narrowing.ts";
import { element, integer, nest, sequence } from "../support/certificate-writer.ts";
import { EXTENSIONS, makeCertificate } from "../support/certificates.ts";
import { encodeDer } from "../support/der-writer.ts";
import { openKeyAuthority } from "../support/key-certificates.ts";
import { documentBytes, policyDocument } from "../support/policy-document.ts";

const { publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
const authority = openKeyAuthority();
const DER = authority.certificate(publicKey, "release");
const spkiOf = (der: Uint8Array) => new X509Certificate(der).publicKey.export({ type: "spki", format: "der" });
const refusal = (der: Uint8Array): string => {
  try {
    parseCertificate(der);
    return "accepted";
  } catch (error) {
    expect(error).toMatchObject({ code: "ERR_POLICY_INVALID" });
    return error instanceof Error ? error.message : "";
  }
};

describe("the reader of certificates", () => {
  let byOpenssl: Uint8Array;
  beforeAll(() => {
    byOpenssl = makeCertificate({ subject: "/O=x/CN=server", extensions: EXTENSIONS.ek, issuer: null }).der;
  });

  test("I7: finds the same public key, names and number as OpenSSL", () => {
    for (const der of [DER, byOpenssl]) {
      const { spki, serial, subject, issuer } = parseCertificate(der);
      const known = new X509Certificate(der);
      expect(toHex(spki)).toBe(spkiOf(der).toString("hex"));
      expect(BigInt(`0x${toHex(serial.subarray(2))}`)).toBe(BigInt(`0x${known.serialNumber}`));
      const common = (name: string) => /CN=(.*)$/.exec(name)?.[1] ?? "none";
      expect(Buffer.from(subject).toString("latin1")).toContain(common(known.subject));
      expect(Buffer.from(issuer).toString("latin1")).toContain(common(known.issuer));
    }
  });

  test("I7: a certificate with a byte too few, one too many, or one that is another, is refused or has other parts", () => {
    const whole = JSON.stringify(Object.values(parseCertificate(DER)).map((part) => toHex(part)));
    fc.assert(
      fc.property(fc.nat(DER.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
        expect(refusal(DER.slice(0, at))).not.toBe("accepted");
        const changed = DER.slice();
        changed[at] = (changed[at] ?? 0) ^ flip;
        if (refusal(changed) !== "accepted") return;
        expect(JSON.stringify(Object.values(parseCertificate(changed)).map((part) => toHex(part)))).not.toBe(whole);
      }),
      { numRuns: 300 },
    );
    expect(refusal(Uint8Array.from([...DER, 0]))).toMatch(/^certificate (end|length)/);
  });

  test.each([
    ["no serial number", 1, [], /serialNumber/],
    ["a negative serial number", 1, [integer(0x80)], /serialNumber/],
    ["a serial number with a needless zero", 1, [integer(0, 1)], /serialNumber/],
    ["a serial number of 22 octets", 1, [integer(...Array(22).fill(1))], /serialNumber/],
    ["another algorithm inside than outside", 2, [sequence(integer(1))], /signature: expected the signatureAlgorithm/],
    ["one time", 4, [sequence(element(0x17, new Uint8Array(13)))], /validity/],
    ["no subject", 5, [], /.*/],
    ["extensions twice", 7, [nest(0xa3, sequence()), nest(0xa3, sequence())], /tbsCertificate end/],
    ["something else at the end", 7, [nest(0xa4)], /tbsCertificate end/],
    ["a constructed part of no elements", 7, [element(0xa3, Uint8Array.of(0x30, 5))], /length/],
  ])("I7: a certificate with %s is refused", (_, at, parts, message) => {
    const [certificate] = parseDer(DER);
    const [tbs, ...rest] = parseDer(certificate?.content ?? new Uint8Array());
    const fields = parseDer(tbs?.content ?? new Uint8Array()).toSpliced(at, 1, ...parts);
    expect(refusal(encodeDer([sequence(sequence(...fields), ...rest)]))).toMatch(message);
  });

  test("I7: one that is longer than 16 KiB, or nested without end, is refused", () => {
    expect(refusal(new Uint8Array(MAX_CERTIFICATE + 1))).toBe(
      "certificate size: expected at most 16384 bytes, got 16385",
    );
    let deep = sequence();
    for (let level = 0; level < 20; level += 1) deep = sequence(deep);
    expect(refusal(encodeDer([deep]))).toMatch(/nesting/);
    for (const head of [[], [0x30], [0x30, 0x80], [0x30, 0x81, 0x01, 0], [0x30, 0x83, 1, 0, 0], [0x3f, 0x01, 0]])
      expect(refusal(Uint8Array.from(head)), `${head}`).not.toBe("accepted");
  });
});

describe("certificates of a policy", () => {
  const document = (certificates: unknown) => {
    const all = policyDocument();
    all.keys["release-ec"] = { spki: `sha256:${sha256Hex(Uint8Array.from(spkiOf(DER)))}`, does: "sign" };
    return { ...all, certificates };
  };
  const read = (certificates: unknown) => parsePolicy(documentBytes(document(certificates)));

  test("I7: one of the key is taken, and absent there are none", () => {
    expect(read({ "release-ec": toBase64(DER) }).certificates).toEqual({ "release-ec": toBase64(DER) });
    expect(read(undefined).certificates).toEqual({});
  });

  test.each([
    ["of a name that is no key", { vaults: toBase64(DER) }, "certificates.vaults: unknown key"],
    ["of another key", { vault: toBase64(DER) }, "certificates.vault: its public key is sha256:"],
    ["that is none", { "release-ec": "AAAA" }, "certificates.release-ec: certificate"],
    ["with a byte behind it", { "release-ec": toBase64(Uint8Array.from([...DER, 5])) }, "certificate length"],
    ["that is no base64", { "release-ec": "MII%" }, "certificates.release-ec: expected base64"],
    ["of more than 16 KiB", { "release-ec": "A".repeat(21_852) }, "certificates.release-ec: too big"],
  ])("I7: a certificate %s is a finding", (_, certificates, message) => {
    expect(() => read(certificates)).toThrow(message);
  });

  test("I7: narrowing: one may go; to come or to be another takes a launch, and is told by digest", () => {
    const [none, one] = [read({}), read({ "release-ec": toBase64(DER) })];
    const other = read({ "release-ec": toBase64(authority.certificate(publicKey, "other")) });
    const kinds = (from: typeof none, to: typeof none) =>
      comparePolicies(from, to).map(({ kind, field }) => `${kind} ${field}`);
    expect(kinds(one, none)).toEqual(["narrows certificates"]);
    expect(kinds(none, one)).toEqual(["needs-launch certificates"]);
    expect(kinds(one, other)).toEqual(["needs-launch certificates.release-ec"]);
    expect(comparePolicies(one, other)[0]?.from).toBe(`sha256:${sha256Hex(DER)}`);
  });
});
