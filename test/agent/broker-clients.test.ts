import { execFile } from "node:child_process";
import { constants, createHash, createPublicKey, publicEncrypt, verify } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { connect } from "../../agent/client/index.ts";
import { DIGESTS } from "../../policy/index.ts";
import { type BrokerFixture, INTRUDER_PEER, SIGNER_PEER, startBroker } from "../support/broker-fixture.ts";
import { type Pkcs11Process, startPkcs11 } from "../support/pkcs11-process.ts";
import { createSoftHsmToken, type SoftHsmToken } from "../support/softhsm.ts";

// The stock client module of p11-kit and stock applications on top of it, against a real PKCS #11 token.
const CLIENT = "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so";
const run = promisify(execFile);
const message = new TextEncoder().encode("release 1.2.3\n");
const digest = Uint8Array.from(createHash("sha256").update(message).digest());
const digestInfo = Uint8Array.from([...DIGESTS.sha256.digestInfoPrefix, ...digest]);
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");

let directory: string;
let token: SoftHsmToken;
let broker: BrokerFixture;

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "softhsm-"));
  token = await createSoftHsmToken({ directory, pin: "1234-test-pin", label: "signing" });
  broker = await startBroker({
    ...{ token: token.token, publicKeys: token.publicKeys },
    // SoftHSM 2.6 knows OAEP with SHA-1 only.
    change: ({ scopes }) =>
      scopes.push({
        ...{ name: "oaep-sha1", caller: "release-signer", key: "vault", audit: "written" },
        mechanisms: [{ type: "CKM_RSA_PKCS_OAEP", digest: "sha1" }],
      }),
  });
  writeFileSync(join(directory, "digest"), digest);
  writeFileSync(join(directory, "digest-info"), digestInfo);
  writeFileSync(join(directory, "message"), message);
});
afterAll(async () => {
  await broker.close();
  await token.close();
  rmSync(directory, { recursive: true });
});

function environment(scope: string): Record<string, string> {
  return { P11_KIT_SERVER_ADDRESS: `unix:path=${broker.socket(scope)}` };
}

async function pkcs11Tool(scope: string, ...args: string[]): Promise<string> {
  const { stdout, stderr } = await run("pkcs11-tool", ["--module", CLIENT, ...args], {
    env: { ...process.env, ...environment(scope) },
  });
  return stdout + stderr;
}

async function withClient<T>(scope: string, use: (client: Pkcs11Process) => Promise<T>): Promise<T> {
  const client = startPkcs11(environment(scope));
  try {
    await client.call("attach", { library: CLIENT });
    return await use(client);
  } finally {
    await client.close();
  }
}

function publicKey(name: string) {
  return createPublicKey({ key: Buffer.from(token.publicKeys.get(name)?.spki ?? []), format: "der", type: "spki" });
}

function verifies(name: string, signature: Uint8Array, extra: object = {}): boolean {
  return verify("sha256", message, { key: publicKey(name), dsaEncoding: "ieee-p1363", ...extra }, signature);
}

describe("pkcs11-tool through p11-kit-client.so", () => {
  it("I6: lists the scope's key and nothing else", async () => {
    const ec = await pkcs11Tool("release-signing", "--list-objects");
    expect(ec).toMatch(/Private Key Object; EC/);
    expect(ec).toMatch(/Public Key Object; EC +EC_POINT 256 bits/);
    expect(ec).not.toMatch(/release-rsa|RSA/);
    const rsa = await pkcs11Tool("rsa-signing", "--list-objects", "--login", "--pin", "anything");
    expect(rsa).toMatch(/Public Key Object; RSA 2048 bits/);
    expect(rsa).not.toMatch(/release-ec/);
  });

  it("I6: lists exactly the mechanisms that the scope has and this client can send", async () => {
    const listed = async (scope: string) =>
      (await pkcs11Tool(scope, "--list-mechanisms"))
        .split("\n")
        .flatMap((line) => /^ {2}([^,]+), .*sign/.exec(line)?.[1] ?? []);
    expect(await listed("release-signing")).toEqual(["ECDSA"]);
    expect(await listed("rsa-signing")).toEqual(["RSA-PKCS", "SHA256-RSA-PKCS", "RSA-PKCS-PSS"]);
  });

  it.each([
    ["release-signing", "release-ec", "ECDSA", "digest", {}],
    ["rsa-signing", "release-rsa", "RSA-PKCS", "digest-info", {}],
    ["rsa-signing", "release-rsa", "SHA256-RSA-PKCS", "message", {}],
    ["rsa-signing", "release-rsa", "RSA-PKCS-PSS", "digest", { padding: 6, saltLength: 32 }],
  ])("I6: in scope %s, %s signs with %s", async (scope, key, mechanism, input, extra) => {
    const output = join(directory, `${mechanism}.sig`);
    const pss = mechanism === "RSA-PKCS-PSS" ? ["--hash-algorithm", "SHA256", "--mgf", "MGF1-SHA256"] : [];
    const inputs = ["--label", key, "--input-file", join(directory, input), "--output-file", output];
    await pkcs11Tool(scope, "--sign", "--mechanism", mechanism, ...pss, ...inputs);
    expect(verifies(key, readFileSync(output), extra)).toBe(true);
  });

  it("I6: a signature is one that openssl accepts", async () => {
    const output = join(directory, "openssl.sig");
    const pem = join(directory, "ec.pem");
    writeFileSync(pem, publicKey("release-ec").export({ format: "pem", type: "spki" }));
    const inputs = ["--label", "release-ec", "--input-file", join(directory, "digest"), "--output-file", output];
    await pkcs11Tool("release-signing", "--sign", "--mechanism", "ECDSA", "--signature-format", "openssl", ...inputs);
    const { stdout } = await run("openssl", [
      "dgst",
      "-sha256",
      "-verify",
      pem,
      "-signature",
      output,
      join(directory, "message"),
    ]);
    expect(stdout).toMatch(/Verified OK/);
  });
});

describe("decryption by stock clients", () => {
  const secret = Buffer.from("0123456789abcdef");
  const sealed = (padding: number): Buffer =>
    publicEncrypt({ key: publicKey("vault"), padding, oaepHash: "sha1" }, secret);
  const [oaep, pkcs1] = [constants.RSA_PKCS1_OAEP_PADDING, constants.RSA_PKCS1_PADDING];
  const oaepParameters = { type: 4, hashAlg: 0x220, mgf: 1, source: 1 };

  it.each([
    ["oaep-sha1", "RSA-PKCS-OAEP", oaep, ["--hash-algorithm", "SHA-1", "--mgf", "MGF1-SHA1"]],
    ["legacy", "RSA-PKCS", pkcs1, []],
    ["raw", "RSA-X-509", pkcs1, []],
  ])("I6: in scope %s, `pkcs11-tool --decrypt` decrypts with %s", async (scope, mechanism, padding, more) => {
    const [input, output] = [join(directory, `${scope}.enc`), join(directory, `${scope}.dec`)];
    writeFileSync(input, sealed(padding));
    const files = ["--label", "vault", "--input-file", input, "--output-file", output];
    await pkcs11Tool(scope, "--decrypt", "--mechanism", mechanism, ...more, ...files);
    const plaintext = readFileSync(output);
    expect(scope === "raw" ? [plaintext.length, plaintext.subarray(-17)] : plaintext).toEqual(
      scope === "raw" ? [256, Buffer.concat([Buffer.of(0), secret])] : secret,
    );
  });

  it("I6: lists exactly the mechanisms that decrypt, and that they decrypt", async () => {
    expect(await pkcs11Tool("oaep-sha1", "--list-mechanisms")).toMatch(
      /RSA-PKCS-OAEP, keySize=\{2048,2048\}, decrypt\n/,
    );
    expect(await pkcs11Tool("legacy", "--list-objects")).toMatch(/Private Key Object; RSA[\s\S]*Usage: +decrypt\n/);
  });

  it("I7: `pkcs11-tool --decrypt` with another mechanism, and `--sign` with this key, get nothing", async () => {
    const input = join(directory, "other.enc");
    writeFileSync(input, sealed(pkcs1));
    const files = ["--label", "vault", "--input-file", input, "--output-file", join(directory, "none")];
    await expect(pkcs11Tool("oaep-sha1", "--decrypt", "--mechanism", "RSA-PKCS", ...files)).rejects.toThrow(/0x70/);
    await expect(pkcs11Tool("legacy", "--sign", "--mechanism", "RSA-PKCS", ...files)).rejects.toThrow(/CKR_KEY_/);
  });

  it.each([
    ["oaep-sha1", "oaep", oaep],
    ["legacy", "pkcs1", pkcs1],
  ])("I6: in scope %s, `openssl pkeyutl -engine pkcs11` decrypts with padding %s", async (scope, mode, padding) => {
    const [input, output] = [join(directory, `${scope}.in`), join(directory, `${scope}.out`)];
    writeFileSync(input, sealed(padding));
    const engine = ["-engine", "pkcs11", "-keyform", "engine", "-inkey", "pkcs11:object=vault;type=private"];
    const options = ["-pkeyopt", `rsa_padding_mode:${mode}`, "-in", input, "-out", output];
    const env = { ...process.env, ...environment(scope), PKCS11_MODULE_PATH: CLIENT };
    await run("openssl", ["pkeyutl", "-decrypt", ...engine, ...options], { env });
    expect(readFileSync(output)).toEqual(secret);
  });

  it("I7: the native client decrypts with the key of a real token, and gets one word for whatever does not", async () => {
    await using client = await connect({ scope: "oaep-sha1", directory: dirname(broker.socket("oaep-sha1")) });
    await using session = client.session();
    const open = (ciphertext: Uint8Array) => session.decrypt({ mechanism: "CKM_RSA_PKCS_OAEP", ciphertext });
    expect(Buffer.from(await open(sealed(oaep)))).toEqual(secret);
    await expect(open(sealed(pkcs1))).rejects.toMatchObject({ reason: "bad-ciphertext" });
  });

  it("I6: pkcs11js decrypts, also into a buffer that has no byte to spare", async () => {
    const decrypted = (scope: string, fields: object) =>
      withClient(scope, (client) => client.call("decrypt", { label: "vault", ...fields }));
    const small = { mechanism: 9, oaep: oaepParameters, data: hex(sealed(oaep)) };
    for (const room of [1024, secret.length])
      expect(await decrypted("oaep-sha1", { ...small, room })).toBe(secret.toString("hex"));
    expect(await decrypted("legacy", { mechanism: 1, data: hex(sealed(pkcs1)) })).toBe(secret.toString("hex"));
  });

  it("I7: whatever SoftHSM has against a ciphertext, a client learns one code, and after the budget none", async () => {
    broker.time += 3_600_000; // whatever failed before, the budget is full again
    const spoilt = [sealed(pkcs1).fill(1), sealed(pkcs1).fill(0, 0, 3), sealed(oaep)];
    const codes = await withClient("oaep-sha1", async (client) => {
      const seen: (number | null)[] = [];
      for (let index = 0; index < 18; index += 1) {
        const data = hex(index % 3 === 2 ? sealed(pkcs1) : (spoilt[index % 2] ?? sealed(pkcs1)));
        const asked = client.call("decrypt", { label: "vault", mechanism: 9, oaep: oaepParameters, data });
        seen.push(
          await asked.then(
            () => 0,
            (error: { rv: number | null }) => error.rv,
          ),
        );
      }
      return seen;
    });
    expect(codes).toEqual([...Array(16).fill(0x40), 0x200, 0x200]);
    broker.time += 3_600_000;
  });
});

describe("openssl through libp11 and p11-kit-client.so", () => {
  it.each([
    ["release-signing", "release-ec"],
    ["rsa-signing", "release-rsa"],
  ])("I6: in scope %s, `openssl dgst -engine pkcs11` signs with %s", async (scope, key) => {
    const output = join(directory, `${key}.engine.sig`);
    const engine = ["-engine", "pkcs11", "-keyform", "engine", "-sign", `pkcs11:object=${key};type=private`];
    const env = { ...process.env, ...environment(scope), PKCS11_MODULE_PATH: CLIENT };
    await run("openssl", ["dgst", "-sha256", ...engine, "-out", output, join(directory, "message")], { env });
    expect(verifies(key, readFileSync(output), { dsaEncoding: "der" })).toBe(true);
  });
});

describe("pkcs11js through p11-kit-client.so", () => {
  it("I6: finds the objects and signs, with any PIN or none", async () => {
    await withClient("release-signing", async (client) => {
      expect(await client.call("labels")).toEqual(["release-ec", "release-ec"]);
      const fields = { label: "release-ec", mechanism: 0x1041, data: hex(digest) };
      expect(verifies("release-ec", Buffer.from(await client.call<string>("sign", fields), "hex"))).toBe(true);
      await client.call("login");
      expect(verifies("release-ec", Buffer.from(await client.call<string>("sign", fields), "hex"))).toBe(true);
    });
  });

  it("I7: private values are never returned, and nothing that makes, moves or changes a key is supported", async () => {
    for (const [scope, label] of [
      ["rsa-signing", "release-rsa"],
      ["legacy", "vault"],
    ] as const) {
      const codes = await withClient(scope, (client) => client.call<Record<string, number>>("attack", { label }));
      const { value, privateExponent, C_UnwrapKey: unwrap, ...calls } = codes;
      expect(unwrap).toBe(0x68);
      expect({ value, privateExponent }).toEqual({ value: 0x11, privateExponent: 0x11 });
      const { C_VerifyInit, C_SeedRandom, ...unknown } = calls;
      expect({ C_VerifyInit, C_SeedRandom }).toEqual({ C_VerifyInit: 0x68, C_SeedRandom: 0x120 });
      expect([Object.keys(unknown).length, ...new Set(Object.values(unknown))]).toEqual([11, 0x54]);
    }
  });

  it("I7: every secret attribute of both keys is refused, and public ones are answered", async () => {
    for (const [scope, label] of [
      ["release-signing", "release-ec"],
      ["rsa-signing", "release-rsa"],
    ] as const) {
      await withClient(scope, async (client) => {
        for (const type of [0x11, 0x123, 0x124, 0x125, 0x126, 0x127, 0x128]) {
          await expect(client.call("attribute", { label, class: 3, type })).rejects.toMatchObject({ rv: 0x11 });
        }
        expect(await client.call("attribute", { label, class: 3, type: 0x103 })).toBe("01");
        expect(await client.call("attribute", { label, class: 3, type: 0x162 })).toBe("00");
        expect(await client.call("attribute", { label, class: 2, type: 0x129 })).toBe(
          hex(token.publicKeys.get(label)?.spki ?? digest),
        );
      });
    }
  });

  it("I6: a mechanism outside the scope and data of a wrong length are refused with plain codes", async () => {
    await withClient("release-signing", async (client) => {
      const sign = (mechanism: number, data: Uint8Array) =>
        client.call("sign", { label: "release-ec", mechanism, data: hex(data) });
      await expect(sign(0x1042, message)).rejects.toMatchObject({ rv: 0x70 });
      await expect(sign(0x1041, digest.slice(1))).rejects.toMatchObject({ rv: 0x21 });
    });
  });

  it("I6: a caller with another uid cannot even initialize", async () => {
    broker.peer = INTRUDER_PEER;
    try {
      const client = startPkcs11(environment("release-signing"));
      await expect(client.call("attach", { library: CLIENT })).rejects.toMatchObject({ rv: 0x200 });
      await client.close();
    } finally {
      broker.peer = SIGNER_PEER;
    }
    expect(broker.records().at(-1)).toMatchObject({
      decision: "deny",
      step: "caller",
      caller: { uid: 2002 },
      operation: "connect",
    });
  });
});
