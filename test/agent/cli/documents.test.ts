import { chmodSync, cpSync, writeFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { sha256Hex } from "../../../policy/index.ts";
import { compiledProfile } from "../../../vm-images/profiles.ts";
import { decryptionScopes } from "../../support/broker-fixture.ts";
import { cli } from "../../support/cli.ts";
import { type CliFixture, expectComplaint, makeCliFixture, PIN } from "../../support/cli-fixture.ts";
import { policyDocument, twoModuleDocument } from "../../support/policy-document.ts";

let made: CliFixture;
beforeAll(async () => {
  made = await makeCliFixture();
}, 120_000);
afterAll(async () => {
  await made?.[Symbol.asyncDispose]();
});
const at = (name: string) => made.at(name);

const changed = (name: string, change: (document: string) => string): string => {
  writeFileSync(at("changed"), change(made.text(name)));
  return at("changed");
};

describe("a policy", () => {
  test.each([
    ["an unknown field", (policy: string) => policy.replace("{", '{"wildcard": true,'), /ERR_POLICY_INVALID/],
    ["a duplicate key", (policy: string) => policy.replace('"serial": 7', '"serial": 7, "serial": 8'), /"serial"/],
    [
      "a scope with an unknown key",
      (policy: string) => policy.replace('"key": "release-ec"', '"key": "nobody"'),
      /unknown key nobody/,
    ],
    ["another version", (policy: string) => policy.replace('"version": 3', '"version": 2'), /version/],
  ])("I6: a policy with %s is refused, by name", async (_, change, message) => {
    const result = await cli(["policy", "check", changed("policy.json", change)]);
    expectComplaint(result, 3, "policy check");
    expect(result.out + result.err).toMatch(message);
    expect(result.out).toMatch(/^\/[^\n]*:\d+:\d+: /);
  });

  test("I5: `policy explain` says of each library what it may reach, what is beyond its own files first", async () => {
    const put = (name: string, document: unknown) => {
      writeFileSync(at(name), JSON.stringify(document));
      return at(name);
    };
    const wide = put("wide.json", twoModuleDocument());
    const { code, out } = await cli(["policy", "explain", wide]);
    expect(code).toBe(0);
    expect(out).toMatch(/^exception {2}module nethsm: tcp 192\.0\.2\.7:1500 through the relay\n/);
    expect(out).toContain("network: tcp 192.0.2.7:1500 through the relay, which it sees as 127.0.0.1:1500\n");
    expect(out).toContain("secrets: the PIN of its token, tls-key as /var/lib/nethsm/tls.key\n");
    expect(out).toMatch(/module softhsm: [\s\S]*devices: none\n {2}network: none\n/);
    for (const profile of ["local", "relay"]) expect(out).toContain(`profile ${profile}: the policy names another one`);
    const json = JSON.parse((await cli(["policy", "explain", wide, "--json"])).out);
    expect(json).toMatchObject({ exceptions: [expect.any(String)], onViolation: "kill", sandbox: { lacks: [] } });
    expect(json.modules.map(({ name }: { name: string }) => name)).toEqual(["nethsm", "softhsm"]);
    expect(json.profiles).toEqual([
      { name: "relay", sha256: "ce".repeat(32), matches: false, explanation: null },
      { name: "local", sha256: "ab".repeat(32), matches: false, explanation: null },
    ]);

    const sha256 = sha256Hex(compiledProfile("local"));
    const narrow = put("narrow.json", { ...policyDocument(), profile: { name: "local", sha256 } });
    const explained = (await cli(["policy", "explain", narrow])).out;
    expect(explained).not.toContain("exception");
    expect(explained).toContain("profile local");
    expect(explained).toMatch(/denied/);
    const told = JSON.parse((await cli(["policy", "explain", narrow, "--json"])).out);
    expect(told.profiles).toEqual([{ name: "local", sha256, matches: true, explanation: expect.any(String) }]);
    expect(explained).toContain(told.profiles[0].explanation.trimEnd());
    const relay = { ...twoModuleDocument() };
    Object.assign(relay.modules["nethsm"] ?? {}, {
      profile: { name: "relay", sha256: sha256Hex(compiledProfile("relay")) },
    });
    const relayed = (await cli(["policy", "explain", put("relay.json", relay)])).out;
    expect(relayed).toContain("profile relay: what a PKCS#11 library may do in a shim");
    expect((await cli(["policy", "check", wide])).out).toMatch(/\n {2}exception {2}module nethsm: /);
  });

  test("I7: `policy check` says before all else which weaknesses the policy accepts, and where", async () => {
    const document = policyDocument();
    decryptionScopes(document);
    Object.assign(document.keys["release-ec"] as object, { accepts: ["unknown-history"] });
    Object.assign(document, { sandbox: { lacks: ["landlock-scope"] } });
    writeFileSync(at("weak.json"), JSON.stringify(document));
    const { code, out } = await cli(["policy", "check", at("weak.json")]);
    expect(code).toBe(0);
    const accepted = [
      /^scope legacy: padding-oracle, by CKM_RSA_PKCS with vault: .*; \d+ failures at once, then \d+ an hour$/,
      /^scope raw: raw-rsa, by CKM_RSA_X_509 with vault: whoever may use the key can sign and decrypt everything/,
      /^key release-ec, in release-signing: unknown-history: it may have been outside its token$/,
      /^sandbox: without landlock-scope, /,
    ].map((line) => expect.stringMatching(line));
    const lines = out.split("\n");
    expect(lines.slice(1, 5).map((line) => line.replace(/^ {2}accepts {2}/, ""))).toEqual(accepted);
    expect(lines[5]).toMatch(/^ {2}module /);
    expect(out).toMatch(/\n {2}legacy: .* by CKM_RSA_PKCS; accepts padding-oracle\n/);
    const json = JSON.parse((await cli(["policy", "check", at("weak.json"), "--json"])).out);
    expect(json.risks).toEqual(accepted);
    const accepts = Object.fromEntries(
      json.scopes.map((scope: Record<string, unknown>) => [scope["name"], scope["accepts"]]),
    );
    expect(accepts).toMatchObject({
      ...{ legacy: ["padding-oracle"], raw: ["raw-rsa"], vault: [], "rsa-signing": [] },
      "release-signing": ["unknown-history"],
    });
    const plain = JSON.parse((await cli(["policy", "check", at("policy.json"), "--json"])).out);
    expect(plain.risks).toEqual([]);
  });

  test("`policy explain` with half a question asks for the rest of it", async () => {
    expectComplaint(await cli(["policy", "explain", at("policy.json"), "--caller", "backup"]), 2, "--key");
  });

  test("I6: `policy explain` says no with the step that failed, and exits 1", async () => {
    for (const [option, value, reason] of [
      ["--caller", "nobody", /no, caller: the peer could not be identified/],
      ["--caller", "backup", /no, caller: uid 2003 is not release-signer/],
      ["--key", "vault", /no, key: vault is not visible/],
      ["--mechanism", "CKM_AES_CBC", /no, mechanism: CKM_AES_CBC is not allowed/],
    ] as const) {
      const line = made.lineOf("policy explain");
      line[line.indexOf(option) + 1] = value;
      const { code, out } = await cli(line);
      expect(code).toBe(1);
      expect(out).toMatch(/^denied, [a-z-]+ on token token\n/);
      expect(out).toMatch(reason);
    }
    const decrypt = await cli([...made.lineOf("policy explain"), "--operation", "decrypt"]);
    expect(decrypt).toMatchObject({ code: 1, out: expect.stringContaining("does sign, not decrypt") });
    const pss = made
      .lineOf("policy explain")
      .map((word) => ({ CKM_ECDSA: "CKM_RSA_PKCS_PSS", "release-ec": "release-rsa" })[word] ?? word);
    expect(await cli(pss)).toMatchObject({ code: 0, out: expect.stringContaining("rsa-signing/CKM_RSA_PKCS_PSS") });
  });
});

describe("a key file", () => {
  test("a key file that others can read is not used, and the hint says how to repair it", async () => {
    cpSync(at("operator.pem"), at("shared.pem"));
    chmodSync(at("shared.pem"), 0o644);
    const line = made.lineOf("seal").map((word) => (word === at("operator.pem") ? at("shared.pem") : word));
    const result = await cli(line, PIN);
    expectComplaint(result, 4, "mode 0644");
    expect(result.err).toMatch(/expected mode 0600, got 0644 \(ERR_KEY_FILE\)\nhint: chmod 600 /);
  });

  test("a key is never overwritten", async () => {
    const before = made.text("root.pem");
    expectComplaint(await cli(["keys", "new", at("root.pem")]), 4, "keys new");
    expect(made.text("root.pem")).toBe(before);
  });
});

describe("an audit log", () => {
  test("I8: a log that does not reach the head of a report, or ends in half a record, is refused", async () => {
    const { out } = await cli(["audit", "verify", at("audit.log"), "--json"]);
    const { seq, hash } = JSON.parse(out);
    expect((await cli(["audit", "verify", at("audit.log"), "--head", `${seq}:${hash}`])).code).toBe(0);
    const [first = ""] = made.text("audit.log").split("\n");
    writeFileSync(at("changed"), `${first}\n`);
    expect((await cli(["audit", "verify", at("changed")])).code).toBe(0);
    expectComplaint(await cli(["audit", "verify", at("changed"), "--head", `${seq}:${hash}`]), 3, "a shortened log");
    writeFileSync(at("changed"), made.text("audit.log").slice(0, -10));
    expectComplaint(await cli(["audit", "verify", at("changed")]), 3, "half a record");
    writeFileSync(at("changed"), made.text("audit.log").replace("first", "fjrst"));
    expectComplaint(await cli(["audit", "verify", at("changed")]), 3, "an edited record");
  });
});

describe("a public key that somebody brings", () => {
  const spellings: readonly (readonly [string, (pem: string) => string])[] = [
    ["lines that end with CR LF", (pem) => pem.replaceAll("\n", "\r\n")],
    ["blank lines behind it", (pem) => `${pem}\n\n`],
    ["text in front of it", (pem) => `# the root, kept in the safe\n\n${pem}`],
    ["no line feed at its end", (pem) => pem.trimEnd()],
    ["longer lines", (pem) => pem.replace(/([A-Za-z0-9+/=]{64})\n/, "$1")],
  ];

  test.each(spellings)(
    "I2: with %s it is the same key, and documents have it in their one spelling",
    async (_, spell) => {
      for (const [words, name, document] of [
        ["keys anchors", "root.pub", "anchors.json"],
        ["keys anchors", "operator.pub", "anchors.json"],
        ["keys delegate", "release.pub", "delegation.json"],
      ] as const) {
        const line = made.lineWith(words, name, changed(name, spell));
        expect(await cli(line.with(-1, at("other")))).toMatchObject({ code: 0, err: "" });
        const { delegation: _signed, ...keys } = made.json("other");
        const { delegation: _before, ...same } = made.json(document);
        expect(keys).toEqual(same);
      }
      const seal = made.lineWith("seal", "root.pub", changed("root.pub", spell)).with(-1, at("other"));
      expect(await cli([...seal, "--json"], PIN)).toMatchObject({ code: 0, err: "" });
    },
  );

  test("I2: two keys in a file, or none, are refused", async () => {
    for (const spell of [(pem: string) => pem + pem, () => "no key\n", (pem: string) => pem.replace("END", "end")])
      expectComplaint(
        await cli(made.lineWith("keys anchors", "root.pub", changed("root.pub", spell))),
        3,
        "public key",
      );
  });

  test("I2: a document with a key in another spelling is refused", async () => {
    const document = changed("anchors.json", (text) => text.replaceAll("\\n", "\\r\\n"));
    expectComplaint(await cli(made.lineWith("release show", "anchors.json", document)), 3, "anchors");
  });
});
