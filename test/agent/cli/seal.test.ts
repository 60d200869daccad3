import { execFile } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { SecretInput } from "../../../agent/cli/command.ts";
import { readPin, readSecretFile } from "../../../agent/cli/files.ts";
import { runIronclaw } from "../../../agent/cli/ironclaw.ts";
import { parseAnchors } from "../../../policy/index.ts";
import { verifySealedPackage } from "../../../seal/index.ts";
import { cli, program } from "../../support/cli.ts";
import { type CliFixture, expectComplaint, makeCliFixture, PIN } from "../../support/cli-fixture.ts";

const run = promisify(execFile);
const project = resolve(import.meta.dirname, "../../..");
let made: CliFixture;
beforeAll(async () => {
  made = await makeCliFixture();
}, 120_000);
afterAll(async () => {
  await made?.[Symbol.asyncDispose]();
});
const at = (name: string) => made.at(name);

describe("I4: the PIN", () => {
  test.each([
    ["is empty", "", /PIN: expected 1 to 255 bytes, got none/],
    ["is only a line end", "\n", /got none/],
    ["is one byte too long", "4".repeat(256), /expected 1 to 255 bytes, got more/],
    ["is a megabyte", "4".repeat(1 << 20), /got more/],
    ["ends with a carriage return", `${PIN}\r\n`, /one line without control characters/],
    ["has two lines", `${PIN}\n${PIN}\n`, /one line without control characters/],
    ["has a NUL", `${PIN}\0`, /one line without control characters/],
  ])("a PIN that %s is refused as usage, nothing is written and nothing of it printed", async (_, pin, message) => {
    const out = at("unwritten.json");
    const line = made.lineOf("seal").map((word) => (word === at("other-sealed.json") ? out : word));
    const result = await program(line, pin);
    expectComplaint(result, 2, "seal");
    expect(result.err).toMatch(message);
    expect(result.err + result.out).not.toContain("4444");
    expect(existsSync(out)).toBe(false);
  });

  test("it never appears in output, whether it is sealed or an error comes first", async () => {
    for (const line of [
      made.lineOf("seal"),
      [...made.lineOf("seal"), "--json"],
      made.lineOf("seal").with(2, at("random")),
      ["seal", PIN],
      ["seal", "--pin", PIN],
    ]) {
      const { out, err } = await program(line, PIN);
      expect(out + err).not.toContain(PIN);
    }
    expect(made.text("other-sealed.json")).not.toContain(PIN);
  });

  test("a terminal would show it: refused, with a hint", async () => {
    const line = [process.execPath, join(project, "agent/cli/ironclaw.ts"), ...made.lineOf("seal")];
    const shell = line.map((word) => `'${word}'`).join(" ");
    const inTerminal = async (env: object) =>
      (
        await run("script", ["-qec", `${shell}; echo exit $?`, "/dev/null"], {
          env: { ...process.env, TERM: "xterm", ...env },
        })
      ).stdout;
    expect(await inTerminal({ NO_COLOR: "" })).toContain("\u001b[2mhint:");
    expect(await inTerminal({ TERM: "dumb" })).not.toContain("\u001b");
    const stdout = await inTerminal({ NO_COLOR: "1" });
    expect(stdout).not.toContain("\u001b");
    expect(stdout).toMatch(/expected a pipe or a file on standard input, got a terminal/);
    expect(stdout).toMatch(/hint: .*systemd-ask-password/);
    expect(stdout).toMatch(/exit 2/);
  });
});

describe("I4: every kind of secret", () => {
  const sealedAt = async (name: string) =>
    verifySealedPackage(readFileSync(at(name)), parseAnchors(readFileSync(at("anchors.json"))));
  const withoutSerial = () => made.lineOf("seal").filter((word) => word !== "--token-serial" && word !== "1f00aa");

  test.each([
    ["its line end", "4711\n", "4711"],
    ["nothing when there is no line end", "4711", "4711"],
    ["one line end only where there are blanks", " 47 11 \n", " 47 11 "],
  ])("a PIN loses %s", async (_, given, expected) => {
    expect(Buffer.from(await readPin(stream(given))).toString()).toBe(expected);
  });

  test("a secret file is sealed byte for byte, and its chunks are wiped", async () => {
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ minLength: 1, maxLength: 400 }), async (bytes) => {
        const chunks = [Uint8Array.from(bytes.subarray(0, 9)), Uint8Array.from(bytes.subarray(9))];
        expect(await readSecretFile(stream(...chunks))).toEqual(bytes);
        for (const chunk of chunks) expect(chunk).toEqual(new Uint8Array(chunk.length));
      }),
    );
  });

  test.each([
    ["empty", 0, 2],
    ["as long as can be", 32_766, 0],
    ["one byte longer", 32_767, 2],
    ["a megabyte", 1 << 20, 2],
  ])("a secret file that is %s (%i bytes) exits %i", async (_, size, code) => {
    const line = [...withoutSerial().with(-1, at("file.json")), "--kind", "file", "--name", "tls-key"];
    const result = await cli(line, new Uint8Array(size).fill(10));
    expect({ code: result.code, out: code === 0 ? "" : result.out }).toEqual({ code, out: "" });
    if (code === 0)
      expect(await sealedAt("file.json")).toMatchObject({ name: "tls-key", kind: "file", tokenSerial: null });
    else expect(result.err).toMatch(/secret file: expected 1 to 32766 bytes/);
  });

  test("a volume key is made here: nothing is read, and two of them differ", async () => {
    const line = [...withoutSerial(), "--kind", "volume-key", "--json"];
    const unread: SecretInput = {
      [Symbol.asyncIterator]: () => {
        throw new Error("standard input was read");
      },
    };
    const ciphertexts: string[] = [];
    for (const name of ["volume-1.json", "volume-2.json"]) {
      const complaints: string[] = [];
      const io = { input: unread, print: () => {}, complain: (text: string) => complaints.push(text) };
      const code = await runIronclaw(
        line.map((word) => (word === at("other-sealed.json") ? at(name) : word)),
        io,
      );
      expect({ code, complaints }).toEqual({ code: 0, complaints: [] });
      const sealed = await sealedAt(name);
      expect(sealed).toMatchObject({ name: "state", kind: "volume-key", generation: 1 });
      expect(sealed.ciphertext.length).toBe(128 + 16); // 96 bytes with their length, padded, and the tag
      ciphertexts.push(Buffer.from(sealed.ciphertext).toString("hex"));
    }
    expect(ciphertexts[0]).not.toBe(ciphertexts[1]);
  });

  test("generation and end are in the signed package", async () => {
    const line = [...made.lineOf("seal"), "--generation", "7", "--not-after", "2099-01-01T00:00:00Z"];
    expect((await cli(line, PIN)).code).toBe(0);
    const expected = { name: "hsm-pin", kind: "pin", generation: 7, notAfter: "2099-01-01T00:00:00Z" };
    expect(await sealedAt("other-sealed.json")).toMatchObject({ ...expected, tokenSerial: "1f00aa" });
  });

  test("a PIN without its token's serial number is not sealed", async () => {
    expectComplaint(await cli(withoutSerial(), PIN), 2, "no serial number");
  });

  async function* stream(...chunks: readonly (string | Uint8Array)[]): AsyncGenerator<Uint8Array> {
    for (const chunk of chunks) yield typeof chunk === "string" ? new TextEncoder().encode(chunk) : chunk;
  }
});

describe("the EK certificate", () => {
  const withCertificate = (words: string, name: string) =>
    made.lineOf(words).map((word) => (word === at("ek.der") ? at(name) : word));

  test.each(["seal", "enrol"])("I9: %s takes none but one of the pinned CA", async (words) => {
    await run("openssl", [
      ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp384r1", "-nodes", "-subj", "/CN=x"],
      ...["-addext", "basicConstraints=critical,CA:false", "-keyout", at("self.pem"), "-out", at("self.crt")],
    ]);
    const result = await cli(withCertificate(words, "self.crt"), PIN);
    expectComplaint(result, 3, words);
    expect(result.err).toMatch(/pinned authority/);
  });

  test.each([
    ["RSA-3072", ["-newkey", "rsa:3072"], /ek key: expected RSA 2048.*, got RSA 3072/],
    [
      "P-521",
      ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp521r1"],
      /ek key: expected RSA 2048.*, got EC P-521/,
    ],
    [
      "Brainpool, which has no JWK form",
      ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:brainpoolP384r1"],
      /ek key: expected RSA 2048.*, got ec brainpoolP384r1/,
    ],
    ["Ed25519", ["-newkey", "ed25519"], /ek key: expected RSA 2048.*, got OKP Ed25519/],
    [
      "P-256, with which a machine can be enrolled only",
      ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
      /EK certificate key: expected RSA-2048 .*, got ECC P-256 \(ERR_SEAL_EK\)\nhint: a machine can be enrolled/,
    ],
  ])(
    "a certificate of the pinned CA for a key that nothing is sealed to (%s) is refused by name",
    async (_, key, message) => {
      await makeCa();
      await run("openssl", [
        "req",
        ...key,
        "-nodes",
        "-subj",
        "/CN=x",
        "-keyout",
        at("odd.pem"),
        "-out",
        at("odd.csr"),
      ]);
      writeFileSync(
        at("odd.ext"),
        "basicConstraints=critical,CA:false\nkeyUsage=keyEncipherment,keyAgreement\nextendedKeyUsage=2.23.133.8.1\n",
      );
      await run("openssl", [
        ...["x509", "-req", "-in", at("odd.csr"), "-CA", at("ca.crt"), "-CAkey", at("ca.key"), "-days", "30"],
        ...["-extfile", at("odd.ext"), "-out", at("odd.crt")],
      ]);
      const line = withCertificate("seal", "odd.crt").map((word) => (word === at("ek-ca.pem") ? at("ca.crt") : word));
      const result = await cli(line, PIN);
      expectComplaint(result, 3, line.join(" "));
      expect(result.err).toMatch(message);
    },
  );

  async function makeCa(): Promise<void> {
    if (existsSync(at("ca.crt"))) return;
    await run("openssl", [
      ...["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp384r1", "-nodes", "-subj", "/CN=ca"],
      ...["-addext", "keyUsage=keyCertSign", "-days", "30", "-keyout", at("ca.key"), "-out", at("ca.crt")],
    ]);
  }

  test("DER and PEM of one certificate are the same certificate", async () => {
    await run("openssl", ["x509", "-inform", "DER", "-in", at("ek.der"), "-out", at("ek.pem")]);
    const [der, pem] = [
      await cli([...made.lineOf("seal"), "--json"], PIN),
      await cli([...withCertificate("seal", "ek.pem"), "--json"], PIN),
    ];
    expect(JSON.parse(pem.out).ekName).toBe(JSON.parse(der.out).ekName);
  });
});
