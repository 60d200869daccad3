import { execFile } from "node:child_process";
import { createPublicKey, X509Certificate } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import type { AuditLog } from "../../agent/audit/log.ts";
import { openScope } from "../../agent/broker/scope-state.ts";
import { CKA } from "../../agent/p11kit/attributes.ts";
import { scopeObjects } from "../../agent/p11kit/objects.ts";
import {
  ByteReader,
  concatBytes,
  fromBase64,
  parseCertificate,
  parsePolicy,
  sha256Hex,
  toBase64,
  toHex,
  utf8,
} from "../../policy/index.ts";
import { openBroker, softwareKeys, startBroker } from "../support/broker-fixture.ts";
import { decryptInit, ECDSA, openSession, plain, signInit } from "../support/broker-session.ts";
import { openKeyAuthority } from "../support/key-certificates.ts";
import { documentBytes, type PolicyDocument, policyDocument } from "../support/policy-document.ts";
import { type RawClient, u32, ulongs } from "../support/rpc-client.ts";
import { unpackedClients } from "../support/stock-clients.ts";
import { type StockScopes, startStockScopes } from "../support/stock-scopes.ts";

// A certificate that the policy has for a key, as applications find it beside the key.
const CLIENT = "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so";
const run = promisify(execFile);
const authority = openKeyAuthority();

let certificates: Record<string, string> = {};
let scopes: StockScopes;
const derOf = (name: string): Uint8Array => fromBase64(certificates[name] ?? "");

beforeAll(async () => {
  scopes = await startStockScopes({
    certificatesOf: (keys) => {
      certificates = authority.certificatesOf(keys, ["release-ec", "release-rsa", "vault"]);
      return { "release-ec": certificates["release-ec"] ?? "", "release-rsa": certificates["release-rsa"] ?? "" };
    },
    change: ({ scopes }) => {
      scopes.push({
        ...{ name: "both", caller: "release-signer", keys: ["release-ec", "release-rsa"], audit: "written" },
        mechanisms: [{ type: "CKM_ECDSA", digest: "sha256" }],
      });
    },
  });
});
afterAll(() => scopes.close());

async function tool(scope: string, program: string, args: readonly string[], env = {}): Promise<string> {
  const { stdout, stderr } = await run(program, args, {
    ...{ env: { ...process.env, ...scopes.environment(scope), ...env }, cwd: scopes.directory },
  });
  return stdout + stderr;
}

describe("a certificate as an object", () => {
  /** Handles of the objects of a class. */
  async function found(client: RawClient, type: bigint): Promise<bigint[]> {
    const template = concatBytes(u32(1), u32(CKA.CLASS), Uint8Array.of(1), u32(8), ulongs(type));
    await client.call("C_FindObjectsInit", ulongs(1n), template);
    const reader = new ByteReader((await client.call("C_FindObjects", ulongs(1n), u32(20))).values, "handles");
    await client.call("C_FindObjectsFinal", ulongs(1n));
    reader.u8("valid");
    return Array.from({ length: reader.u32("count") }, () => reader.u64("handle"));
  }

  async function value(client: RawClient, handle: bigint, type: number): Promise<string> {
    const query = concatBytes(u32(1), u32(type), u32(20_000));
    const reader = new ByteReader(
      (await client.call("C_GetAttributeValue", ulongs(1n, handle), query)).values,
      "attributes",
    );
    reader.u32("count");
    reader.u32("type");
    if (reader.u8("valid") === 0) return "none";
    const length = reader.u32("length");
    if (length === 1) return `${reader.u8("value")}`;
    return length === 8 ? `${reader.u64("value")}` : toHex(reader.sized32("value", 20_000));
  }

  it("I6: has a handle behind all keys, and what its key has: CKA_ID, CKA_LABEL and its public key", async () => {
    const client = await openSession(scopes.broker, "both");
    expect([await found(client, 1n), await found(client, 3n), await found(client, 2n)]).toEqual([
      [5n, 6n],
      [1n, 3n],
      [2n, 4n],
    ]);
    for (const [handle, name] of [
      [5n, "release-ec"],
      [6n, "release-rsa"],
    ] as const) {
      const parts = parseCertificate(derOf(name));
      const own = 2n * handle - 9n;
      const read = (type: number) => value(client, handle, type);
      expect(await read(CKA.VALUE)).toBe(toHex(derOf(name)));
      expect(await read(CKA.LABEL)).toBe(toHex(utf8(name)));
      for (const type of [CKA.ID, CKA.LABEL, CKA.SUBJECT, CKA.PUBLIC_KEY_INFO])
        expect(await read(type), `${type}`).toBe(await value(client, own, type));
      expect(await read(CKA.SUBJECT)).toBe(toHex(parts.subject));
      expect(await read(CKA.ISSUER)).toBe(toHex(parts.issuer));
      expect(await read(CKA.SERIAL_NUMBER)).toBe("0202012c");
      expect([await read(CKA.TOKEN), await read(CKA.PRIVATE), await read(CKA.TRUSTED)]).toEqual(["1", "0", "0"]);
      expect([await read(CKA.CERTIFICATE_TYPE), await read(CKA.SIGN), await read(CKA.KEY_TYPE)]).toEqual([
        "0",
        "none",
        "none",
      ]);
    }
    client.end();
  });

  it("I6: does nothing: for each operation it is no key, and the refusal is recorded", async () => {
    const client = await openSession(scopes.broker, "both");
    const verifyInit = client.call("C_VerifyInit", ulongs(1n), ECDSA, ulongs(5n));
    expect([await verifyInit, await signInit(client, ECDSA, 5n)]).toMatchObject([{ rv: 0x60n }, { rv: 0x60n }]);
    expect(await decryptInit(client, plain(0, 1), 6n)).toMatchObject({ rv: 0x60n });
    const wrapped = concatBytes(Uint8Array.of(1), u32(1), Uint8Array.of(7));
    const unwrap = await client.call("C_UnwrapKey", ulongs(1n), ECDSA, ulongs(5n), wrapped, u32(0));
    expect(unwrap).toMatchObject({ rv: 0x60n });
    const refusal = { decision: "deny", step: "key", key: null };
    const refused = ["sign", "decrypt", "unwrap"].map((operation) => ({ ...refusal, operation }));
    expect(scopes.broker.records().slice(-3)).toMatchObject(refused);
    client.end();
  });

  it("I7: a narrowing that takes it away takes the object and the key's subject, at once", () => {
    const { publicKeys, ...token } = softwareKeys();
    const of = (serial: number, certificates: object) => {
      const document = { ...policyDocument(), serial, certificates };
      for (const [name, { spki }] of publicKeys)
        document.keys[name] = { spki: `sha256:${sha256Hex(spki)}`, does: name === "vault" ? "decrypt" : "sign" };
      return parsePolicy(documentBytes(document));
    };
    const policy = of(1, authority.certificatesOf(publicKeys, ["release-ec"]));
    // Nothing is asked of either: the objects are the policy's.
    const state = openScope(openBroker(policy, publicKeys, { token, audit: {} as AuditLog }), "release-signing");
    const subjects = () =>
      scopeObjects(state).map(({ kind, attributes }) => {
        const subject = attributes.get(CKA.SUBJECT);
        return `${kind} ${subject?.kind === "bytes" && subject.value.length > 0}`;
      });
    expect(subjects()).toEqual(["private true", "public true", "certificate true"]);
    state.live.narrow(of(2, {}));
    expect(subjects()).toEqual(["private false", "public false"]);
  });

  it("I10: all that it has comes in one reply, lengths first or not; the same value again and again, to fill memory by small requests, is refused", async () => {
    const { publicKeys } = softwareKeys();
    const key = { key: Buffer.from(publicKeys.get("release-ec")?.spki ?? []), format: "der", type: "spki" } as const;
    const der = authority.certificate(createPublicKey(key), "x".repeat(15_900));
    const change = (document: PolicyDocument) => {
      document["certificates"] = { "release-ec": toBase64(der) };
    };
    const broker = await startBroker({ publicKeys, change });
    const client = await openSession(broker);
    const ask = (types: readonly number[], room: number) => {
      const queries = types.flatMap((type) => [u32(type), u32(room)]);
      return client.call("C_GetAttributeValue", ulongs(1n, 3n), concatBytes(u32(types.length), ...queries));
    };
    const [all, again] = [Object.values(CKA), Array<number>(64).fill(CKA.VALUE)];
    expect((await ask(all, 0)).rv).toBe(0n);
    expect((await ask(again, 0)).rv).toBe(0n);
    expect((await ask(again, 20_000)).rv).toBe(0x7n);
    const whole = await ask(all, 20_000);
    expect(whole.rv).toBe(0n);
    expect(whole.values.length).toBeGreaterThan(2 * 15_900);
    client.end();
    await broker.close();
  });

  it("I6: a scope that shows a key without one has no such object, and an empty subject", async () => {
    const client = await openSession(scopes.broker, "oaep-sha1");
    expect(await found(client, 1n)).toEqual([]);
    expect(await value(client, 1n, CKA.SUBJECT)).toBe("");
    expect(await client.call("C_GetAttributeValue", ulongs(1n, 3n), u32(0))).toMatchObject({ rv: 0x82n });
    client.end();
  });
});

describe("stock clients", () => {
  it("I6: OpenSC lists it and reads it, and signs with the key beside it", async () => {
    const listed = await tool("release-signing", "pkcs11-tool", ["--module", CLIENT, "--list-objects"]);
    expect(listed).toMatch(
      /Certificate Object; type = X.509 cert\n\s+label: +release-ec\n\s+subject: +DN: CN=release-ec\n/,
    );
    const read = ["--module", CLIENT, "--read-object", "--type", "cert", "--id", "01", "-o", "read.der"];
    await tool("release-signing", "pkcs11-tool", read);
    expect(toHex(readFileSync(scopes.file("read.der")))).toBe(toHex(derOf("release-ec")));
  });

  it("I6: p11tool lists it and exports it", async () => {
    const provider = ["--provider", CLIENT];
    const listed = await tool("rsa-signing", "p11tool", [
      ...provider,
      "--list-all-certs",
      "pkcs11:manufacturer=IronClaw",
    ]);
    expect(listed).toMatch(/Type: X.509 Certificate \(RSA-2048\)/);
    const url = /URL: (\S*object=release-rsa\S*)/.exec(listed)?.[1] ?? "none";
    const pem = await tool("rsa-signing", "p11tool", [...provider, "--export", url]);
    expect(toHex(new X509Certificate(pem).raw)).toBe(toHex(derOf("release-rsa")));
    const keys = await tool("rsa-signing", "p11tool", [...provider, "--list-privkeys", "pkcs11:manufacturer=IronClaw"]);
    expect(keys).toMatch(/Type: Private key \(RSA-2048\)[\s\S]*Label: release-rsa/);
  });

  it("I6: OpenSSL's provider stores it in a file by its URI, where the newer release can be had", async () => {
    const clients = await unpackedClients("trixie");
    if (clients === null) return expect(clients).toBeNull();
    const sections =
      "[providers]\ndefault = built_in\npkcs11 = pkcs11\n[built_in]\nactivate = 1\n[pkcs11]\nactivate = 1";
    const pkcs11 = `module = ${clients.provider}\npkcs11-module-path = ${clients.module}`;
    writeFileSync(scopes.file("cnf"), `openssl_conf = init\n[init]\nproviders = providers\n${sections}\n${pkcs11}\n`);
    const env = { ...scopes.environment("release-signing"), OPENSSL_CONF: scopes.file("cnf") };
    const stored = await clients.run("openssl", ["storeutl", "-certs", "pkcs11:object=release-ec;type=cert"], env);
    const pem = /-----BEGIN CERTIFICATE-----[\s\S]*?-----END CERTIFICATE-----/.exec(stored)?.[0] ?? "";
    expect(toHex(new X509Certificate(pem).raw)).toBe(toHex(derOf("release-ec")));
  });

  it("I6: Java's key store has the key with its certificate, and signs with it", async () => {
    writeFileSync(scopes.file("java.cfg"), `name = IronClaw\nlibrary = ${CLIENT}\n`);
    writeFileSync(scopes.file("Store.java"), STORE);
    const java = ["-Xshare:auto", "-XX:TieredStopAtLevel=1", "Store.java", "java.cfg"];
    for (const [scope, name, algorithm] of [
      ["release-signing", "release-ec", "SHA256withECDSA"],
      ["rsa-signing", "release-rsa", "SHA256withRSA"],
    ] as const) {
      const [alias, subject, verified, signature] = (await tool(scope, "java", [...java, algorithm])).split("\n");
      expect([alias, subject, verified]).toEqual([`entry ${name} true`, `subject CN=${name}`, "verified true"]);
      const bytes = Buffer.from(signature?.replace("signature ", "") ?? "", "hex");
      expect(scopes.verifies(name, bytes, { dsaEncoding: "der" }), name).toBe(true);
    }
  });
});

/** Its message is the one of `startStockScopes`. */
const STORE = `import java.nio.file.*; import java.security.*; import java.security.cert.*; import java.util.*;
class Store { public static void main(String[] a) throws Exception {
  Provider p = Security.getProvider("SunPKCS11").configure(a[0]); Security.addProvider(p);
  KeyStore ks = KeyStore.getInstance("PKCS11", p); ks.load(null, "any".toCharArray());
  String alias = ks.aliases().nextElement();
  System.out.println("entry " + alias + " " + (ks.size() == 1 && ks.isKeyEntry(alias)));
  X509Certificate c = (X509Certificate) ks.getCertificateChain(alias)[0];
  System.out.println("subject " + c.getSubjectX500Principal());
  byte[] message = Files.readAllBytes(Path.of("message"));
  Signature s = Signature.getInstance(a[1], p); s.initSign((PrivateKey) ks.getKey(alias, null)); s.update(message);
  byte[] signed = s.sign();
  Signature v = Signature.getInstance(a[1]); v.initVerify(c.getPublicKey()); v.update(message);
  System.out.println("verified " + v.verify(signed));
  System.out.println("signature " + HexFormat.of().formatHex(signed));
}}
`;
