import { execFile } from "node:child_process";
import { createHash, createPublicKey, verify } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
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
  broker = await startBroker({ token: token.token, publicKeys: token.publicKeys });
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

  it("I7: private values are never returned, and nothing but signing is supported", async () => {
    const codes = await withClient("rsa-signing", (client) =>
      client.call<Record<string, number>>("attack", { label: "release-rsa" }),
    );
    const { value, privateExponent, ...calls } = codes;
    expect({ value, privateExponent }).toEqual({ value: 0x11, privateExponent: 0x11 });
    expect(new Set(Object.values(calls))).toEqual(new Set([0x54]));
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
