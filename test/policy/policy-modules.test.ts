import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { MAX_SHIMS } from "../../agent/spawner-messages.ts";
import { parseEndpoint } from "../../policy/endpoint.ts";
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
import { refusal } from "../support/policy-refusal.ts";

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

describe("the modules and tokens of a policy", () => {
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
});
