import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { PolicyError } from "../../policy/errors.ts";
import { FindingsError } from "../../policy/findings.ts";
import { parseJson } from "../../policy/json.ts";
import { parsePolicy } from "../../policy/policy.ts";
import { documentBytes, type PolicyDocument, policyDocument, twoTokenDocument } from "../support/policy-document.ts";
import { refusal } from "../support/policy-refusal.ts";

function brokenBy(change: (document: PolicyDocument) => void): PolicyError {
  const document = policyDocument();
  change(document);
  return refusal(() => parsePolicy(documentBytes(document)));
}

/** A key or token of the document with what the long form adds. */
function onto(entry: unknown, token?: string, pin?: string): Record<string, unknown> {
  return { ...(entry as object), ...(token === undefined ? {} : { token }), ...(pin === undefined ? {} : { pin }) };
}

/** Scopes as they are read: each with a list of keys. */
function longScopes(scopes: unknown): unknown[] {
  return (scopes as Record<string, unknown>[]).map(({ key, ...rest }) => ({ ...rest, keys: [key] }));
}

const profile = (name: string) => ({ name, sha256: "ab".repeat(32) });

function clear(record: Record<string, unknown>): void {
  for (const name of Object.keys(record)) delete record[name];
}

const text = (value: string) => new TextEncoder().encode(value);

describe("policy document", () => {
  it("I6: a complete document is read as written", () => {
    const document = twoTokenDocument();
    const { scopes, modules } = document;
    expect(parsePolicy(documentBytes(document))).toEqual({
      ...document,
      modules: { softhsm: { ...modules["softhsm"], shims: 1 } },
      approvers: {},
      certificates: {},
      scopes: longScopes(scopes),
    });
    const read = parsePolicy(documentBytes(policyDocument()));
    expect(parsePolicy(documentBytes(read))).toEqual(read);
  });

  it("I6: the short form for one token is read as the long one, and its keys are that token's", () => {
    const { token, module, profile, writable, connect, spares, keys, ...rest } = policyDocument();
    const files = { "/var/lib/softhsm/tokens/tls.key": "tls-key" };
    const onToken = Object.fromEntries(
      Object.entries(keys).map(([name, key]) => [name, { ...onto(key, "token"), accepts: [] }]),
    );
    const pinned = { ...(module as object), profile, nodes: [], writable, connect, spares };
    for (const [credentials, expected] of [
      [undefined, { pin: "hsm-pin", files: {} }],
      [
        { pin: "other-pin", files },
        { pin: "other-pin", files },
      ],
    ] as const) {
      expect(parsePolicy(documentBytes({ ...policyDocument(), credentials }))).toEqual({
        ...rest,
        approvers: {},
        certificates: {},
        scopes: longScopes(rest.scopes),
        keys: onToken,
        modules: { module: { ...pinned, shims: 1, files: expected.files } },
        tokens: { token: { module: "module", ...onto(token, undefined, expected.pin) } },
      });
    }
    expect(Object.keys(onToken)).toHaveLength(3);
  });

  it("I6: the short form for one module with several tokens is read as the long one", () => {
    const { token: _, ...short } = policyDocument();
    const { modules, ...long } = twoTokenDocument();
    const tokens = Object.entries(long["tokens"] as Record<string, object>);
    const inShort = tokens.map(([name, { module: __, ...fields }]: [string, { module?: string }]) => [name, fields]);
    const inLong = tokens.map(([name, fields]) => [name, { ...fields, module: "module" }]);
    expect(parsePolicy(documentBytes({ ...short, keys: long.keys, tokens: Object.fromEntries(inShort) }))).toEqual({
      ...long,
      approvers: {},
      certificates: {},
      scopes: longScopes(long.scopes),
      modules: { module: { ...modules["softhsm"], shims: 1 } },
      tokens: Object.fromEntries(inLong),
    });
  });

  it("I6: a key may lie on two tokens when it is named on each, and does one thing on both", () => {
    const document = twoTokenDocument();
    const spki = `sha256:${"33".repeat(32)}`;
    document.keys["vault-copy"] = { spki, does: "decrypt", token: "payments" };
    expect(parsePolicy(documentBytes(document)).keys["vault-copy"]?.token).toBe("payments");
    document.keys["vault-copy"] = { spki, does: "unwrap", token: "payments" };
    expect(refusal(() => parsePolicy(documentBytes(document))).message).toMatch(/two uses of the spki/);
    document.keys["vault-copy"] = { spki, does: "decrypt", token: "signing" };
    expect(refusal(() => parsePolicy(documentBytes(document))).message).toMatch(/two entries with the spki/);
  });

  it.each<[string, (tokens: Record<string, unknown>, document: PolicyDocument) => void, RegExp]>([
    ["no token", (tokens) => clear(tokens), /tokens: expected 1 to 4 tokens/],
    [
      "five tokens",
      (tokens) => {
        for (let at = 0; at < 3; at++)
          tokens[`t${at}`] = { module: "softhsm", label: "t", serial: `${at}`, pin: `pin-${at}` };
      },
      /tokens: expected 1 to 4 tokens/,
    ],
    [
      "two names for one token",
      (tokens) => Object.assign(tokens, { third: onto(tokens["signing"], undefined, "third-pin") }),
      /two entries with the label and serial signing\/0123456789abcdef/,
    ],
    [
      "two tokens with one PIN",
      (tokens) => Object.assign(tokens["payments"] ?? {}, { pin: "signing-pin" }),
      /two entries with the credential signing-pin/,
    ],
    ["a token without a PIN", (tokens) => delete (tokens["payments"] as { pin?: string }).pin, /tokens\.payments\.pin/],
    [
      "a key on an unknown token",
      (_, { keys }) => Object.assign(keys["vault"] ?? {}, { token: "constructor" }),
      /keys\.vault: unknown token constructor/,
    ],
    [
      "a key on no token of two",
      (_, { keys }) => delete (keys["vault"] as { token?: string }).token,
      /keys\.vault: no token of several named/,
    ],
    ["both spellings", (_, document) => Object.assign(document, { token: { label: "a", serial: "b" } }), /"token"/],
    [
      "a PIN outside its token",
      (_, document) => Object.assign(document, { credentials: { pin: "signing-pin", files: {} } }),
      /credentials/,
    ],
  ])("I6: a policy with %s is refused", (_what, change, finding) => {
    const document = twoTokenDocument();
    change(document["tokens"] as Record<string, unknown>, document);
    const error = refusal(() => parsePolicy(documentBytes(document)));
    expect(error.code).toBe("ERR_POLICY_INVALID");
    expect(error.message).toMatch(finding);
  });

  it.each<[string, (document: PolicyDocument) => void, RegExp]>([
    ["another version", (d) => Object.assign(d, { version: 1 }), /version/],
    ["an unknown field", (d) => Object.assign(d, { wildcard: "*" }), /wildcard/],
    ["a missing field", (d) => delete d["reviewBy"], /reviewBy/],
    [
      "root as a caller",
      (d) => Object.assign(d.callers, { root: { uid: 0, exe: [`sha256:${"0".repeat(64)}`] } }),
      /callers\.root\.uid/,
    ],
    ["a caller without executable", (d) => Object.assign(d.callers, { any: { uid: 5, exe: [] } }), /callers\.any\.exe/],
    ["a path that climbs", (d) => Object.assign(d, { writable: ["/var/../etc"] }), /writable\.0/],
    ["a path with a NUL byte", (d) => Object.assign(d, { writable: ["/var\0/etc"] }), /writable\.0/],
    [
      "a credential's file outside the writable directories",
      (d) => Object.assign(d, { credentials: { pin: "hsm-pin", files: { "/etc/tls.key": "tls-key" } } }),
      /\/etc\/tls\.key is in no writable directory/,
    ],
    [
      "a credential whose name no seal can have",
      (d) => Object.assign(d, { credentials: { pin: "HSM PIN", files: {} } }),
      /credentials\.pin/,
    ],
    ["a network destination", (d) => Object.assign(d, { connect: ["10.0.0.1:443"] }), /connect/],
    ["a profile that needs nodes, and none named", (d) => Object.assign(d, { profile: profile("usb") }), /nodes/],
    ["devices out of order", (d) => Object.assign(d, { devices: ["1af4:1042", "1af4:1041"] }), /devices/],
    ["an unknown key in a scope", (d) => Object.assign(d.scopes[0] ?? {}, { key: "other" }), /unknown key other/],
    [
      "an unknown caller in a scope",
      (d) => Object.assign(d.scopes[0] ?? {}, { caller: "constructor" }),
      /unknown caller constructor/,
    ],
    [
      "two scopes of one name",
      (d) => Object.assign(d.scopes[1] ?? {}, { name: "release-signing" }),
      /duplicate name release-signing/,
    ],
    [
      "an unknown mechanism",
      (d) => Object.assign(d.scopes[0] ?? {}, { mechanisms: [{ type: "CKM_ECDSA_SHA1" }] }),
      /mechanisms\.0\.type/,
    ],
    [
      "a raw mechanism without digest",
      (d) => Object.assign(d.scopes[0] ?? {}, { mechanisms: [{ type: "CKM_ECDSA" }] }),
      /needs a digest/,
    ],
    [
      "a digest against the mechanism's name",
      (d) => Object.assign(d.scopes[0] ?? {}, { mechanisms: [{ type: "CKM_ECDSA_SHA256", digest: "sha384" }] }),
      /hashes with sha256, not sha384/,
    ],
    [
      "a signing mechanism on a decryption key",
      (d) => Object.assign(d.scopes[1] ?? {}, { key: "vault" }),
      /does decrypt/,
    ],
    [
      "one scope using a key in two ways",
      (d) =>
        Object.assign(d.scopes[1] ?? {}, {
          mechanisms: [{ type: "CKM_SHA256_RSA_PKCS" }, { type: "CKM_RSA_PKCS_OAEP", digest: "sha256" }],
        }),
      /does sign, and CKM_RSA_PKCS_OAEP is for decrypt or unwrap/,
    ],
    [
      "one key under two names, with two uses",
      (d) => Object.assign(d.keys, { alias: { spki: `sha256:${"33".repeat(32)}`, does: "unwrap" } }),
      /two entries with the spki/,
    ],
    [
      "mechanisms of two key types",
      (d) =>
        Object.assign(d.scopes[0] ?? {}, {
          mechanisms: [{ type: "CKM_ECDSA_SHA256" }, { type: "CKM_SHA256_RSA_PKCS" }],
        }),
      /two key types/,
    ],
  ])("I6: a policy with %s is refused", (_what, change, finding) => {
    const error = brokenBy(change);
    expect(error.code).toBe("ERR_POLICY_INVALID");
    expect(error.message).toMatch(finding);
  });

  it("I6: a document has 256 callers, and not one more", () => {
    const caller = { uid: 7, exe: [`sha256:${"5e".repeat(32)}`], unit: null };
    const having = (count: number) => (document: PolicyDocument) => {
      const present = Object.keys(document.callers).length;
      const more = Array.from({ length: count - present }, (_, index) => [`c${index}`, caller]);
      Object.assign(document.callers, Object.fromEntries(more));
    };
    const document = policyDocument();
    having(256)(document);
    expect(Object.keys(parsePolicy(documentBytes(document)).callers).length).toBe(256);
    expect(brokenBy(having(257)).message).toBe("policy: 1 finding: callers: expected at most 256 callers");
  });

  it("I6: of many findings the first 64 stand in the message, and all in the error", () => {
    const error = brokenBy((document) => Object.assign(document, { devices: new Array(100).fill("none") }));
    expect(error).toBeInstanceOf(FindingsError);
    expect((error as FindingsError).findings.length).toBe(100);
    expect(error.message).toMatch(/^policy: 100 findings: devices\.0: .*; devices\.63: [^;]*; and 36 more$/);
  });

  it("I6: all findings stand in one message", () => {
    const error = brokenBy((document) => {
      Object.assign(document.scopes[0] ?? {}, { key: "nobody", caller: "nothing" });
      Object.assign(document, { devices: ["ffff:0001", "0000:0001"] });
    });
    expect(error.message).toMatch(/3 findings.*unknown caller nothing.*unknown key nobody.*devices/);
  });

  it.each([
    ["a duplicate key", '{"a":1,"a":2}'],
    ["a duplicate key behind an escape", '{"a":1,"\\u0061":2}'],
    ["a __proto__ key", '{"__proto__":{}}'],
    ["a trailing comma", "[1,]"],
    ["an inexact integer", "9007199254740993"],
    ["an infinite number", "1e999"],
    ["a lone surrogate", '"\\ud800"'],
    ["a byte order mark", "\ufeff{}"],
    ["a control character in a string", '"\u0001"'],
    ["a leading zero", "01"],
    ["nothing", ""],
    ["17 levels", `${"[".repeat(18)}${"]".repeat(18)}`],
  ])("I10: JSON with %s is refused as malformed", (_what, json) => {
    expect(refusal(() => parsePolicy(text(json))).code).toBe("ERR_POLICY_MALFORMED");
  });

  it("I10: a document beyond the size limit and bytes that are not UTF-8 are refused as malformed", () => {
    expect(refusal(() => parsePolicy(new Uint8Array((1 << 20) + 1).fill(32))).code).toBe("ERR_POLICY_MALFORMED");
    expect(refusal(() => parsePolicy(Uint8Array.of(0x22, 0xff, 0x22))).code).toBe("ERR_POLICY_MALFORMED");
  });

  it("I10: every JSON value comes back as it went in", () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 5, noUnicodeString: false }), (value) => {
        const json = JSON.stringify(value);
        fc.pre(!json.includes('"__proto__"') && json.isWellFormed());
        const limits = { maxBytes: 1 << 20, maxDepth: 64 };
        let parsed: unknown;
        try {
          parsed = parseJson(text(json), "value", limits);
        } catch (error) {
          // Large integers and lone surrogates are refused on purpose.
          return (
            error instanceof PolicyError && (/exact number/.test(error.message) || /surrogates/.test(error.message))
          );
        }
        expect(parsed).toEqual(JSON.parse(json));
        return true;
      }),
    );
  });

  it("I10: a string is what JSON.parse reads between its quotes, or refused", () => {
    const limits = { maxBytes: 1 << 20, maxDepth: 4 };
    const part = fc.constantFrom(
      '"',
      "\\",
      "\\\\",
      "\\u",
      "\\u00e9",
      "\\n",
      "\\x",
      "\n",
      "\u0000",
      "\u001f",
      "\u2028",
      "a",
      "\u{1f600}",
      " ",
    );
    const read = (json: string) => parseJson(text(json), "value", limits);
    fc.assert(
      fc.property(fc.array(part, { maxLength: 8 }), (parts) => {
        const json = `"${parts.join("")}"`;
        let expected: unknown;
        try {
          expected = JSON.parse(json);
        } catch {
          expect(refusal(() => read(json)).code).toBe("ERR_POLICY_MALFORMED");
          expect(refusal(() => read(`[${json}]`)).code).toBe("ERR_POLICY_MALFORMED");
          return;
        }
        expect(read(`[${json},{${json}:1}]`)).toEqual([expected, { [String(expected)]: 1 }]);
      }),
      { numRuns: 1000 },
    );
  });

  it("I10: a string, a number and white space of 16 MiB are read without a stack as long", () => {
    const size = 1 << 24;
    const limits = { maxBytes: 4 * size, maxDepth: 2 };
    const read = (json: string) => parseJson(text(json), "value", limits);
    expect(read(`"${"\\n".repeat(size / 2)}"`)).toBe("\n".repeat(size / 2));
    expect(read(`${" ".repeat(size)}"${"a".repeat(size)}"`)).toBe("a".repeat(size));
    expect(refusal(() => read("1".repeat(size))).message).toMatch(/exact number/);
  });

  it("I10: a mutated document is either the same policy or a typed refusal", () => {
    const bytes = documentBytes(policyDocument());
    fc.assert(
      fc.property(fc.nat(bytes.length - 1), fc.integer({ min: 0, max: 255 }), fc.nat(3), (at, byte, cut) => {
        const mutated = Uint8Array.from(bytes.slice(0, bytes.length - cut));
        mutated[Math.min(at, mutated.length - 1)] = byte;
        try {
          parsePolicy(mutated);
        } catch (error) {
          expect(error).toBeInstanceOf(PolicyError);
        }
      }),
      { numRuns: 300 },
    );
  });
});
