import { generateKeyPairSync } from "node:crypto";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  concatBytes,
  fromHex,
  measureObjectPolicy,
  parseEnvelope,
  sha256,
  signEnvelope,
  toHex,
  utf8,
} from "../../policy/index.ts";
import { openEkCertificate } from "../../seal/ek-public.ts";
import { SealError } from "../../seal/errors.ts";
import { encodeImportBlob } from "../../seal/import-blob.ts";
import {
  type CredentialLabel,
  encodeCredentialLabel,
  encodeSealedPackage,
  packageDigest,
  parseSealedPackage,
  SEALED_TYPE,
  type SealedPackage,
  signSealedPackage,
  verifySealedPackage,
} from "../../seal/package.ts";
import { createSealKeys, LABEL, type SealKeys, sealFor } from "../support/seal-fixture.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";
import { readEkCertificate } from "../support/tpm-tools.ts";

let tpm: SoftwareTpm;
let keys: SealKeys;
let bytes: Uint8Array;
let sealed: SealedPackage;

beforeAll(async () => {
  tpm = await startSwtpm();
  keys = await createSealKeys();
  bytes = await sealFor(tpm, "p384", keys);
  sealed = await verifySealedPackage(bytes, keys.anchors);
});
afterAll(() => tpm?.stop());

const flipAt = (from: Uint8Array, at: number) => from.map((byte, index) => (index === at ? byte ^ 1 : byte));
const reread = (changed: SealedPackage) => parseSealedPackage(encodeSealedPackage(changed), keys.root.spkiPem);

describe("a sealed package", () => {
  it("I2: what the operator signed is read back, under both EKs and of every kind", async () => {
    for (const [ek, label] of [
      ["rsa", {}],
      ["p384", { notAfter: "2028-01-01T00:00:00Z" }],
      ["p384", { name: "tls-key", kind: "file", tokenSerial: null }],
      ["rsa", { name: "state", kind: "volume-key", tokenSerial: null, generation: 2 ** 32 - 1 }],
    ] as const) {
      const one = await sealFor(tpm, ek, keys, { label });
      const read = await verifySealedPackage(one, keys.anchors);
      expect(read).toMatchObject({ ...LABEL, ...label, version: 2 });
      expect(encodeSealedPackage(read)).toEqual(parseEnvelope(one).payload);
      expect(packageDigest(read)).toBe(toHex(sha256(parseEnvelope(one).payload)));
    }
  });

  it("I2: a package that a stranger signed is refused", async () => {
    const { operator } = await createSealKeys();
    const theirs = await sealFor(tpm, "p384", { ...keys, operator });
    await expect(verifySealedPackage(theirs, keys.anchors)).rejects.toMatchObject({ code: "ERR_ENVELOPE_SIGNATURE" });
  });

  it("I2: a package sealed to another release root, or under another name, is refused", async () => {
    const stranger = await createSealKeys();
    const theirs = await sealFor(tpm, "p384", { ...stranger, operator: keys.operator });
    await expect(verifySealedPackage(theirs, keys.anchors)).rejects.toThrow(/authPolicy/);
    expect(() => reread({ ...sealed, name: "tls-key" })).toThrow(/authPolicy/);
  });

  it.each([0x4c0, 0x400, 0x080, 0x482, 0x490, 0x492, 0xc80, 0])(
    "I2: an object with attributes %i is refused before the TPM sees it",
    async (attributes) => {
      const ek = openEkCertificate(await readEkCertificate(tpm, "p384"));
      const policy = measureObjectPolicy(keys.root.spkiPem, LABEL.name);
      const blob = encodeImportBlob(ek, policy, new Uint8Array(32), attributes);
      const signed = await signSealedPackage({ ...sealed, ...blob }, keys.operator);
      const refusal = verifySealedPackage(signed, keys.anchors);
      await expect(refusal).rejects.toMatchObject({ code: "ERR_SEALED_MALFORMED", exitCode: 3 });
      await expect(refusal).rejects.toThrow(/objectAttributes: expected 0x00000480/);
    },
  );

  it("I10: a package whose parts have other sizes or types is refused", () => {
    const changes: readonly Partial<SealedPackage>[] = [
      { objectPublic: flipAt(sealed.objectPublic, 1) },
      { objectPublic: flipAt(sealed.objectPublic, 3) },
      { objectPublic: flipAt(sealed.objectPublic, 11) },
      { objectPublic: flipAt(sealed.objectPublic, 43) },
      { objectPublic: concatBytes(sealed.objectPublic, new Uint8Array(1)) },
      { objectPublic: sealed.objectPublic.slice(0, -1) },
      { duplicate: sealed.duplicate.slice(1) },
      { duplicate: concatBytes(sealed.duplicate, new Uint8Array(32)) },
      { encryptedSeed: new Uint8Array(256) },
      { ekName: concatBytes(fromHex("000b"), new Uint8Array(32)) },
      { nonce: sealed.nonce.slice(1) },
      { nonce: concatBytes(sealed.nonce, new Uint8Array(4)) },
      { ciphertext: sealed.ciphertext.slice(1) },
      { ciphertext: new Uint8Array(16) },
      { ciphertext: new Uint8Array(96 + 16) },
    ];
    for (const change of changes) expect(() => reread({ ...sealed, ...change })).toThrow(SealError);
    expect(() => encodeSealedPackage({ ...sealed, ekName: new Uint8Array(50) })).toThrow(SealError);
    expect(() => encodeSealedPackage({ ...sealed, ciphertext: new Uint8Array(65_536) })).toThrow(SealError);
    // A damaged body is the TPM's or the cipher's to notice, not the parser's.
    expect(reread({ ...sealed, ciphertext: flipAt(sealed.ciphertext, 3) }).name).toBe("hsm-pin");
  });

  it("I10: a document of version 1, or with a field more or less, is refused", () => {
    const text = new TextDecoder().decode(parseEnvelope(bytes).payload);
    for (const other of [
      text.replace('"version":2', '"version":1'),
      text.replace('"kind":"pin"', '"kind":"password"'),
      text.replace('"notAfter":null,', ""),
      text.replace('"version":2,', '"version":2,"policyRef":"",'),
      text.replace('"tokenSerial":"0123456789abcdef"', '"tokenSerial":null'),
      text.replace('"kind":"pin"', '"kind":"file"'),
    ]) {
      expect(other).not.toBe(text);
      expect(() => parseSealedPackage(utf8(other), keys.root.spkiPem)).toThrow(SealError);
    }
  });

  it("I10: random and mutated documents end in a typed error or in the same package", async () => {
    const { payload } = parseEnvelope(bytes);
    const mutated = fc
      .tuple(fc.nat(payload.length - 1), fc.nat(255))
      .map(([at, to]) => payload.map((byte, index) => (index === at ? to : byte)));
    fc.assert(
      fc.property(fc.oneof(mutated, fc.uint8Array({ maxLength: 300 })), (input) => {
        try {
          expect(encodeSealedPackage(parseSealedPackage(input, keys.root.spkiPem))).toEqual(input);
        } catch (error) {
          expect(error).toBeInstanceOf(SealError);
        }
      }),
      { numRuns: 500 },
    );
    const otherType = await signEnvelope(`${SEALED_TYPE}x`, payload, keys.operator);
    await expect(verifySealedPackage(otherType, keys.anchors)).rejects.toMatchObject({
      code: "ERR_ENVELOPE_SIGNATURE",
    });
  });
});

describe("a label", () => {
  const label: CredentialLabel = { ...LABEL, ekName: concatBytes(fromHex("000b"), new Uint8Array(32)) };

  it("I2: is these bytes", () => {
    const hex = [
      `${toHex(utf8("ironclaw/sealed/v2"))}00`,
      `0007${toHex(utf8("hsm-pin"))}`,
      `0003${toHex(utf8("pin"))}`,
      "00000001",
      "0000",
      `0010${toHex(utf8("0123456789abcdef"))}`,
      `0022000b${"00".repeat(32)}`,
    ];
    expect(toHex(encodeCredentialLabel(label))).toBe(hex.join(""));
  });

  it("I2: no two labels have the same bytes", () => {
    const time = fc.constantFrom(null, "2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z");
    const labels = fc.record({
      name: fc.stringMatching(/^[a-z0-9-]{1,32}$/),
      kind: fc.constantFrom("pin" as const, "file" as const, "volume-key" as const),
      generation: fc.integer({ min: 1, max: 0xffff_ffff }),
      notAfter: time,
      tokenSerial: fc.option(fc.stringMatching(/^[ -~]{1,64}$/)),
      ekName: fc.constantFrom(label.ekName, concatBytes(fromHex("000c"), new Uint8Array(48))),
    });
    fc.assert(
      fc.property(labels, labels, (a, b) => {
        const same =
          JSON.stringify({ ...a, ekName: toHex(a.ekName) }) === JSON.stringify({ ...b, ekName: toHex(b.ekName) });
        expect(toHex(encodeCredentialLabel(a)) === toHex(encodeCredentialLabel(b))).toBe(same);
      }),
    );
  });
});

it("I10: a certificate of a key that no EK has is refused", () => {
  const { publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  expect(() => openEkCertificate(publicKey.export({ type: "spki", format: "der" }))).toThrow(SealError);
});
