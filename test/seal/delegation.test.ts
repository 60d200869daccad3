import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import {
  type Delegation,
  encodeDelegation,
  PolicyError,
  parseDelegation,
  utf8,
  verifyDelegation,
} from "../../policy/index.ts";
import { signDelegation } from "../../seal/delegation.ts";
import { createSealKeys, type SealKeys, signDelegationOf } from "../support/seal-fixture.ts";

let keys: SealKeys;
let stranger: SealKeys;
let delegation: Delegation;
let bytes: Uint8Array;

beforeAll(async () => {
  [keys, stranger] = await Promise.all([createSealKeys(), createSealKeys("rsa2048")]);
  delegation = await signDelegationOf(keys, { credentials: ["tls-key", "hsm-pin"], lastEpoch: 3 });
  bytes = encodeDelegation({ version: 2, releaseKey: keys.releaseKey.spkiPem, delegation });
});

describe("what a root approves for a release key", () => {
  it("I2: verifies under the root and key it was made for, and lists the credentials in order", async () => {
    await verifyDelegation(keys.root.spkiPem, keys.releaseKey.spkiPem, delegation);
    expect(delegation.credentials.map(({ name }) => name)).toEqual(["hsm-pin", "tls-key"]);
    const rsa = await signDelegationOf(stranger);
    await verifyDelegation(stranger.root.spkiPem, stranger.releaseKey.spkiPem, rsa);
  });

  it("I2: under another root, key, epoch or name it is refused by the name of the field", async () => {
    const [pin, tls] = delegation.credentials;
    if (pin === undefined || tls === undefined) throw new Error("two credentials");
    const swapped = [
      { name: pin.name, signature: tls.signature },
      { name: tls.name, signature: pin.signature },
    ];
    const changes: readonly (readonly [Partial<Delegation>, RegExp])[] = [
      [{ lastEpoch: 4 }, /credentials.hsm-pin/],
      [{ lastEpoch: 2 }, /credentials.hsm-pin/],
      [{ credentials: swapped }, /credentials.hsm-pin/],
      [{ credentials: [{ ...tls, name: "volume" }] }, /credentials.volume/],
      [{ first: delegation.raise }, /delegation.first/],
      [{ raise: delegation.first }, /delegation.raise/],
    ];
    for (const [change, message] of changes) {
      const refusal = verifyDelegation(keys.root.spkiPem, keys.releaseKey.spkiPem, { ...delegation, ...change });
      await expect(refusal).rejects.toThrow(message);
      await expect(refusal).rejects.toMatchObject({ code: "ERR_RELEASE_SIGNATURE" });
    }
    for (const [root, key] of [
      [stranger.root, keys.releaseKey],
      [keys.root, stranger.releaseKey],
    ] as const) {
      await expect(verifyDelegation(root.spkiPem, key.spkiPem, delegation)).rejects.toMatchObject({
        code: "ERR_RELEASE_SIGNATURE",
      });
    }
  });

  it("I2: one credential fewer is a delegation too: a release key may be trusted with less", async () => {
    const [pin] = delegation.credentials;
    if (pin === undefined) throw new Error("a credential");
    await verifyDelegation(keys.root.spkiPem, keys.releaseKey.spkiPem, { ...delegation, credentials: [pin] });
  });

  it("I10: no credential, one twice, a name outside the alphabet and an epoch out of range are refused", async () => {
    const releaseKeyPem = keys.releaseKey.spkiPem;
    const order = { releaseKeyPem, credentials: ["hsm-pin"], lastEpoch: 1 };
    for (const change of [
      { credentials: [] },
      { credentials: ["a", "a"] },
      ...["", "HSM", "a/b", "x".repeat(33)].map((name) => ({ credentials: ["a", name] })),
      { lastEpoch: -1 },
      { lastEpoch: 1.5 },
      { lastEpoch: 2 ** 32 },
    ]) {
      await expect(signDelegation(keys.root, { ...order, ...change })).rejects.toMatchObject({
        code: "ERR_RELEASE_REFUSED",
        exitCode: 1,
      });
    }
    await expect(signDelegation(keys.root, { ...order, releaseKeyPem: "x" })).rejects.toMatchObject({
      code: "ERR_KEY_MALFORMED",
    });
    const many = Array.from({ length: 33 }, (_, index) => `credential-${index}`);
    await expect(signDelegation(keys.root, { ...order, credentials: many })).rejects.toMatchObject({
      code: "ERR_RELEASE_MALFORMED",
    });
  });
});

describe("a delegation file", () => {
  it("I10: reads as it was written, and any other encoding is refused", () => {
    expect(encodeDelegation(parseDelegation(bytes))).toEqual(bytes);
    const text = new TextDecoder().decode(bytes);
    for (const other of [
      ` ${text}`,
      text.replace('"version":2', '"version":1'),
      text.replace('"version":2,', '"version":2,"more":0,'),
      text.replace('"hsm-pin"', '"zzz"'),
      text.replace('"tls-key"', '"hsm-pin"'),
      "null",
    ]) {
      expect(other).not.toBe(text);
      expect(() => parseDelegation(utf8(other))).toThrow(PolicyError);
    }
  });

  it("I10: random and mutated bytes end in a typed error or in the same delegation", () => {
    const mutated = fc
      .tuple(fc.nat(bytes.length - 1), fc.nat(255))
      .map(([at, to]) => bytes.map((byte, index) => (index === at ? to : byte)));
    fc.assert(
      fc.property(fc.oneof(mutated, fc.uint8Array({ maxLength: 300 })), (input) => {
        try {
          expect(encodeDelegation(parseDelegation(input))).toEqual(input);
        } catch (error) {
          expect(error).toBeInstanceOf(PolicyError);
        }
      }),
      { numRuns: 300 },
    );
  });
});
