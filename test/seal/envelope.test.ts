import { createPrivateKey, createPublicKey, sign as signWith } from "node:crypto";
import { chmod, stat } from "node:fs/promises";
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import {
  decodeSpkiPem,
  encodeAnchors,
  encodeDerSignature,
  encodeEnvelope,
  encodePreAuthentication,
  encodeSpkiPem,
  PolicyError,
  parseAnchors,
  parseDerSignature,
  parseEnvelope,
  parseVerificationKey,
  type SigningKey,
  signEnvelope,
  utf8,
  verifyEnvelope,
  verifySignature,
} from "../../policy/index.ts";
import { SealError } from "../../seal/errors.ts";
import { createSigningKey, createSigningKeyFile, loadSigningKey } from "../../seal/keys.ts";
import { withFiles } from "../support/seal-fixture.ts";

const TYPE = "application/vnd.ironclaw.test+json";
let p256: SigningKey;
let rsa: SigningKey;

beforeAll(async () => {
  p256 = (await createSigningKey("p256")).key;
  rsa = (await createSigningKey("rsa2048")).key;
});

describe("an envelope", () => {
  it("I2: the signed bytes are DSSE's, lengths counted in bytes", () => {
    expect(encodePreAuthentication("http://example.com/HelloWorld", utf8("hello world"))).toEqual(
      utf8("DSSEv1 29 http://example.com/HelloWorld 11 hello world"),
    );
  });

  it("I2: what was signed is what is read, for both kinds of key", async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 500 }), fc.boolean(), async (payload, useRsa) => {
        const key = useRsa ? rsa : p256;
        const bytes = await signEnvelope(TYPE, payload, key);
        const envelope = parseEnvelope(bytes);
        expect(encodeEnvelope(envelope)).toEqual(bytes);
        expect(await verifyEnvelope(envelope, TYPE, key.spkiPem)).toEqual(payload);
      }),
      { numRuns: 30 },
    );
  });

  it("I2: another type, another key and another payload are each refused by name", async () => {
    const envelope = parseEnvelope(await signEnvelope(TYPE, utf8("payload"), p256));
    const { signature } = envelope;
    const other = (await createSigningKey()).key;
    const shortened = { ...envelope, signature: { ...signature, sig: signature.sig.subarray(1) } };
    const refusals: [() => Promise<unknown>, RegExp][] = [
      [() => verifyEnvelope(envelope, `${TYPE}x`, p256.spkiPem), /payloadType/],
      [() => verifyEnvelope(envelope, TYPE, other.spkiPem), /keyid/],
      [() => verifyEnvelope({ ...envelope, payload: utf8("Payload") }, TYPE, p256.spkiPem), /signature/],
      [() => verifyEnvelope(shortened, TYPE, p256.spkiPem), /signature/],
    ];
    for (const [refused, message] of refusals) {
      await expect(refused()).rejects.toThrow(message);
      await expect(refused()).rejects.toMatchObject({ code: "ERR_ENVELOPE_SIGNATURE", exitCode: 3 });
    }
  });

  it("I10: any other encoding of the same envelope is refused", async () => {
    const text = new TextDecoder().decode(await signEnvelope(TYPE, utf8("p"), p256));
    const document: unknown = JSON.parse(text);
    const others = [
      ` ${text}`,
      `${text}\n`,
      `\ufeff${text}`,
      JSON.stringify(document, null, 1),
      text.replace('{"payloadType"', '{"payloadType":"x","payloadType"'),
      text.replace('"signatures":[', '"signatures":[],"signatures":['),
      text.replace('"keyid"', '"extra":1,"keyid"'),
      text.replace('"payload":"cA=="', '"payload":"cB=="'),
      text.replace('"payload":"cA=="', '"payload":"cA"'),
      "[]",
      "null",
      "[".repeat(100_000),
    ];
    for (const other of others) expect(() => parseEnvelope(utf8(other))).toThrow(PolicyError);
    expect(() => parseEnvelope(new Uint8Array((1 << 20) + 1))).toThrow(/size/);
  });

  it("I10: random and mutated bytes end in a typed error or in the same envelope", async () => {
    const bytes = await signEnvelope(TYPE, utf8("payload"), p256);
    const mutated = fc
      .tuple(fc.nat(bytes.length - 1), fc.nat(255))
      .map(([at, to]) => bytes.map((byte, index) => (index === at ? to : byte)));
    fc.assert(
      fc.property(fc.oneof(mutated, fc.uint8Array({ maxLength: 300 })), (input) => {
        try {
          expect(encodeEnvelope(parseEnvelope(input))).toEqual(input);
        } catch (error) {
          expect(error).toBeInstanceOf(PolicyError);
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe("keys", () => {
  it("I10: a PEM is one block of a known kind, in its one encoding", async () => {
    for (const { spkiPem } of [p256, rsa]) {
      expect(encodeSpkiPem(decodeSpkiPem(spkiPem))).toBe(spkiPem);
      const refused = [
        spkiPem + spkiPem,
        `x${spkiPem}`,
        spkiPem.replace("PUBLIC", "PRIVATE"),
        spkiPem.replaceAll("\n", "\r\n"),
        "",
      ];
      for (const pem of refused) expect(() => parseVerificationKey(pem)).toThrow(PolicyError);
      const der = decodeSpkiPem(spkiPem);
      for (const bytes of [
        der.slice(0, -1),
        Uint8Array.of(...der, 0),
        der.map((byte, at) => (at === 10 ? byte ^ 1 : byte)),
      ]) {
        expect(() => parseVerificationKey(encodeSpkiPem(bytes))).toThrow(
          expect.objectContaining({ code: "ERR_KEY_MALFORMED" }),
        );
      }
    }
  });

  it("I10: a P-256 point off the curve is a typed error", async () => {
    const der = decodeSpkiPem(p256.spkiPem);
    const broken = encodeSpkiPem(der.map((byte, at) => (at === der.length - 1 ? byte ^ 1 : byte)));
    await expect(verifySignature(broken, utf8("x"), new Uint8Array(64))).rejects.toMatchObject({
      code: "ERR_KEY_MALFORMED",
    });
  });

  it("I2: r||s and DER signatures convert both ways, and another DER is refused", async () => {
    const { privatePem, key } = await createSigningKey();
    for (let round = 0; round < 50; round++) {
      const der = signWith("sha256", utf8(`${round}`), createPrivateKey(privatePem));
      const raw = parseDerSignature(der);
      expect(encodeDerSignature(raw)).toEqual(Uint8Array.from(der));
      expect(await verifySignature(key.spkiPem, utf8(`${round}`), raw)).toBe(true);
    }
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 64, maxLength: 64 }), (raw) => {
        expect(parseDerSignature(encodeDerSignature(raw))).toEqual(raw);
      }),
    );
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
        expect(() => parseDerSignature(bytes)).toThrow(PolicyError);
      }),
    );
  });

  it("I2: a key file is new, mode 0600, and refused once others can read it", async () => {
    await withFiles(
      {
        junk: utf8("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
      },
      async (at) => {
        for (const kind of ["p256", "rsa2048"] as const) {
          const made = await createSigningKeyFile(at(kind), kind);
          expect((await stat(at(kind))).mode & 0o777).toBe(0o600);
          expect((await loadSigningKey(at(kind))).spkiPem).toBe(made.spkiPem);
          expect(createPublicKey(made.spkiPem).type).toBe("public");
          await expect(createSigningKeyFile(at(kind), kind)).rejects.toThrow(/EEXIST/);
          await chmod(at(kind), 0o640);
          await expect(loadSigningKey(at(kind))).rejects.toThrow(/mode 0600, got 0640/);
        }
        await chmod(at("junk"), 0o600);
        await expect(loadSigningKey(at("junk"))).rejects.toBeInstanceOf(SealError);
        await expect(loadSigningKey(at("missing"))).rejects.toMatchObject({
          code: "ERR_KEY_FILE",
          exitCode: 4,
        });
      },
    );
  });

  it("I2: anchors round-trip, and a key of another kind is refused", () => {
    const anchors = {
      version: 1,
      releaseRoot: p256.spkiPem,
      operator: rsa.spkiPem,
    } as const;
    expect(parseAnchors(encodeAnchors(anchors))).toEqual(anchors);
    expect(() => parseAnchors(encodeAnchors({ ...anchors, operator: "x" }))).toThrow(PolicyError);
    fc.assert(fc.property(fc.uint8Array(), (bytes) => void expect(() => parseAnchors(bytes)).toThrow(PolicyError)));
  });
});
