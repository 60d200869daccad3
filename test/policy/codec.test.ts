import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  ByteReader,
  ByteWriter,
  CREDENTIAL_NAME,
  type Delegation,
  decodeSpkiPem,
  encodeAnchors,
  encodeDelegation,
  encodeDerSignature,
  encodeEnvelope,
  encodeRelease,
  encodeSpkiPem,
  encodeTpmtSignature,
  encodeVerificationKeyPublic,
  fromBase64,
  fromBase64Url,
  fromHex,
  MAX_EPOCH,
  openTexts,
  parseAnchors,
  parseDelegation,
  parseDerSignature,
  parseEnvelope,
  parseJson,
  parseRelease,
  parseVerificationKey,
  plainTexts,
  preUnsealKinds,
  type Release,
  SEAL_PCRS,
  toBase64,
  toBase64Url,
  toHex,
  utf8,
} from "../../policy/index.ts";
import { encodeProfile, parseCompiledProfile } from "../../policy/runtime/compile.ts";
import { parseProfile } from "../../policy/runtime/parse.ts";
import { madeP256, madeRsa } from "../fuzz/keys.ts";
import { expectTypedOrSame } from "../support/typed-or-same.ts";

const bytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });
const hex = (length: number) => bytes(length).map(toHex);
const pem = fc.oneof(fc.nat(255).map(madeP256), fc.integer({ min: 0x80, max: 0xff }).map(madeRsa));
const signature = fc.uint8Array({ maxLength: 256 }).map(toBase64);
const time = fc
  .date({ min: new Date("2000-01-01T00:00:00Z"), max: new Date("2100-01-01T00:00:00Z"), noInvalidDate: true })
  .map((date) => date.toISOString());

const anyDelegation: fc.Arbitrary<Delegation> = fc.record({
  lastEpoch: fc.integer({ min: 0, max: MAX_EPOCH }),
  credentials: fc
    .uniqueArray(fc.record({ name: fc.stringMatching(CREDENTIAL_NAME), signature }), {
      minLength: 1,
      maxLength: 5,
      selector: ({ name }) => name,
    })
    .map((list) => list.sort((a, b) => (a.name < b.name ? -1 : 1))),
  first: signature,
  raise: signature,
});

const anyRelease: fc.Arbitrary<Release> = fc
  .record({
    name: fc.string({ unit: "grapheme", minLength: 1, maxLength: 20 }),
    id: hex(32),
    variant: fc.constantFrom("demo" as const, "dev" as const, "release" as const),
    dates: fc.tuple(time, time).map(([a, b]) => (a < b ? [a, b] : [b, a])),
    more: fc.uniqueArray(fc.integer({ min: 0, max: 15 }), { maxLength: 6 }),
    sha256: hex(32),
    sha384: hex(48),
    events: fc.array(
      fc.record({
        kind: fc.constantFrom(...preUnsealKinds),
        name: fc.string({ minLength: 1, maxLength: 30 }),
        sha256: hex(32),
      }),
      { minLength: 1, maxLength: 4 },
    ),
    epoch: fc.nat(),
    unseal: signature,
    raise: fc.option(signature),
    releaseKey: pem,
    delegation: anyDelegation,
  })
  .map(({ id, variant, dates, more, sha256, sha384, ...fields }) => {
    const indices = [...new Set([...SEAL_PCRS, ...more])].sort((a, b) => a - b);
    const bank = (value: string) => Object.fromEntries(indices.map((index) => [`${index}`, value]));
    return {
      version: 2 as const,
      name: fields.name,
      image: { id, variant },
      epoch: Math.min(fields.epoch, fields.delegation.lastEpoch),
      notBefore: dates[0] ?? "",
      notAfter: dates[1] ?? "",
      agentPcr: 13 as const,
      pcrs: { sha256: bank(sha256), sha384: bank(sha384) },
      events: fields.events,
      unseal: fields.unseal,
      raise: fields.raise,
      releaseKey: fields.releaseKey,
      delegation: fields.delegation,
    };
  });

describe("codecs of policy", () => {
  test("I10: whatever a writer wrote, the strict reader reads back and ends there", () => {
    const field = fc.record({
      u8: fc.nat(0xff),
      u16: fc.nat(0xffff),
      u32: fc.nat(0xffffffff),
      u64: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
      short: fc.uint8Array(),
      long: fc.uint8Array(),
    });
    fc.assert(
      fc.property(field, ({ u8, u16, u32, u64, short, long }) => {
        const written = new ByteWriter().u8(u8).u16(u16).u32(u32).u64(u64).sized16(short).sized32(long).finish();
        const reader = new ByteReader(written, "test");
        expect([reader.u8(""), reader.u16(""), reader.u32(""), reader.u64("")]).toEqual([u8, u16, u32, u64]);
        expect([reader.sized16("", 4096), reader.sized32("", 4096)]).toEqual([short, long]);
        reader.end();
        const mirrored = new ByteReader(written.slice(0, 7).toReversed(), "test");
        expect([mirrored.u32le(""), mirrored.u16le(""), mirrored.u8("")]).toEqual([u32, u16, u8]);
      }),
    );
  });

  test("I10: hexadecimal and base64 read back, and accepted base64 is the one spelling", () => {
    fc.assert(
      fc.property(fc.uint8Array(), (value) => {
        expect(fromHex(toHex(value))).toEqual(value);
        expect(fromBase64(toBase64(value))).toEqual(value);
        expect(fromBase64Url(toBase64Url(value))).toEqual(value);
        // Once with what this Node has itself, once with what every platform has.
        expect([toHex(value), toBase64(value)]).toEqual([value.toHex(), value.toBase64()]);
        expect([plainTexts.toHex(value), plainTexts.toBase64(value)]).toEqual([value.toHex(), value.toBase64()]);
        expect(plainTexts.readBase64(value.toBase64())).toEqual(value);
        expect(toBase64Url(value)).toBe(value.toBase64({ alphabet: "base64url", omitPadding: true }));
      }),
    );
    const again = (text: Uint8Array) => utf8(toBase64(fromBase64(new TextDecoder().decode(text))));
    expectTypedOrSame(
      again,
      fc.uint8Array({ maxLength: 40 }).map((value) => utf8(toBase64(value))),
    );
    const againUrl = (text: Uint8Array) => utf8(toBase64Url(fromBase64Url(new TextDecoder().decode(text))));
    expectTypedOrSame(
      againUrl,
      fc.uint8Array({ maxLength: 40 }).map((value) => utf8(toBase64Url(value))),
    );
    for (const text of ["QQ==", "QR", "Q", " QQ", "Q+", "Q/", "QQ\n"])
      expect(() => fromBase64Url(text), text).toThrow(/expected canonical base64/);
    expect(openTexts({ prototype: {} })).toBe(plainTexts);
    const long = new Uint8Array(100_000).map((_, index) => index);
    expect(fromBase64(toBase64(long))).toEqual(long);
    expect(plainTexts.readBase64(plainTexts.toBase64(long))).toEqual(long);
  });

  test("I2: public keys in PEM", () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 400 }), (der) => {
        expect(decodeSpkiPem(encodeSpkiPem(der))).toEqual(der);
      }),
    );
    fc.assert(fc.property(fc.nat(255), (byte) => void expect(parseVerificationKey(madeP256(byte)).kind).toBe("p256")));
    const again = (text: Uint8Array) =>
      utf8(encodeSpkiPem(decodeSpkiPem(new TextDecoder("utf-8", { fatal: false }).decode(text))));
    // The line feed at the end may be missing: some tools leave it out. It is put back here, so all else is one spelling.
    const withEnd = (text: Uint8Array) => (text.at(-1) === 0x0a ? again(text) : again(text).slice(0, -1));
    expectTypedOrSame(withEnd, pem.map(utf8));
  });

  test("I2: raw signatures in DER, and TPM structures of keys and signatures of the right size", () => {
    fc.assert(fc.property(bytes(64), (raw) => void expect(parseDerSignature(encodeDerSignature(raw))).toEqual(raw)));
    expectTypedOrSame((der) => encodeDerSignature(parseDerSignature(der)), bytes(64).map(encodeDerSignature));
    fc.assert(
      fc.property(pem, (key) => {
        const isEcc = parseVerificationKey(key).kind === "p256";
        expect(encodeVerificationKeyPublic(key)).toHaveLength(isEcc ? 86 : 278);
        expect(encodeTpmtSignature(key, new Uint8Array(isEcc ? 64 : 256))).toHaveLength(isEcc ? 72 : 262);
      }),
    );
  });

  test("I2: envelopes", () => {
    const any = fc.record({
      payloadType: fc.stringMatching(/^[a-z0-9.+/-]{1,40}$/),
      payload: fc.uint8Array(),
      signature: fc.record({ keyid: hex(32), sig: fc.uint8Array({ maxLength: 256 }) }),
    });
    fc.assert(fc.property(any, (envelope) => void expect(parseEnvelope(encodeEnvelope(envelope))).toEqual(envelope)));
    expectTypedOrSame((document) => encodeEnvelope(parseEnvelope(document)), any.map(encodeEnvelope));
  });

  test("I2: trust anchors", () => {
    const any = fc.record({ version: fc.constant(1 as const), releaseRoot: pem, operator: pem });
    fc.assert(fc.property(any, (anchors) => void expect(parseAnchors(encodeAnchors(anchors))).toEqual(anchors)));
    expectTypedOrSame((document) => encodeAnchors(parseAnchors(document)), any.map(encodeAnchors));
  });

  test("I2: delegations", () => {
    const any = fc.record({ version: fc.constant(2 as const), releaseKey: pem, delegation: anyDelegation });
    fc.assert(
      fc.property(any, (document) => void expect(parseDelegation(encodeDelegation(document))).toEqual(document)),
    );
    expectTypedOrSame((document) => encodeDelegation(parseDelegation(document)), any.map(encodeDelegation));
  });

  test("I2: releases", () => {
    fc.assert(fc.property(anyRelease, (release) => void expect(parseRelease(encodeRelease(release))).toEqual(release)));
    expectTypedOrSame((document) => encodeRelease(parseRelease(document)), anyRelease.map(encodeRelease), 300);
  });

  test("I10: strict JSON reads what JSON.stringify writes, as the same value", () => {
    const any = fc.jsonValue({ maxDepth: 4, noUnicodeString: true });
    const limits = { maxBytes: 1 << 20, maxDepth: 16 };
    const exact = (value: unknown) =>
      typeof value !== "number" || !Number.isInteger(value) || Number.isSafeInteger(value);
    fc.assert(
      fc.property(any, (value) => {
        let inexact = false;
        const text = JSON.stringify(value, (key, field) => {
          inexact ||= key === "__proto__" || !exact(field);
          return field;
        });
        fc.pre(!inexact);
        expect(parseJson(utf8(text), "document", limits)).toEqual(JSON.parse(text));
      }),
    );
  });

  test("I12: a compiled profile says what its text says", () => {
    const number = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n });
    const limits = fc.uniqueArray(fc.tuple(fc.constantFrom("cpu", "fsize", "stack", "nofile", "memlock"), number), {
      selector: ([name]) => name,
    });
    const paths = fc.uniqueArray(fc.stringMatching(/^(?:\/[a-z0-9]{1,8}){1,4}$/), { maxLength: 4 });
    const base = "profile tiny\narch x86_64\n";
    fc.assert(
      fc.property(limits, paths, (wanted, files) => {
        const text = [
          base,
          ...wanted.map(([name, value]) => `limit ${name} ${value}`),
          ...files.map((path) => `landlock read ${path}`),
          "stage load",
          "allow read",
          "stage serve",
          "allow read",
        ].join("\n");
        const profile = parseProfile(text);
        expect(profile.limits.map(({ resource, value }) => [resource, value])).toEqual(wanted);
        expect(profile.landlock.map(({ path }) => path)).toEqual(files);
        const read = parseCompiledProfile(encodeProfile(profile));
        expect(read.limits.map(({ value }) => value)).toEqual(wanted.map(([, value]) => value));
        expect(read.landlock.map(({ path }) => path)).toEqual(files);
      }),
    );
  });
});
