import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { MAX_SHIMS } from "../../agent/spawner-messages.ts";
import { parseEndpoint } from "../../policy/endpoint.ts";
import { PolicyError } from "../../policy/errors.ts";
import { parseJson } from "../../policy/json.ts";
import { moduleOf, parsePolicy, sortedModules, sortedTokens } from "../../policy/policy.ts";
import { policyExceptions } from "../../policy/policy-exceptions.ts";
import { MACHINE_SHIMS } from "../../policy/policy-modules.ts";
import {
  documentBytes,
  type PolicyDocument,
  policyDocument,
  twoModuleDocument,
  twoTokenDocument,
} from "../support/policy-document.ts";

function refusal(action: () => unknown): PolicyError {
  try {
    action();
  } catch (error) {
    if (error instanceof PolicyError) return error;
    throw error;
  }
  throw new Error("expected a refusal");
}

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

interface ModulesDocument extends PolicyDocument {
  modules: Record<string, Record<string, unknown>>;
  tokens: Record<string, unknown>;
}

const profile = (name: string) => ({ name, sha256: "ab".repeat(32) });

function leadTo(module: Record<string, unknown>, to: string): void {
  Object.assign(module, { connect: [{ listen: "127.0.0.1:1500", to }] });
}

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

  it("I5: tokens and modules are found by their names, in order, and a name of neither is nobody's", () => {
    const policy = parsePolicy(documentBytes(twoModuleDocument()));
    expect(sortedModules(policy).map(({ name }) => name)).toEqual(["nethsm", "softhsm"]);
    expect(sortedTokens(policy).map(({ name }) => name)).toEqual(["payments", "signing"]);
    expect([moduleOf(policy, "payments").name, moduleOf(policy, "signing").name]).toEqual(["nethsm", "softhsm"]);
    for (const name of ["nethsm", "constructor", ""]) expect(() => moduleOf(policy, name)).toThrow(TypeError);
  });

  it("I5: everything that a module reaches beyond its own files is said, one line each", () => {
    const document = twoModuleDocument();
    expect(policyExceptions(parsePolicy(documentBytes(document)))).toEqual([
      "module nethsm: tcp 192.0.2.7:1500 through the relay",
    ]);
    Object.assign(document, { devices: ["1af4:1041", "usb:08e6:4433"] });
    Object.assign(document.modules["softhsm"] ?? {}, {
      ...{ profile: { name: "usb", sha256: "ad".repeat(32) }, nodes: ["/dev/ttyACM0", "usb:08e6:4433"] },
    });
    Object.assign(document.modules["nethsm"] ?? {}, {
      connect: [
        { listen: "/run/pcscd/pcscd.comm", to: "/run/pcscd/pcscd.comm" },
        { listen: "[::1]:9000", to: "[2001:db8::7]:9000" },
      ],
    });
    expect(policyExceptions(parsePolicy(documentBytes(document)))).toEqual([
      "module nethsm: unix /run/pcscd/pcscd.comm through the relay",
      "module nethsm: tcp [2001:db8::7]:9000 through the relay",
      "module softhsm: device node /dev/ttyACM0",
      "module softhsm: device node usb:08e6:4433",
    ]);
    expect(policyExceptions(parsePolicy(documentBytes(policyDocument())))).toEqual([]);
  });

  it("I5: a daemon or device that several tokens reach is said to be shared, whichever modules they use", () => {
    const document = twoModuleDocument();
    Object.assign(document.modules["softhsm"] ?? {}, {
      profile: document.modules["nethsm"]?.["profile"],
      connect: [{ listen: "127.0.0.1:1500", to: "192.0.2.7:1500" }],
    });
    expect(policyExceptions(parsePolicy(documentBytes(document)))).toEqual([
      "module nethsm: tcp 192.0.2.7:1500 through the relay, shared by tokens payments, signing",
      "module softhsm: tcp 192.0.2.7:1500 through the relay, shared by tokens payments, signing",
    ]);
  });

  it.each<[string, (module: Record<string, unknown>, document: ModulesDocument) => void, RegExp]>([
    ["no module", (_, { modules }) => clear(modules), /modules: expected 1 to 4 modules/],
    [
      "five modules",
      (module, { modules }) => {
        for (let at = 0; at < 3; at++) modules[`m${at}`] = module;
      },
      /modules: expected 1 to 4 modules/,
    ],
    [
      "a module without a token",
      (module, { modules }) => Object.assign(modules, { more: module }),
      /no token is reached/,
    ],
    [
      "a token of an unknown module",
      (_, { tokens }) => Object.assign(tokens["signing"] ?? {}, { module: "constructor" }),
      /tokens\.signing: unknown module constructor/,
    ],
    ["an unknown profile", (module) => Object.assign(module, { profile: profile("wide") }), /profile\.name/],
    ["a field too many in a module", (module) => Object.assign(module, { wildcard: "*" }), /wildcard/],
    ["a module without nodes", (module) => delete module["nodes"], /modules\.nethsm\.nodes/],
    ["four spares", (module) => Object.assign(module, { spares: 4 }), /spares/],
    ["no shim that serves", (module) => Object.assign(module, { shims: 0 }), /shims/],
    ["nine shims that serve", (module) => Object.assign(module, { shims: 9 }), /shims/],
    [
      "a relay to nowhere",
      (module) => Object.assign(module, { connect: [] }),
      /connect: profile relay has at least one/,
    ],
    [
      "a relay with a device",
      (module) => Object.assign(module, { nodes: ["/dev/ttyACM0"] }),
      /nodes: profile relay has none/,
    ],
    [
      "a local module with an endpoint",
      (module) => Object.assign(module, { profile: profile("local") }),
      /connect: profile local has none/,
    ],
    [
      "a usb module without a device",
      (module) => Object.assign(module, { profile: profile("usb"), connect: [] }),
      /nodes: profile usb has at least one/,
    ],
    [
      "a USB device that is not among the machine's",
      (module) => Object.assign(module, { profile: profile("usb"), connect: [], nodes: ["usb:08e6:4433"] }),
      /usb:08e6:4433 is not among the devices/,
    ],
    ["a name instead of an address", (module) => leadTo(module, "hsm.example:1500"), /connect\.0\.to/],
    ["an address in another spelling", (module) => leadTo(module, "192.0.2.007:1500"), /connect\.0\.to/],
    ["an address as a number", (module) => leadTo(module, "3221225991:1500"), /connect\.0\.to/],
    ["the unspecified address", (module) => leadTo(module, "0.0.0.0:1500"), /connect\.0\.to/],
    ["no port", (module) => leadTo(module, "192.0.2.7"), /connect\.0\.to/],
    ["port 65536", (module) => leadTo(module, "192.0.2.7:65536"), /connect\.0\.to/],
    ["a path that climbs", (module) => leadTo(module, "/run/../etc/x"), /connect\.0\.to/],
    ["a socket's path of 108 bytes", (module) => leadTo(module, `/${"x".repeat(107)}`), /connect\.0\.to/],
    ["an endpoint of another kind", (module) => leadTo(module, "/run/pcscd/pcscd.comm"), /of another kind/],
    [
      "a listener that is not on the loopback",
      (module) => Object.assign(module, { connect: [{ listen: "192.0.2.1:1500", to: "192.0.2.7:1500" }] }),
      /192\.0\.2\.1:1500 is no loopback address/,
    ],
    [
      "two listeners on one port",
      (module) => {
        const [endpoint] = module["connect"] as unknown[];
        Object.assign(module, { connect: [endpoint, endpoint] });
      },
      /two listeners on 127\.0\.0\.1:1500/,
    ],
    ["a node outside /dev", (module) => Object.assign(module, { nodes: ["/dev/../etc/shadow"] }), /nodes\.0/],
    [
      "a file outside the writable directories",
      (module) => Object.assign(module, { files: { "/etc/k": "tls-key" } }),
      /\/etc\/k is in no writable/,
    ],
    [
      "one path pinned to two digests",
      (module) => Object.assign(module, { closure: { "/lib/x86_64-linux-gnu/libc.so.6": "00".repeat(32) } }),
      /two digests of \/lib\/x86_64-linux-gnu\/libc\.so\.6/,
    ],
    [
      "one profile with two digests",
      (module, { modules }) => {
        modules["softhsm"] = { ...module, profile: { name: "relay", sha256: "00".repeat(32) } };
      },
      /two digests of profile relay/,
    ],
    ["a sandbox that may lack anything", (_, d) => Object.assign(d, { sandbox: { lacks: ["*"] } }), /sandbox\.lacks/],
    [
      "a feature that is lacking twice",
      (_, d) => Object.assign(d, { sandbox: { lacks: ["landlock-tcp", "landlock-tcp"] } }),
      /landlock-tcp is listed twice/,
    ],
    ["no answer to a violation", (_, d) => delete d["onViolation"], /onViolation/],
    ["no answer to a lost login", (_, d) => delete d["onLoginLost"], /onLoginLost/],
    ["both spellings of a module", (module, d) => Object.assign(d, { module }), /module/],
    [
      "a key that accepts anything",
      (_, d) => Object.assign(d.keys["vault"] ?? {}, { accepts: ["extractable"] }),
      /keys\.vault\.accepts/,
    ],
  ])("I5 I7: a policy with %s is refused", (_what, change, finding) => {
    const document = twoModuleDocument();
    change(document.modules["nethsm"] ?? {}, document as ModulesDocument);
    const error = refusal(() => parsePolicy(documentBytes(document)));
    expect(error.code).toBe("ERR_POLICY_INVALID");
    expect(error.message).toMatch(finding);
  });

  it("I5 I6: one shim serves each token unless its module says how many, and all tokens' shims and spares are what a machine has room for", () => {
    const document = twoTokenDocument();
    const module = document.modules["softhsm"] ?? {};
    const shimsOf = () => parsePolicy(documentBytes(document)).modules["softhsm"]?.shims;
    expect([MACHINE_SHIMS, shimsOf()]).toEqual([MAX_SHIMS, 1]);
    Object.assign(module, { shims: 8, spares: 0 });
    expect(shimsOf()).toBe(8);
    Object.assign(module, { spares: 1 });
    expect(refusal(shimsOf).message).toMatch(/tokens: 18 shims and spares in all, and a machine has room for 16/);
    const short = policyDocument();
    expect(parsePolicy(documentBytes({ ...short, shims: 2 })).modules["module"]?.shims).toBe(2);
  });

  it("I10: an endpoint is one text, of which nothing else is read", () => {
    const octet = fc.nat(255);
    fc.assert(
      fc.property(fc.tuple(octet, octet, octet, octet), fc.nat(70_000), (octets, port) => {
        const text = `${octets.join(".")}:${port}`;
        const read = parseEndpoint(text);
        const valid = port >= 1 && port <= 65_535 && octets.some((byte) => byte !== 0);
        expect(read === null ? null : read.kind === "tcp" && `${read.address}:${read.port}`).toBe(valid ? text : null);
      }),
    );
    fc.assert(
      fc.property(fc.string(), (text) => {
        const read = parseEndpoint(text);
        if (read !== null) expect(read.kind === "unix" ? read.path : `${read.address}:${read.port}`).toBe(text);
      }),
    );
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
