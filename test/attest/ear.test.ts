import { createHash, createPublicKey, generateKeyPairSync, verify } from "node:crypto";
import { readFileSync } from "node:fs";
import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import {
  type AttestationResult,
  AttestError,
  type EarClaims,
  earKeyId,
  earStatus,
  parseEar,
  signEar,
  splitJws,
  verifyEar,
} from "../../attest/index.ts";
import { IronclawError, utf8, verifySignature } from "../../policy/index.ts";
import { judge } from "../support/appraisal.ts";
import { base64urlOf, earKeyOf, exampleResult, newEarKey, publishedKey, signAnything } from "../support/ear.ts";

const now = new Date("2026-06-01T00:00:00Z");
const nonce = Uint8Array.from({ length: 32 }, (_, index) => index);
const key = newEarKey();
let result: AttestationResult;
let token: string;
let header: Record<string, unknown>;
// biome-ignore lint/suspicious/noExplicitAny: a payload that a test spoils
let payload: any;

beforeAll(async () => {
  result = await exampleResult();
  token = await signEar(result, { key, now, ttlSeconds: 300, nonce });
  [header, payload] = token.split(".").map((part) => decoded(part)) as [Record<string, unknown>, EarClaims];
});

function decoded(part: string): unknown {
  return part.length === 86 ? null : JSON.parse(Buffer.from(part, "base64url").toString());
}

async function refusal(jws: string, pem = key.spkiPem, at = now): Promise<string> {
  try {
    await verifyEar(jws, pem, at);
    return "accepted";
  } catch (error) {
    if (error instanceof IronclawError) return `${error.code} ${error.message}`;
    throw error;
  }
}

describe("an attestation result token", () => {
  it("I9: is an ES256 JWS that another implementation verifies and reads", () => {
    const parts = token.split(".");
    const signed = Buffer.from(parts.slice(0, 2).join("."));
    const signature = Buffer.from(parts[2] ?? "", "base64url");
    expect(verify("sha256", signed, { key: key.spkiPem, dsaEncoding: "ieee-p1363" }, signature)).toBe(true);
    const der = createPublicKey(key.spkiPem).export({ type: "spki", format: "der" });
    expect(header).toEqual({ alg: "ES256", typ: "JWT", kid: createHash("sha256").update(der).digest("base64url") });
    expect(payload).toEqual({
      eat_profile: "tag:github.com,2023:veraison/ear",
      ...{ iat: 1780272000, exp: 1780272300 },
      "ear.verifier-id": { developer: "tag:ironclaw,2026:verifier", build: "appraisal 2" },
      eat_nonce: Buffer.from(nonce).toString("base64url"),
      submods: {
        ironclaw: {
          "ear.status": "warning",
          "ear.trustworthiness-vector": {
            ...{ "instance-identity": 2, configuration: 2, executables: 3, "file-system": 2 },
            ...{ hardware: 32, "runtime-opaque": 0, "storage-opaque": 32, "sourced-data": 0 },
          },
          "ear.appraisal-policy-id": `default:sha256:${result.policy.sha256}`,
          ...{ "ironclaw.tier": "warning", "ironclaw.machine": "m1", "ironclaw.assurance": "provider-ek" },
          ...{ "ironclaw.launch": "serving", "ironclaw.release": "test release" },
          "ironclaw.evidence-sha256": "e5".repeat(32),
          "ironclaw.findings": ["warning firmware-unpinned"],
          "ironclaw.not-proven": [
            ...["provider-ek", "hsm", "vendor-code", "hypervisor", "passthrough", "after-quote", "asserted"],
            "self-reported",
          ],
        },
      },
    });
  });

  it("I9: verifies with the key that signed it, and says whose nonce it answers", async () => {
    const claims = await verifyEar(token, key.spkiPem, now);
    expect(claims).toEqual(payload);
    const later = await signEar(result, { key, now, ttlSeconds: 1, nonce: null });
    expect((await verifyEar(later, key.spkiPem, now)).eat_nonce).toBeUndefined();
  });

  it("I9: the reader's signature check agrees with the example of RFC 7515 appendix A.3, and its form is refused", async () => {
    const published =
      "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    const { input, signature } = splitJws(published);
    const pem = earKeyOf(publishedKey).spkiPem;
    expect(await verifySignature(pem, input, signature)).toBe(true);
    expect(await verifySignature(pem, input.with(0, 0), signature)).toBe(false);
    expect(await refusal(published, pem)).toMatch(/^ERR_EAR_MALFORMED EAR header typ/);
  });

  it("I9: the document's worked example is a token of the published key", async () => {
    const document = readFileSync(new URL("../../attest/APPRAISAL.md", import.meta.url), "utf8");
    const example = /^eyJ[\w.-]+(?:\n[\w.-]+)+$/m.exec(document)?.[0].replaceAll("\n", "") ?? "";
    const published = earKeyOf(publishedKey);
    const claims = await verifyEar(example, published.spkiPem, now);
    const made = await signEar(result, { key: published, now, ttlSeconds: 300, nonce });
    expect(example.split(".").slice(0, 2)).toEqual(made.split(".").slice(0, 2));
    const shown = JSON.parse(/^```json\n(\{\n {2}"eat_profile"[\s\S]+?)\n```$/m.exec(document)?.[1] ?? "null");
    expect(shown).toEqual(claims);
    expect(document).toContain(earKeyId(published.spkiPem));
  });

  it.each<[string, () => unknown, RegExp]>([
    ["alg none", () => ({ ...header, alg: "none" }), /^ERR_EAR_MALFORMED EAR header alg: expected "ES256", got "none"/],
    ["alg HS256", () => ({ ...header, alg: "HS256" }), /^ERR_EAR_MALFORMED EAR header alg/],
    ["alg ES384", () => ({ ...header, alg: "ES384" }), /^ERR_EAR_MALFORMED EAR header alg/],
    ["alg in lower case", () => ({ ...header, alg: "es256" }), /^ERR_EAR_MALFORMED EAR header alg/],
    ["no alg", () => ({ typ: "JWT", kid: header["kid"] }), /^ERR_EAR_MALFORMED EAR header alg/],
    [
      "an embedded key",
      () => ({ ...header, jwk: { kty: "EC" } }),
      /^ERR_EAR_MALFORMED EAR header.*no other field, got jwk/,
    ],
    ["a key's address", () => ({ ...header, jku: "https://x" }), /^ERR_EAR_MALFORMED EAR header.*got jku/],
    ["a certificate chain", () => ({ ...header, x5c: [] }), /^ERR_EAR_MALFORMED EAR header.*got x5c/],
    ["a critical extension", () => ({ ...header, crit: ["b64"], b64: false }), /^ERR_EAR_MALFORMED EAR header.*crit/],
    ["another typ", () => ({ ...header, typ: "at+jwt" }), /^ERR_EAR_MALFORMED EAR header typ/],
    ["another key's id", () => ({ ...header, kid: "A".repeat(43) }), /^ERR_EAR_REFUSED EAR kid/],
    [
      "alg twice",
      () => `{"alg":"ES256","alg":"none","typ":"JWT","kid":"${header["kid"]}"}`,
      /^ERR_EAR_MALFORMED EAR header/,
    ],
  ])("I9: a header with %s is refused, although its signature is good", async (_title, make, message) => {
    expect(await refusal(await signAnything(key, make(), payload))).toMatch(message);
  });

  it.each<[string, () => unknown, RegExp]>([
    [
      "another profile",
      () => ({ ...payload, eat_profile: "tag:ietf.org,2026:rats/ear#03" }),
      /^ERR_EAR_MALFORMED EAR payload eat_profile/,
    ],
    ["no end", () => ({ ...payload, exp: undefined }), /^ERR_EAR_MALFORMED EAR payload exp: expected .*, got nothing/],
    ["an end as text", () => ({ ...payload, exp: `${payload.exp}` }), /^ERR_EAR_MALFORMED EAR payload exp/],
    ["a claim that nobody knows", () => ({ ...payload, admin: true }), /^ERR_EAR_MALFORMED EAR payload.*got admin/],
    [
      "two submodules",
      () => ({ ...payload, submods: { ...payload.submods, other: {} } }),
      /^ERR_EAR_MALFORMED EAR payload submods/,
    ],
    ["no submodule", () => ({ ...payload, submods: {} }), /^ERR_EAR_MALFORMED EAR payload submods.ironclaw/],
    ["a nonce of another size", () => ({ ...payload, eat_nonce: "AAAA" }), /^ERR_EAR_MALFORMED EAR payload eat_nonce/],
    [
      "a status above its vector",
      () => ({ ...payload, submods: { ironclaw: { ...payload.submods.ironclaw, "ear.status": "affirming" } } }),
      /^ERR_EAR_MALFORMED EAR payload submods.ironclaw.ear.status/,
    ],
    [
      "a claim of the vector left out",
      () => ({ ...payload, submods: { ironclaw: { ...payload.submods.ironclaw, "ear.trustworthiness-vector": {} } } }),
      /^ERR_EAR_MALFORMED EAR payload/,
    ],
    ["an array", () => [payload], /^ERR_EAR_MALFORMED EAR payload/],
    ["no JSON", () => "{", /^ERR_EAR_MALFORMED EAR payload/],
  ])("I9: a payload with %s is refused, although its signature is good", async (_title, make, message) => {
    expect(await refusal(await signAnything(key, header, make()))).toMatch(message);
  });

  it.each<[string, (parts: string[]) => string]>([
    ["nothing", () => ""],
    ["two parts", ([first, second]) => `${first}.${second}`],
    ["four parts", (parts) => [...parts, "AAAA"].join(".")],
    ["no signature", ([first, second]) => `${first}.${second}.`],
    ["a DER signature", ([first, second]) => `${first}.${second}.${Buffer.alloc(70, 0x30).toString("base64url")}`],
    ["padding", (parts) => `${parts.join(".")}==`],
    ["a line feed", (parts) => `${parts.join(".")}\n`],
    ["the other base64 alphabet", ([first, second]) => `${first}.${second}.${"+".repeat(86)}`],
    ["unused bits", (parts) => parts.join(".").replace(/.$/, "B")],
    ["more than 64 KiB", ([first, , last]) => `${first}.${"A".repeat(1 << 16)}.${last}`],
  ])("I10: a token with %s is malformed", async (_title, make) => {
    expect(await refusal(make(token.split(".")))).toMatch(/^ERR_EAR_MALFORMED EAR /);
  });

  it("I9: another key, a changed payload and another time are refused", async () => {
    expect(await refusal(token, newEarKey().spkiPem)).toMatch(/^ERR_EAR_REFUSED EAR kid/);
    const [first, , last] = token.split(".");
    const better = { ...payload, exp: payload.exp + 1 };
    expect(await refusal(`${first}.${base64urlOf(better)}.${last}`)).toMatch(/^ERR_EAR_REFUSED EAR signature/);
    const at = (seconds: number) => refusal(token, key.spkiPem, new Date(now.getTime() + 1000 * seconds));
    expect(await at(299)).toBe("accepted");
    expect(await at(300)).toMatch(/^ERR_EAR_REFUSED EAR exp/);
    expect(await at(-60)).toBe("accepted");
    expect(await at(-61)).toMatch(/^ERR_EAR_REFUSED EAR iat/);
    expect(await at(Number.NaN)).toMatch(/^ERR_EAR_REFUSED EAR iat/);
  });

  it("I9: only a P-256 key can sign or verify, and a life is at most a day", async () => {
    const rsa = earKeyOf(generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey);
    await expect(signEar(result, { key: rsa, now, ttlSeconds: 1, nonce })).rejects.toThrow(AttestError);
    expect(await refusal(token, rsa.spkiPem)).toMatch(/^ERR_EAR_MALFORMED EAR key/);
    for (const ttlSeconds of [0, 86_401, 1.5])
      await expect(signEar(result, { key, now, ttlSeconds, nonce })).rejects.toThrow(TypeError);
    await expect(signEar(result, { key, now, ttlSeconds: 1, nonce: new Uint8Array(8) })).rejects.toThrow(TypeError);
  });

  it("I9: its status is never better than the worst claim of its vector", async () => {
    const software = await judge({ assurance: "software-tpm", policy: { minAssurance: "software-tpm" } });
    expect([software.tier, earStatus(software)]).toEqual(["affirming", "warning"]);
    const hardware = await judge({ assurance: "hardware-ek" });
    expect([hardware.tier, earStatus(hardware)]).toEqual(["affirming", "affirming"]);
    expect(earStatus({ tier: "affirming", vector: { ...hardware.vector, hardware: -97 } })).toBe("contraindicated");
    expect(earStatus({ tier: "contraindicated", vector: hardware.vector })).toBe("contraindicated");
  });

  it("I10: a result with thousands of findings makes a token of the same size, with its tier", async () => {
    const findings = Array.from({ length: 5000 }, (_, index) => ({
      ...result.findings[0],
      code: `launch-${index}`,
      tier: "contraindicated",
    }));
    const long = { ...result, tier: "contraindicated", findings } as AttestationResult;
    const claims = await verifyEar(await signEar(long, { key, now, ttlSeconds: 1, nonce }), key.spkiPem, now);
    expect(claims.submods.ironclaw["ironclaw.findings"]).toHaveLength(64);
    expect(claims.submods.ironclaw["ear.status"]).toBe("contraindicated");
  });

  it("I10: whatever the codes of a result are, it can be signed and the token be read", async () => {
    const codes = ["\u0000".repeat(4000), `${"x".repeat(199)}\u{1f512}`, "x".repeat(5000), "\ud800", ""];
    const findings = codes.flatMap((code) =>
      Array.from({ length: 64 }, (_, at) => ({ ...result.findings[0], code: code + at, tier: "contraindicated" })),
    );
    const odd = { ...result, tier: "contraindicated", findings } as AttestationResult;
    const claims = await verifyEar(await signEar(odd, { key, now, ttlSeconds: 1, nonce }), key.spkiPem, now);
    const listed = claims.submods.ironclaw["ironclaw.findings"];
    expect(listed).toContain("contraindicated other");
    expect(listed.every((text) => text.isWellFormed())).toBe(true);
  });

  it("I9, I10: any one character changed is refused with a typed error", async () => {
    await fc.assert(
      fc.asyncProperty(fc.nat(token.length - 1), fc.constantFrom(..."AZaz09-_. =+{"), async (at, character) => {
        fc.pre(token[at] !== character);
        expect(await refusal(token.slice(0, at) + character + token.slice(at + 1))).toMatch(/^ERR_EAR_/);
      }),
      { numRuns: 300 },
    );
  });

  it("I10: whatever is read as a token is the only text for its parts, and the rest is refused with a typed error", () => {
    fc.assert(
      fc.property(fc.oneof(fc.string({ maxLength: 300 }), fc.constant(token)), (text) => {
        try {
          const { input, signature } = parseEar(text);
          expect(`${new TextDecoder().decode(input)}.${Buffer.from(signature).toString("base64url")}`).toBe(text);
        } catch (error) {
          if (!(error instanceof IronclawError)) throw error;
        }
      }),
    );
    expect(utf8(token).length).toBe(token.length);
  });
});
