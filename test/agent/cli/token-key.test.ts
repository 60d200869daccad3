import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { PKCS11 } from "pkcs11js";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { UsageError } from "../../../agent/cli/command.ts";
import { isPkcs11Uri, parsePkcs11Uri } from "../../../agent/cli/pkcs11-uri.ts";
import { openSigningKey } from "../../../agent/cli/signing-key.ts";
import { withTokenSession } from "../../../agent/cli/token-session.ts";
import {
  encodeSpkiPem,
  parseAnchors,
  parseDelegation,
  utf8,
  verifyDelegation,
  verifySignature,
} from "../../../policy/index.ts";
import { verifyReleaseSignatures } from "../../../policy/release.ts";
import { verifySealedPackage } from "../../../seal/index.ts";
import { cli, program } from "../../support/cli.ts";
import { type CliFixture, expectComplaint, ironclaw, makeCliFixture } from "../../support/cli-fixture.ts";
import { createSoftHsmToken, SOFTHSM_LIBRARY } from "../../support/softhsm.ts";

const TOKEN_PIN = "token-pin-9931";
const directory = mkdtempSync(join(tmpdir(), "token-key-"));
const pinFile = join(directory, "pin");
const uri = (path: string, query = `module-path=${SOFTHSM_LIBRARY}&pin-source=${pinFile}`) => `pkcs11:${path}?${query}`;

/** What a token can hold that is no signing key of ours. */
const CKA = {
  class: 0,
  token: 1,
  private: 2,
  label: 3,
  id: 0x102,
  sensitive: 0x103,
  sign: 0x108,
  verify: 0x10a,
} as const;
const EC = { mechanism: 0x1040, parameter: (oid: string) => ({ type: 0x180, value: Buffer.from(oid, "hex") }) };
const RSA = { mechanism: 0, bits: (value: number) => ({ type: 0x121, value }) };
const P256 = EC.parameter("06082a8648ce3d030107");
const P384 = EC.parameter("06052b81040022");
const EXPONENT = (hex: string) => ({ type: 0x122, value: Buffer.from(hex, "hex") });

let serial = "";
let publicKeys: ReadonlyMap<string, { readonly spki: Uint8Array }>;
const pemOf = (label: string) => encodeSpkiPem(publicKeys.get(label)?.spki ?? new Uint8Array());

beforeAll(async () => {
  const token = await createSoftHsmToken({ directory, pin: TOKEN_PIN, label: "signing" });
  await token.close();
  ({ serial, publicKeys } = token);
  process.env["SOFTHSM2_CONF"] = join(directory, "softhsm2.conf");
  writeFileSync(pinFile, `${TOKEN_PIN}\n`, { mode: 0o600 });
  addOddKeys();
});
afterAll(() => {
  delete process.env["SOFTHSM2_CONF"];
  rmSync(directory, { recursive: true, force: true });
});

/** Keys that must be refused, and one that asks for the PIN each time. */
function addOddKeys(): void {
  const library = new PKCS11();
  library.load(SOFTHSM_LIBRARY);
  library.C_Initialize();
  const slot = library.C_GetSlotList(true).find((each) => library.C_GetTokenInfo(each).label.trim() === "signing");
  if (slot === undefined) throw new Error("no token");
  const session = library.C_OpenSession(slot, 6);
  library.C_Login(session, 1, TOKEN_PIN);
  const make = (label: string, id: number, mechanism: number, more: object[], secret: object[] = []) => {
    const common = [
      ...[
        { type: CKA.token, value: true },
        { type: CKA.label, value: label },
      ],
      { type: CKA.id, value: Buffer.from([id]) },
    ];
    const privatePart = [
      { type: CKA.private, value: true },
      { type: CKA.sensitive, value: true },
      { type: CKA.sign, value: true },
    ];
    return library.C_GenerateKeyPair(
      session,
      { mechanism },
      [...common, { type: CKA.verify, value: true }, ...more] as never,
      [...common, ...privatePart, ...secret] as never,
    );
  };
  make("p384", 3, EC.mechanism, [P384]);
  make("rsa3072", 4, RSA.mechanism, [RSA.bits(3072), EXPONENT("010001")]);
  make("exponent3", 5, RSA.mechanism, [RSA.bits(2048), EXPONENT("03")]);
  make("twin", 6, EC.mechanism, [P256]);
  make("twin", 7, EC.mechanism, [P256]);
  library.C_DestroyObject(session, make("alone", 8, EC.mechanism, [P256]).publicKey);
  // The public object beside this private key is another key's.
  library.C_DestroyObject(session, make("mixed", 9, EC.mechanism, [P256]).publicKey);
  library.C_DestroyObject(session, make("mixed-public", 9, EC.mechanism, [P256]).privateKey);
  make("asks", 10, EC.mechanism, [P256], [{ type: 0x202, value: true }]);
  library.C_Finalize();
}

describe("a pkcs11: URI", () => {
  test("reads the attributes of RFC 7512 that name a key", () => {
    const text =
      "pkcs11:token=my%20token;serial=1f;object=a%2Fb;id=%01%ffA;type=private?module-path=/l.so&pin-source=/p?x";
    expect(parsePkcs11Uri(text)).toEqual({
      ...{ token: "my token", serial: "1f", object: "a/b", id: Uint8Array.of(1, 255, 65) },
      ...{ modulePath: "/l.so", pinSource: "/p?x" },
    });
    expect(parsePkcs11Uri(uri("", "module-path=/l.so&pin-source=file:///run/pin"))).toMatchObject({
      ...{ token: undefined, object: undefined, id: undefined },
      pinSource: "/run/pin",
    });
  });

  test.each([
    ["an unknown attribute", uri("manufacturer=x"), /only token, serial, object, id, type, got manufacturer/],
    ["an attribute in capitals", uri("Token=x"), /only token, serial/],
    ["an attribute twice", uri("token=a;token=b"), /token: expected it once, got it twice/],
    ["a vendor's attribute", uri("x-vendor=1"), /only token/],
    ["an empty attribute", uri("token=a;"), /only token/],
    ["an empty value", uri("token="), /token: expected a value, got none/],
    ["a public key", uri("type=public"), /type: expected private/],
    ["a blank that is not encoded", uri("token=a b"), /percent-encoding/],
    ["half a percent-encoding", uri("token=a%2"), /percent-encoding/],
    ["no hexadecimal digits", uri("id=%zz"), /percent-encoding/],
    ["a slash in the path", uri("token=a/b"), /percent-encoding/],
    ["bytes that are no UTF-8", uri("token=%ff"), /UTF-8/],
    ["no library", uri("token=a", "pin-source=/p"), /module-path: expected the library's absolute path, got none/],
    ["a library by its name", uri("token=a", "module-path=l.so&pin-source=/p"), /module-path: .*, got something else/],
    [
      "no PIN file",
      uri("token=a", "module-path=/l.so"),
      /pin-source: expected a file with the PIN, mode 0600, got none/,
    ],
    ["a program for a PIN", uri("token=a", "module-path=/l.so&pin-source=|cat"), /pin-source: .* got something else/],
    ["a NUL in a path", uri("token=a", "module-path=/l%00.so&pin-source=/p"), /module-path/],
    ["a PIN", uri("token=a", "module-path=/l.so&pin-value=4711"), /got pin-value/],
    ["a PIN and a file", uri("token=a", "module-path=/l.so&pin-source=/p&pin-value=4711"), /got pin-value/],
  ])("with %s is refused as usage, and its values are not repeated", async (_, text, message) => {
    const result = await cli(["keys", "public", text, "--out", join(directory, "unwritten.pub")]);
    expectComplaint(result, 2, text);
    expect(result.err).toMatch(message);
    expect(result.err).not.toContain("4711");
  });

  test("I10: whatever the text is, it gives a key's name or a UsageError", () => {
    const piece = fc.oneof(
      fc.string(),
      fc.constantFrom("token=", "id=%", ";", "?", "&", "pin-source=", "module-path=/", "a"),
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 12 }), (pieces) => {
        try {
          parsePkcs11Uri(`pkcs11:${pieces.join("")}`);
        } catch (error) {
          expect(error).toBeInstanceOf(UsageError);
        }
      }),
    );
    expect(isPkcs11Uri("PKCS11:token=x")).toBe(true);
    expect(isPkcs11Uri("./pkcs11:x")).toBe(false);
  });
});

describe("a key on a token", () => {
  test.each(["release-ec", "release-rsa"])(
    "%s: its public half is the token's, and its signatures verify",
    async (label) => {
      const key = await openSigningKey(uri(`token=signing;object=${label}`));
      expect(key.spkiPem).toBe(pemOf(label));
      const signatures = await Promise.all([1, 2, 3].map((n) => key.sign(utf8(`data ${n}`))));
      for (const [index, signature] of signatures.entries())
        expect(await verifySignature(key.spkiPem, utf8(`data ${index + 1}`), signature)).toBe(true);
    },
  );

  test("is found by serial number and id too, and by a library that asks for the PIN each time", async () => {
    expect((await openSigningKey(uri(`serial=${serial};id=%01;type=private`))).spkiPem).toBe(pemOf("release-ec"));
    const asks = await openSigningKey(uri("token=signing;object=asks"));
    expect(await verifySignature(asks.spkiPem, utf8("x"), await asks.sign(utf8("x")))).toBe(true);
  });

  test("leaves no session behind", async () => {
    const key = await openSigningKey(uri("object=release-ec"));
    await key.sign(utf8("x"));
    const library = new PKCS11();
    library.load(SOFTHSM_LIBRARY);
    library.C_Initialize(); // throws CKR_CRYPTOKI_ALREADY_INITIALIZED when somebody still has it
    library.C_Finalize();
  });

  test.each([
    ["no such token", uri("token=other"), /token: expected one that the URI names, got none/],
    ["another serial number", uri("token=signing;serial=00"), /token: .* got none/],
    ["no such key", uri("token=signing;object=nobody"), /private key: .* got none/],
    ["a key whose id is another's", uri("object=release-ec;id=%02"), /private key: .* got none/],
    ["every key of the token", uri("token=signing"), /private key: .* got two .*\nhint: name its object and its id/],
    ["two keys of one label", uri("token=signing;object=twin"), /got two/],
    ["P-384", uri("object=p384"), /expected ECDSA P-256, or RSA-2048 with exponent 65537, got another curve/],
    ["RSA-3072", uri("object=rsa3072"), /got RSA-3072/],
    ["RSA with exponent 3", uri("object=exponent3"), /got RSA-2048 with exponent 0x03/],
    [
      "a key without its public half",
      uri("object=alone"),
      /public key: expected one with the private key's id, got none/,
    ],
    [
      "no library",
      uri("object=release-ec", `module-path=/no/lib.so&pin-source=${pinFile}`),
      /library: expected success/,
    ],
    [
      "a library that is none",
      uri("object=x", `module-path=/bin/sh&pin-source=${pinFile}`),
      /library: expected success/,
    ],
    ["no PIN file", uri("object=x", `module-path=${SOFTHSM_LIBRARY}&pin-source=/no/pin`), /pin-source \/no\/pin/],
  ])("%s is refused by name", async (_, text, message) => {
    const result = await cli(["keys", "public", text, "--out", join(directory, "unwritten.pub")]);
    expectComplaint(result, 4, text);
    expect(result.err).toMatch(message);
    expect(result.err).toMatch(/\(ERR_KEY_(?:TOKEN|FILE)\)/);
  });

  test("I2: a public object that is another key's is found out before its signature is used", async () => {
    const key = await openSigningKey(uri("object=mixed"));
    await expect(key.sign(utf8("x"))).rejects.toMatchObject({ code: "ERR_KEY_TOKEN" });
  });

  test("I4: the PIN is in no output: a wrong one, one that others can read, one of two lines", async () => {
    for (const [content, mode, message] of [
      ["wrong-pin-5555\n", 0o600, /C_Login: expected success, got CKR_PIN_INCORRECT/],
      [`${TOKEN_PIN}\n`, 0o640, /expected mode 0600, got 0640 .*\nhint: chmod 600/],
      [`${TOKEN_PIN}\r\n`, 0o600, /expected one line with the PIN/],
      ["", 0o600, /expected one line with the PIN/],
    ] as const) {
      const file = join(directory, "other-pin");
      writeFileSync(file, content);
      chmodSync(file, mode);
      const text = uri("object=release-ec", `module-path=${SOFTHSM_LIBRARY}&pin-source=${file}`);
      const result = await program(["keys", "public", text, "--out", join(directory, "unwritten.pub")]);
      expectComplaint(result, 4, content);
      expect(result.err).toMatch(message);
      for (const secret of [TOKEN_PIN, "wrong-pin-5555"]) expect(result.err + result.out).not.toContain(secret);
    }
  });
});

describe("I11: a token that is about to lock", () => {
  const named = parsePkcs11Uri(uri("token=signing"));
  /** A library with one token; whoever logs in has failed the test. */
  const library = (flags: number): PKCS11 =>
    ({
      C_Initialize: () => {},
      C_Finalize: () => {},
      C_GetSlotList: () => [Buffer.alloc(8)],
      C_GetTokenInfo: () => ({ label: "signing".padEnd(32), serialNumber: "1".padEnd(16), flags }),
      C_OpenSession: () => {
        throw new Error("CKR_GENERAL_ERROR:5 at PKCS11.C_OpenSession");
      },
    }) as unknown as PKCS11;

  test.each([
    [0x2_0000, /more than one PIN try left, got the final one/],
    [0x4_0000, /expected one that takes its PIN, got one that is locked/],
    [0x0, /C_OpenSession: expected success, got CKR_GENERAL_ERROR/],
  ])("with flags 0x%x is not logged in to", (flags, message) => {
    const act = () => withTokenSession(library(0x400 | flags), named, TOKEN_PIN, () => 0);
    expect(act).toThrow(message);
    expect(act).not.toThrow(TOKEN_PIN);
  });
});

describe.each([
  ["release-ec", "release-rsa"],
  ["release-rsa", "release-ec"],
])("I2: root %s and release key %s on a token", (rootLabel, releaseLabel) => {
  let made: CliFixture;
  beforeAll(async () => {
    made = await makeCliFixture();
  }, 120_000);
  afterAll(async () => {
    await made?.[Symbol.asyncDispose]();
  });

  test("sign a delegation, a release and a seal, which verify under their public halves", async () => {
    const at = (name: string) => made.at(name);
    const [root, release] = [uri(`object=${rootLabel}`), uri(`object=${releaseLabel}`)];
    await ironclaw(["keys", "public", root, "--out", at("root.pub")]);
    await ironclaw(["keys", "public", release, "--out", at("release.pub")]);
    expect([made.text("root.pub"), made.text("release.pub")]).toEqual([pemOf(rootLabel), pemOf(releaseLabel)]);
    const anchors = ["--root", at("root.pub"), "--operator", at("release.pub"), "--out", at("anchors.json")];
    await ironclaw(["keys", "anchors", ...anchors]);
    await ironclaw(made.lineWith("keys delegate", "root.pem", root));
    const { releaseKey, delegation } = parseDelegation(utf8(made.text("other-delegation.json")));
    await verifyDelegation(pemOf(rootLabel), releaseKey, delegation);
    const others = { [at("delegation.json")]: at("other-delegation.json"), [at("release.pem")]: release };
    await ironclaw(made.lineOf("release sign").map((word) => others[word] ?? word));
    const verified = await verifyReleaseSignatures(utf8(made.text("other-release.json")), pemOf(rootLabel));
    expect(verified).toMatchObject({ epoch: 1, releaseKey: pemOf(releaseLabel) });
    await ironclaw(made.lineWith("seal", "operator.pem", release), "4711");
    const trust = parseAnchors(utf8(made.text("anchors.json")));
    expect(await verifySealedPackage(utf8(made.text("other-sealed.json")), trust)).toMatchObject({ name: "hsm-pin" });
  });
});
