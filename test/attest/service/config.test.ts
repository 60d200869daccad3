import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  defaultConfig,
  encodeVerifierConfig,
  initVerifier,
  isLoopback,
  openVerifierClient,
  openVerifierService,
  parseVerifierConfig,
  type VerifierConfig,
} from "../../../attest/service/index.ts";
import { PeerLimits, peerOf } from "../../../attest/service/limits.ts";
import { utf8 } from "../../../policy/index.ts";
import { createSigningKeyFile, loadSigningKey } from "../../../seal/index.ts";
import { ask, bearer } from "../../support/verifier-fixture.ts";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "ironclaw-config-"));
});
afterAll(() => rmSync(folder, { recursive: true }));
const parsed = (changes: Partial<VerifierConfig>) =>
  parseVerifierConfig(utf8(JSON.stringify({ ...defaultConfig, ...changes })));
const refused = (act: () => unknown, what: RegExp) =>
  expect(act).toThrow(expect.objectContaining({ code: "ERR_SERVICE_CONFIG", message: expect.stringMatching(what) }));

describe("the configuration", () => {
  test("is read back as it was written", () => {
    expect(parseVerifierConfig(encodeVerifierConfig(defaultConfig))).toEqual(defaultConfig);
  });

  test("has no field that may be left out, and none besides", () => {
    for (const field of Object.keys(defaultConfig)) {
      const rest = Object.fromEntries(Object.entries(defaultConfig).filter(([name]) => name !== field));
      refused(() => parseVerifierConfig(utf8(JSON.stringify(rest))), new RegExp(field));
    }
    refused(() => parseVerifierConfig(utf8(JSON.stringify({ ...defaultConfig, more: 1 }))), /more/);
    refused(() => parseVerifierConfig(utf8('{"version":1,"version":1}')), /duplicate/);
  });

  test("an address beyond this machine needs TLS, or somebody who says that it does not", () => {
    for (const host of [
      "0.0.0.0",
      "::",
      "192.0.2.1",
      "verifier.example",
      "127.0.0.1.example",
      "127.0.0.256",
      "localhost.example",
    ]) {
      expect(isLoopback(host), host).toBe(false);
      refused(() => parsed({ listen: { host, port: 1 } }), /loopback/);
      parsed({ listen: { host, port: 1 }, plainTextBeyondLoopback: true });
      parsed({ listen: { host, port: 1 }, tls: { certificate: "c", key: "k", clientCa: null } });
    }
    for (const host of ["127.0.0.1", "127.9.9.9", "::1", "localhost"]) parsed({ listen: { host, port: 1 } });
  });

  test("a certificate's role without a CA above it, or a name twice, is refused", () => {
    const entry = { name: "a", role: "viewer", commonName: "a" } as const;
    refused(() => parsed({ roles: [entry] }), /clientCa/);
    const token = { name: "a", role: "viewer", tokenSha256: "ab".repeat(32) } as const;
    refused(() => parsed({ roles: [token, token] }), /once/);
    refused(() => parsed({ challenge: { ...defaultConfig.challenge, pcrs: [1, 1] } }), /ascending/);
  });

  test("I10: of any bytes ends in a value or a typed error", () => {
    const base = new TextDecoder().decode(encodeVerifierConfig(defaultConfig));
    const mutated = fc
      .tuple(fc.nat(base.length), fc.nat(20), fc.string({ maxLength: 8 }))
      .map(([at, cut, text]) => base.slice(0, at) + text + base.slice(at + cut));
    fc.assert(
      fc.property(fc.oneof(mutated, fc.string()), (text) => {
        try {
          parseVerifierConfig(utf8(text));
        } catch (error) {
          expect(error).toMatchObject({ code: "ERR_SERVICE_CONFIG" });
        }
      }),
    );
  });
});

describe("what `init` lays out", () => {
  test("serves at once, its tokens are those of the configuration, and its secrets are for the owner only", async () => {
    const at = (name: string) => join(folder, "made", name);
    const order = {
      folder: join(folder, "made"),
      createKey: createSigningKeyFile,
      releaseAnchors: null,
      endorsementAnchors: null,
    };
    const { kid } = await initVerifier(order);
    for (const secret of ["signing.pem", "viewer.token", "operator.token"])
      expect(statSync(at(secret)).mode & 0o777).toBe(0o600);
    const config = parseVerifierConfig(new Uint8Array(readFileSync(at("verifier.json"))));
    const service = await openVerifierService(config, {
      folder: order.folder,
      loadKey: loadSigningKey,
      log: null,
      page: new Map(),
    });
    for (const [token, status] of [
      ["viewer", 403],
      ["operator", 201],
    ] as const) {
      const headers = bearer(readFileSync(at(`${token}.token`), "utf8").trim());
      expect(
        (await ask(service, "POST", "/v1/enrolment-tokens", { headers, body: { name: "m1", ttlSeconds: 1 } })).status,
      ).toBe(status);
    }
    expect((await ask(service, "GET", "/v1/keys")).body.keys[0].kid).toBe(kid);
    await service.close();
    await expect(initVerifier(order)).rejects.toThrow(/expected a new file/);
  });

  test("I11: takes nobody's document away: what is there already is not written over", async () => {
    const at = (name: string) => join(folder, "filled", name);
    mkdirSync(join(folder, "filled"));
    for (const name of ["release-anchors.json", "endorsement-anchors.json"])
      writeFileSync(at(name), "an operator's own");
    const given = join(folder, "given.json");
    writeFileSync(given, "{}");
    for (const [releaseAnchors, endorsementAnchors] of [
      [given, null],
      [null, given],
    ] as const) {
      const order = {
        folder: join(folder, "filled"),
        createKey: createSigningKeyFile,
        releaseAnchors,
        endorsementAnchors,
      };
      await expect(initVerifier(order)).rejects.toMatchObject({ code: "ERR_SERVICE_FILE" });
      for (const name of ["signing.pem", "viewer.token", "operator.token", "appraisal.json"])
        rmSync(at(name), { force: true });
    }
    for (const name of ["release-anchors.json", "endorsement-anchors.json"])
      expect(readFileSync(at(name), "utf8")).toBe("an operator's own");
  });
});

describe("a service that cannot start says why", () => {
  test.each<[string, (config: VerifierConfig) => VerifierConfig, string]>([
    ["no policy", (config) => ({ ...config, policy: "none.json" }), "ERR_SERVICE_FILE"],
    ["a policy that is none", (config) => ({ ...config, policy: "verifier.json" }), "ERR_SERVICE_CONFIG"],
    ["no folder of releases", (config) => ({ ...config, references: "none" }), "ERR_SERVICE_FILE"],
    ["anchors that are none", (config) => ({ ...config, releaseAnchors: "verifier.json" }), "ERR_SERVICE_CONFIG"],
    [
      "endorsement anchors that are none",
      (config) => ({ ...config, endorsementAnchors: "verifier.json" }),
      "ERR_SERVICE_CONFIG",
    ],
    ["a key that others can read", (config) => ({ ...config, signingKey: "appraisal.json" }), "ERR_KEY_FILE"],
    ["a release under another root", (config) => ({ ...config, references: "wrong" }), "ERR_SERVICE_FILE"],
  ])("%s", async (_, change, code) => {
    const made = join(folder, "made");
    const config = change(parseVerifierConfig(new Uint8Array(readFileSync(join(made, "verifier.json")))));
    const opened = openVerifierService(config, { folder: made, loadKey: loadSigningKey, log: null, page: new Map() });
    await expect(opened).rejects.toMatchObject({ code });
  });

  test("a store that another program wrote", async () => {
    const made = join(folder, "made");
    writeFileSync(join(made, "other.db"), "not a database at all".repeat(300));
    const config = { ...defaultConfig, store: "other.db" };
    const opened = openVerifierService(config, { folder: made, loadKey: loadSigningKey, log: null, page: new Map() });
    await expect(opened).rejects.toMatchObject({ code: "ERR_SERVICE_STORE" });
  });
});

describe("who asks", () => {
  test.each([
    ["192.0.2.7", "192.0.2.7"],
    ["::ffff:192.0.2.7", "192.0.2.7"],
    ["2001:db8:1:2:3:4:5:6", "2001:db8:1:0::/56"],
    ["2001:db8:1:2ff:ffff::1", "2001:db8:1:200::/56"],
    ["2001:db8::7", "2001:db8:0:0::/56"],
    ["::1", "0:0:0:0::/56"],
    ["fe80::1%eth0", "fe80:0:0:0::/56"],
  ])("%s is the peer %s", (address, peer) => expect(peerOf(address)).toBe(peer));

  test("without an address comes over a Unix socket", () =>
    expect([peerOf(undefined), peerOf("")]).toEqual(["unix", "unix"]));

  test("I10: spends its own tokens, gets them back with time, and the table does not grow", () => {
    const limits = new PeerLimits({ perMinute: 60, burst: 2 }, 3);
    expect([0, 0, 0].map((now) => limits.admit("a", now))).toEqual([true, true, false]);
    expect(limits.admit("b", 0)).toBe(true);
    expect([999, 1000].map((now) => limits.admit("a", now))).toEqual([false, true]);
    for (let at = 0; at < 1000; at++) limits.admit(`peer ${at}`, 1000);
    expect(limits.admit("a", 1000)).toBe(true); // forgotten, so it begins anew
  });
});

test("nothing of `attest` outside the service imports it: the verifier there stays pure", () => {
  const attest = new URL("../../../attest/", import.meta.url);
  for (const name of readdirSync(attest).filter((file) => file.endsWith(".ts")))
    expect(readFileSync(new URL(name, attest), "utf8"), name).not.toMatch(/from "\.\/service\//);
});

describe("the client", () => {
  test.each(["http://192.0.2.1:80", "ftp://127.0.0.1", "127.0.0.1:80", "unix:relative", ""])(
    "sends nothing in the clear to %s",
    (to) => {
      expect(() => openVerifierClient({ to, ca: null })).toThrow(
        expect.objectContaining({ code: "ERR_SERVICE_CONFIG" }),
      );
    },
  );

  test("says that nobody answers", async () => {
    const client = openVerifierClient({ to: `unix:${join(folder, "nobody.sock")}`, ca: null });
    await expect(client.challenge("m1")).rejects.toMatchObject({ code: "ERR_SERVICE_UNREACHABLE" });
  });

  test.each(["/dev/zero", "/dev/null", "."])(
    "I10: a document to copy that is no file (%s) is refused at once",
    async (given) => {
      for (const name of ["releaseAnchors", "endorsementAnchors"] as const) {
        const order = {
          createKey: createSigningKeyFile,
          releaseAnchors: null,
          endorsementAnchors: null,
          [name]: given,
        };
        await expect(initVerifier({ folder: mkdtempSync(join(folder, "copy-")), ...order })).rejects.toMatchObject({
          ...{ code: "ERR_SERVICE_FILE", expected: "a readable file", got: "something else" },
        });
      }
    },
  );

  test.each([
    ["in a place that takes none", "/proc/x", "a place that takes none"],
    ["below a file", "file/x", "a file above it"],
  ])("I10: a folder %s ends in a typed error", async (_, name, got) => {
    writeFileSync(join(folder, "file"), "");
    const order = { createKey: createSigningKeyFile, releaseAnchors: null, endorsementAnchors: null };
    await expect(initVerifier({ folder: resolve(folder, name), ...order })).rejects.toMatchObject({
      ...{ code: "ERR_SERVICE_FILE", exitCode: 4, expected: "a folder, or a place for one", got },
    });
  });
});
