import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Decision, type DecisionRequest, decide } from "../../policy/decide.ts";
import { DIGESTS } from "../../policy/mechanisms.ts";
import { parsePolicy, type Scope } from "../../policy/policy.ts";
import { fullBucket, refill, spend } from "../../policy/rate.ts";
import { decryptionScopes } from "../support/broker-fixture.ts";
import { AMPLE } from "../support/decision.ts";
import { documentBytes, policyDocument, SIGNER_EXE, SIGNER_UID } from "../support/policy-document.ts";

const policy = parsePolicy(documentBytes(policyDocument()));
const data = (length: number) => ({ kind: "data", bytes: new Uint8Array(length) }) as const;
const digestInfo = {
  kind: "data",
  bytes: Uint8Array.from([...DIGESTS.sha256.digestInfoPrefix, ...new Uint8Array(32)]),
} as const;
const pss = (hash: bigint, mgf: bigint, saltLength: bigint) => ({ kind: "pss", hash, mgf, saltLength }) as const;

const good: DecisionRequest = {
  ...AMPLE,
  scope: "release-signing",
  caller: { uid: SIGNER_UID, exe: SIGNER_EXE, unit: null },
  key: "release-ec",
  operation: "sign",
  mechanism: "CKM_ECDSA",
  parameters: { kind: "none" },
  input: data(32),
};
const rsa: DecisionRequest = {
  ...good,
  scope: "rsa-signing",
  key: "release-rsa",
  mechanism: "CKM_RSA_PKCS",
  input: digestInfo,
};
const rsaPss: DecisionRequest = {
  ...rsa,
  mechanism: "CKM_RSA_PKCS_PSS",
  parameters: pss(0x250n, 2n, 32n),
  input: data(32),
};

const block = (length: number, first = 1) => Uint8Array.from({ length }, (_, index) => (index === 0 ? first : 0));

function step(decision: Decision): string {
  return decision.allow ? "allowed" : decision.step;
}

describe("decision", () => {
  it("I6: the listed caller, key, mechanism and data are allowed, with the rule named", () => {
    expect(decide(policy, good)).toEqual({ allow: true, rule: "release-signing/CKM_ECDSA" });
    expect(decide(policy, rsa)).toEqual({ allow: true, rule: "rsa-signing/CKM_RSA_PKCS" });
    expect(decide(policy, rsaPss)).toEqual({ allow: true, rule: "rsa-signing/CKM_RSA_PKCS_PSS" });
  });

  it.each<[string, string, Partial<DecisionRequest>]>([
    ["an unknown scope", "caller", { scope: "other" }],
    ["a peer that was not identified", "caller", { caller: null }],
    ["another uid", "caller", { caller: { uid: 2002, exe: SIGNER_EXE, unit: null } }],
    ["another executable", "caller", { caller: { uid: SIGNER_UID, exe: `sha256:${"00".repeat(32)}`, unit: null } }],
    ["another key", "key", { key: "release-rsa" }],
    ["no key", "key", { key: null }],
    [
      "a block where a digest belongs",
      "parameters",
      { input: { kind: "block", bytes: block(32), modulus: block(32) } },
    ],
    ["a key name that every object has", "key", { key: "constructor" }],
    ["another operation", "operation", { operation: "decrypt" }],
    ["a mechanism that is not listed", "mechanism", { mechanism: "CKM_RSA_PKCS" }],
    ["a mechanism that is not known", "mechanism", { mechanism: "0x80000001" }],
    ["parameters where there are none", "parameters", { parameters: { kind: "opaque" } }],
    ["data of another length", "parameters", { input: data(31) }],
    ["empty data", "parameters", { input: data(0) }],
    ["an empty bucket", "rate", { tokens: 0.99 }],
    ["a bucket that is no number", "rate", { tokens: Number.NaN }],
  ])("I6: %s is refused at step %s", (_what, expected, change) => {
    expect(step(decide(policy, { ...good, ...change }))).toBe(expected);
  });

  it.each<[string, Partial<DecisionRequest>]>([
    ["a digest without DigestInfo", { input: data(32) }],
    [
      "a DigestInfo of another hash",
      { input: { kind: "data", bytes: Uint8Array.from([...DIGESTS.sha512.digestInfoPrefix, ...new Uint8Array(64)]) } },
    ],
    ["a DigestInfo with a byte more", { input: { kind: "data", bytes: Uint8Array.from([...digestInfo.bytes, 0]) } }],
  ])("I6: RSA_PKCS refuses %s", (_what, change) => {
    expect(step(decide(policy, { ...rsa, ...change }))).toBe("parameters");
  });

  it.each([
    ["another hash", pss(0x220n, 2n, 32n)],
    ["another MGF", pss(0x250n, 1n, 32n)],
    ["no salt", pss(0x250n, 2n, 0n)],
    ["missing parameters", { kind: "none" } as const],
  ])("I6: PSS refuses %s", (_what, parameters) => {
    expect(step(decide(policy, { ...rsaPss, parameters }))).toBe("parameters");
  });

  it("I6: the first step that fails is the answer", () => {
    const wrong: DecisionRequest = {
      ...AMPLE,
      scope: "release-signing",
      caller: { uid: 2002, exe: SIGNER_EXE, unit: null },
      key: "vault",
      operation: "unwrap",
      mechanism: "none",
      parameters: { kind: "opaque" },
      input: data(0),
      tokens: 0,
    };
    const repairs: [string, Partial<DecisionRequest>][] = [
      ["caller", { caller: good.caller }],
      ["key", { key: good.key }],
      ["operation", { operation: "sign" }],
      ["mechanism", { mechanism: good.mechanism }],
      ["parameters", { parameters: good.parameters, input: good.input }],
      ["rate", { tokens: 1 }],
    ];
    let request = wrong;
    for (const [expected, repair] of repairs) {
      expect(step(decide(policy, request))).toBe(expected);
      request = { ...request, ...repair };
    }
    expect(decide(policy, request).allow).toBe(true);
  });

  it("I6: the same request gives the same decision, and a scope without rate looks at no bucket", () => {
    expect(decide(policy, good)).toEqual(decide(policy, good));
    expect(decide(policy, { ...rsa, tokens: 0 }).allow).toBe(true);
  });

  it("I6: nothing but the listed tuple is allowed", () => {
    fc.assert(
      fc.property(
        fc.record({
          uid: fc.constantFrom(SIGNER_UID, 2002, 0),
          exe: fc.constantFrom(SIGNER_EXE, "sha256:00"),
          key: fc.constantFrom("release-ec", "release-rsa", "vault", null),
          operation: fc.constantFrom("sign" as const, "decrypt" as const, "unwrap" as const),
          mechanism: fc.constantFrom("CKM_ECDSA", "CKM_ECDSA_SHA256", "CKM_RSA_PKCS", "CKM_RSA_PKCS_OAEP"),
          length: fc.constantFrom(0, 20, 32, 48),
        }),
        ({ uid, exe, key, operation, mechanism, length }) => {
          const { allow } = decide(policy, {
            ...good,
            caller: { uid, exe, unit: null },
            key,
            operation,
            mechanism,
            input: data(length),
          });
          const listed =
            uid === SIGNER_UID && exe === SIGNER_EXE && key === "release-ec" && operation === "sign" && length === 32;
          expect(allow).toBe(listed && (mechanism === "CKM_ECDSA" || mechanism === "CKM_ECDSA_SHA256"));
        },
      ),
      { numRuns: 400 },
    );
  });
});

describe("token bucket", () => {
  const rate = { perMinute: 60, burst: 3 };

  it("I6: a burst empties the bucket and time fills it again, never beyond the burst", () => {
    let bucket = fullBucket(rate, 0);
    for (let index = 0; index < 3; index += 1) bucket = spend(bucket);
    expect(bucket.tokens).toBe(0);
    expect(() => spend(bucket)).toThrow(TypeError);
    expect(refill(rate, bucket, 1000).tokens).toBe(1);
    expect(refill(rate, bucket, 3_600_000).tokens).toBe(3);
  });

  it("I6: a clock that goes backwards gains nothing", () => {
    const empty = { tokens: 0, at: 10_000 };
    expect(refill(rate, empty, 5_000)).toEqual(empty);
    expect(refill(rate, empty, Number.NaN)).toEqual(empty);
  });

  it("I6: however it is asked, a bucket pays at most the burst and the elapsed time", () => {
    fc.assert(
      fc.property(fc.array(fc.nat(4000), { maxLength: 100 }), (gaps) => {
        let bucket = fullBucket(rate, 0);
        let now = 0;
        let paid = 0;
        for (const gap of gaps) {
          now += gap;
          bucket = refill(rate, bucket, now);
          if (bucket.tokens >= 1) {
            bucket = spend(bucket);
            paid += 1;
          }
        }
        expect(paid).toBeLessThanOrEqual(rate.burst + (now * rate.perMinute) / 60_000 + 1e-6);
      }),
    );
  });
});

describe("decryption", () => {
  const document = policyDocument();
  decryptionScopes(document);
  Object.assign(document.scopes[2] ?? {}, {
    mechanisms: [{ type: "CKM_RSA_PKCS_OAEP", digest: "sha256", label: "c0de" }],
  });
  document.scopes.push({
    ...{ name: "raw-signing", caller: "release-signer", key: "release-rsa", audit: "written" },
    mechanisms: [{ type: "CKM_RSA_X_509", accepts: ["raw-rsa"] }],
  });
  const decrypting = parsePolicy(documentBytes(document));
  const modulus = block(256, 0xc0);
  const ciphertext = { kind: "block", bytes: block(256, 0xbf), modulus } as const;
  const oaep = {
    kind: "oaep",
    ...{ hash: 0x250n, mgf: 2n, source: 1n },
    label: Uint8Array.of(0xc0, 0xde),
  } as const;
  const vault: DecisionRequest = {
    ...AMPLE,
    ...{ scope: "vault", caller: good.caller, key: "vault", operation: "decrypt", mechanism: "CKM_RSA_PKCS_OAEP" },
    ...{ parameters: oaep, input: ciphertext, tokens: 0, failures: 1 },
  };
  const legacy: DecisionRequest = {
    ...vault,
    scope: "legacy",
    mechanism: "CKM_RSA_PKCS",
    parameters: { kind: "none" },
  };

  it("I6: what the three decrypting rules and raw signing name is allowed", () => {
    const raw: DecisionRequest = { ...legacy, scope: "raw", mechanism: "CKM_RSA_X_509" };
    const signing: DecisionRequest = { ...raw, scope: "raw-signing", key: "release-rsa", operation: "sign" };
    for (const request of [vault, legacy, raw, { ...signing, failures: 0 }])
      expect(decide(decrypting, request)).toEqual({ allow: true, rule: `${request.scope}/${request.mechanism}` });
  });

  it.each<[string, string, Partial<DecisionRequest>]>([
    ["to sign with the key", "operation", { operation: "sign" }],
    ["to unwrap with the key", "operation", { operation: "unwrap" }],
    ["the padding of another scope", "mechanism", { mechanism: "CKM_RSA_PKCS", parameters: { kind: "none" } }],
    ["no parameters", "parameters", { parameters: { kind: "none" } }],
    ["another hash", "parameters", { parameters: { ...oaep, hash: 0x220n } }],
    ["another MGF", "parameters", { parameters: { ...oaep, mgf: 1n } }],
    ["another label", "parameters", { parameters: { ...oaep, label: Uint8Array.of(0xc0) } }],
    ["no label where the rule has one", "parameters", { parameters: { ...oaep, label: new Uint8Array() } }],
    ["another source", "parameters", { parameters: { ...oaep, source: 0n } }],
    ["a ciphertext that is too short", "parameters", { input: { ...ciphertext, bytes: block(255) } }],
    ["a ciphertext that is too long", "parameters", { input: { ...ciphertext, bytes: block(257, 0) } }],
    ["a ciphertext that equals the modulus", "parameters", { input: { ...ciphertext, bytes: modulus } }],
    ["a ciphertext above the modulus", "parameters", { input: { ...ciphertext, bytes: block(256, 0xff) } }],
    ["a key without modulus", "parameters", { input: { ...ciphertext, bytes: block(0), modulus: block(0) } }],
    ["data that is no block", "parameters", { input: data(256) }],
    ["an empty failure budget", "budget", { failures: 0.99 }],
    ["a failure budget that is no number", "budget", { failures: Number.NaN }],
  ])("I7: %s is refused at step %s", (_what, expected, change) => {
    expect(step(decide(decrypting, { ...vault, ...change }))).toBe(expected);
  });

  it("I7: a rule whose weakness nobody accepted allows nothing, however it came into a policy", () => {
    const scopes = decrypting.scopes.map((scope) => ({
      ...scope,
      mechanisms: scope.mechanisms.map(({ accepts: _, ...rule }) => rule),
    }));
    expect(step(decide({ ...decrypting, scopes }, legacy))).toBe("mechanism");
    expect(step(decide({ ...decrypting, scopes }, vault))).toBe("allowed");
  });

  it("I7: OAEP without a label takes the source that libp11 writes, and no label at all", () => {
    const { mechanisms: _, ...rest } = decrypting.scopes[2] ?? decrypting.scopes[0] ?? { mechanisms: [] };
    const scope = { ...rest, mechanisms: [{ type: "CKM_RSA_PKCS_OAEP", digest: "sha256" }] } as Scope;
    const plain = { ...decrypting, scopes: [scope] };
    const parameters = (source: bigint, label: Uint8Array) => ({ ...oaep, source, label });
    const ask = (source: bigint, label: Uint8Array) =>
      step(decide(plain, { ...vault, parameters: parameters(source, label) }));
    expect([ask(0n, block(0)), ask(1n, block(0)), ask(2n, block(0)), ask(1n, block(1)), ask(0n, block(1))]).toEqual([
      ...["allowed", "allowed"],
      ...["parameters", "parameters", "parameters"],
    ]);
  });

  it("I7: exactly the numbers below the modulus are taken, as numbers", () => {
    const number = fc.bigInt({ min: 0n, max: (1n << 32n) - 1n });
    const bytes = (value: bigint) => Uint8Array.from(Buffer.from(value.toString(16).padStart(8, "0"), "hex"));
    fc.assert(
      fc.property(number, number, (value, n) => {
        const input = { kind: "block", bytes: bytes(value), modulus: bytes(n) } as const;
        expect(decide(decrypting, { ...legacy, input }).allow).toBe(value < n);
      }),
    );
  });
});
