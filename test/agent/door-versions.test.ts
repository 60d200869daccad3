import { execFile } from "node:child_process";
import { constants, publicEncrypt } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { installedClients, type StockClients, unpackedClients } from "../support/stock-clients.ts";
import { type StockScopes, startStockScopes } from "../support/stock-scopes.ts";

const run = promisify(execFile);

// The client modules of Debian 12, of Debian 13 and of the newest release, with OpenSC and OpenSSL of the same release. What cannot be
// had on this machine is held by the wire alone: door-verify.test.ts and door-conformance.test.ts send what those clients send.
const [bookworm, trixie, sid] = await Promise.all([
  installedClients(),
  unpackedClients("trixie"),
  unpackedClients("sid"),
]);
const generations = [
  { name: "Debian 12", line: "0.24", wire: 0, clients: bookworm },
  { name: "Debian 13", line: "0.25", wire: 1, clients: trixie },
  { name: "Debian unstable", line: "0.26 or newer", wire: 2, clients: sid },
] as const;
const live = generations.flatMap(({ clients, ...rest }) => (clients === null ? [] : [{ ...rest, clients }]));

let scopes: StockScopes;
beforeAll(async () => {
  scopes = await startStockScopes();
});
afterAll(() => scopes.close());

it("I6: which client is tried how", () => {
  const lines = generations.map(({ name, line, clients }) =>
    clients === null ? `p11-kit ${line} (${name}): by wire conformance` : `p11-kit ${clients.version} (${name}): live`,
  );
  console.log(lines.join("\n"));
  expect(lines[0]).toMatch(/^p11-kit 0\.24\.\S+ \(Debian 12\): live$/);
});

function tool(clients: StockClients, scope: string, ...args: string[]): Promise<string> {
  return clients.run("pkcs11-tool", ["--module", clients.module, ...args], scopes.environment(scope));
}

describe.each(live)("p11-kit-client.so of $name", ({ clients, wire }) => {
  it(`I6: offers version ${wire} of the protocol`, async () => {
    const path = scopes.file(`relay-${wire}`);
    let offered: number | undefined;
    const relay = createServer((client) => {
      const server = connect(scopes.broker.socket("release-signing"));
      client.once("data", (bytes: Buffer) => {
        offered = bytes[0];
      });
      client.pipe(server).pipe(client);
    });
    await new Promise<void>((listening) => relay.listen(path, listening));
    const address = { P11_KIT_SERVER_ADDRESS: `unix:path=${path}` };
    await clients.run("pkcs11-tool", ["--module", clients.module, "--list-slots"], address);
    await new Promise((closed) => relay.close(closed));
    expect(offered).toBe(wire);
  });

  it("I6: lists the scope's objects and what can be done with them", async () => {
    const listed = await tool(clients, "release-signing", "--list-objects");
    expect(listed).toMatch(
      /Private Key Object; EC[\s\S]*Usage: +sign\n[\s\S]*Public Key Object; EC[\s\S]*Usage: +verify\n/,
    );
    expect(listed).not.toMatch(/warning|RSA/);
    const mechanisms = async (scope: string) =>
      [
        ...(await tool(clients, scope, "--list-mechanisms")).matchAll(
          /^ {2}([^,]+), (?:keySize=\{\d+,\d+\}, )?(\w+(?:, verify)?)/gm,
        ),
      ].map(([, name, use]) => `${name}: ${use}`);
    const digests = ["SHA256: digest", "SHA384: digest", "SHA512: digest"];
    const newer = (name: string) => (wire === 0 ? [] : [`${name}: sign, verify`]);
    expect(await mechanisms("release-signing")).toEqual(["ECDSA: sign, verify", ...newer("ECDSA-SHA256"), ...digests]);
    expect(await mechanisms("rsa-signing")).toEqual([
      ...["RSA-PKCS", "SHA256-RSA-PKCS", "RSA-PKCS-PSS"].map((name) => `${name}: sign, verify`),
      ...[...newer("SHA256-RSA-PKCS-PSS"), ...digests],
    ]);
    expect(await mechanisms("oaep-sha1")).toEqual(["RSA-PKCS-OAEP: decrypt", ...digests]);
  });

  const pss = ["--hash-algorithm", "SHA256", "--mgf", "MGF1-SHA256"];
  it.each([
    [0, "release-signing", "release-ec", "ECDSA", "digest", [], {}],
    [1, "release-signing", "release-ec", "ECDSA-SHA256", "message", [], {}],
    [0, "rsa-signing", "release-rsa", "RSA-PKCS", "digest-info", [], {}],
    [0, "rsa-signing", "release-rsa", "SHA256-RSA-PKCS", "message", [], {}],
    [0, "rsa-signing", "release-rsa", "RSA-PKCS-PSS", "digest", pss, { padding: 6, saltLength: 32 }],
    [1, "rsa-signing", "release-rsa", "SHA256-RSA-PKCS-PSS", "message", pss.slice(2), { padding: 6, saltLength: 32 }],
  ] as const)("I6: from version %i on, in scope %s, %s signs and verifies with %s", async (...row) => {
    const [since, scope, key, mechanism, input, more, extra] = row;
    const output = scopes.file(`${wire}-${mechanism}.sig`);
    const use = ["--mechanism", mechanism, ...more, "--label", key, "--input-file", scopes.file(input)];
    const signing = tool(clients, scope, "--sign", ...use, "--output-file", output);
    if (wire < since) {
      // The client itself does not send it.
      await expect(signing).rejects.toThrow(/MECHANISM_INVALID/);
      return;
    }
    await signing;
    expect(scopes.verifies(key, readFileSync(output), extra)).toBe(true);
    expect(await tool(clients, scope, "--verify", ...use, "--signature-file", output)).toMatch(/Signature is valid/);
    writeFileSync(output, readFileSync(output).reverse());
    const bad = await tool(clients, scope, "--verify", ...use, "--signature-file", output).catch(String);
    expect(bad).toMatch(/[Ii]nvalid signature|SIGNATURE_INVALID/);
  });

  it.each([
    ["legacy", "RSA-PKCS", constants.RSA_PKCS1_PADDING, []],
    [
      "oaep-sha1",
      "RSA-PKCS-OAEP",
      constants.RSA_PKCS1_OAEP_PADDING,
      ["--hash-algorithm", "SHA-1", "--mgf", "MGF1-SHA1"],
    ],
  ])("I6: in scope %s decrypts with %s", async (scope, mechanism, padding, more) => {
    const [input, output] = [scopes.file(`${wire}-${scope}.enc`), scopes.file(`${wire}-${scope}.dec`)];
    writeFileSync(input, publicEncrypt({ key: scopes.publicKey("vault"), padding, oaepHash: "sha1" }, scopes.message));
    const files = ["--label", "vault", "--input-file", input, "--output-file", output];
    await tool(clients, scope, "--decrypt", "--mechanism", mechanism, ...more, ...files);
    expect(readFileSync(output)).toEqual(Buffer.from(scopes.message));
  });

  it("I6: hashes, and gets random bytes", async () => {
    const [digest, random] = [scopes.file(`${wire}.digest`), scopes.file(`${wire}.random`)];
    await tool(clients, "oaep-sha1", "--hash", "-m", "SHA256", "-i", scopes.file("message"), "-o", digest);
    expect(readFileSync(digest)).toEqual(readFileSync(scopes.file("digest")));
    await tool(clients, "oaep-sha1", "--generate-random", "24", "-o", random);
    expect(readFileSync(random)).toHaveLength(24);
  });

  it("I7: what the policy denies has its own code", async () => {
    const denied = (scope: string, id: string, mechanism: string) =>
      tool(
        ...([clients, scope, "--sign", "--mechanism", mechanism, "--id", id] as const),
        ...["--input-file", scopes.file("digest"), "--output-file", scopes.file("none")],
      );
    await expect(denied("release-signing", "01", "ECDSA-SHA1")).rejects.toThrow(/CKR_MECHANISM_INVALID/);
    await expect(denied("legacy", "2a", "RSA-PKCS")).rejects.toThrow(/CKR_KEY_FUNCTION_NOT_PERMITTED/);
    await expect(denied("rsa-signing", "01", "RSA-PKCS")).rejects.toThrow(/key not found/);
  });
});

const withProvider = live.filter(({ clients }) => clients.provider !== null);

describe.each(withProvider)("OpenSSL's provider pkcs11 of $name", ({ clients, wire }) => {
  const openssl = (scope: string, ...args: string[]) => {
    const file = scopes.file(`${wire}-${scope}.cnf`);
    const sections = `providers = providers\n[providers]\ndefault = built_in\npkcs11 = pkcs11\n[built_in]\nactivate = 1\n[pkcs11]\nactivate = 1`;
    const pkcs11 = `module = ${clients.provider}\npkcs11-module-path = ${clients.module}`;
    writeFileSync(file, `openssl_conf = init\n[init]\n${sections}\n${pkcs11}\n`);
    return clients.run("openssl", args, { ...scopes.environment(scope), OPENSSL_CONF: file });
  };

  it.each([
    ["release-signing", "release-ec"],
    ["rsa-signing", "release-rsa"],
  ])("I6: in scope %s, signs with %s by its URI, and makes a certificate request", async (scope, key) => {
    const output = scopes.file(`${wire}-${key}.provider.sig`);
    const uri = `pkcs11:object=${key};type=private`;
    await openssl(scope, "dgst", "-sha256", "-sign", uri, "-out", output, scopes.file("message"));
    expect(scopes.verifies(key, readFileSync(output), { dsaEncoding: "der" })).toBe(true);
    const request = scopes.file(`${wire}-${key}.csr`);
    await openssl(scope, "req", "-new", "-sha256", "-subj", "/CN=release", "-key", uri, "-out", request);
    const { stdout, stderr } = await run("openssl", ["req", "-in", request, "-verify", "-noout"]);
    expect(stdout + stderr).toMatch(/verify OK/);
  });

  it.each([
    ["legacy", constants.RSA_PKCS1_PADDING, ["rsa_padding_mode:pkcs1"]],
    ["oaep-sha1", constants.RSA_PKCS1_OAEP_PADDING, ["rsa_padding_mode:oaep", "rsa_oaep_md:sha1", "rsa_mgf1_md:sha1"]],
  ])("I6: in scope %s, decrypts", async (scope, padding, more) => {
    const [input, output] = [scopes.file(`${wire}-p.enc`), scopes.file(`${wire}-p.dec`)];
    writeFileSync(input, publicEncrypt({ key: scopes.publicKey("vault"), padding, oaepHash: "sha1" }, scopes.message));
    const options = more.flatMap((option) => ["-pkeyopt", option]);
    const key = ["-inkey", "pkcs11:object=vault;type=private"];
    await openssl(scope, "pkeyutl", "-decrypt", ...key, ...options, "-in", input, "-out", output);
    expect(readFileSync(output)).toEqual(Buffer.from(scopes.message));
  });
});
