import { execFile } from "node:child_process";
import { generateKeyPairSync } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { AgentError } from "../../agent/errors.ts";
import { ByteWriter, utf8 } from "../../policy/index.ts";
import {
  type BrokerFixture,
  INTRUDER_PEER,
  SIGNER_PEER,
  softwareKeys,
  startBroker,
} from "../support/broker-fixture.ts";

// What an application is told when the policy says no: the step of the decision, and the code and words that OpenSC makes of it.
const CLIENT = "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so";
const run = promisify(execFile);

let directory: string;
let broker: BrokerFixture;
let token: "serves" | "busy" | "fails" = "serves";

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "denials-"));
  writeFileSync(join(directory, "digest"), Buffer.alloc(32, 0xd1));
  writeFileSync(join(directory, "long"), Buffer.alloc(48, 0xd1));
  writeFileSync(join(directory, "short"), Buffer.alloc(31, 0xd1));
  const keys = softwareKeys();
  broker = await startBroker({
    publicKeys: keys.publicKeys,
    token: {
      ...keys,
      reserve: () => (token === "busy" ? null : { [Symbol.dispose]: () => undefined }),
      sign: (request) =>
        token === "fails" ? Promise.reject(new AgentError("ERR_SHIM_GONE", "shim connection")) : keys.sign(request),
    },
    change: (document) => {
      const scope = { caller: "release-signer", key: "release-ec", audit: "written" };
      const limited = (name: string, limit: object) =>
        document.scopes.push({ ...scope, name, mechanisms: [{ type: "CKM_ECDSA", digest: "sha256" }], ...limit });
      document["approvers"] = { alice: { key: sshKey(), notFor: [] } };
      limited("rated", { rate: { perMinute: 1, burst: 1 } });
      limited("budgeted", { budget: { operations: 1 } });
      limited("expired", { valid: { from: "2020-01-01T00:00:00Z", until: "2021-01-01T00:00:00Z" } });
      limited("approved", {
        ...{ key: "release-rsa", mechanisms: [{ type: "CKM_SHA256_RSA_PKCS" }] },
        approvals: { required: 1, of: ["alice"], for: "operation", window: "PT15M" },
      });
    },
  });
});
afterAll(async () => {
  await broker.close();
  rmSync(directory, { recursive: true });
});

function sshKey(): string {
  const { x } = generateKeyPairSync("ed25519").publicKey.export({ format: "jwk" });
  const point = Uint8Array.from(Buffer.from(x ?? "", "base64url"));
  const blob = new ByteWriter().sized32(utf8("ssh-ed25519")).sized32(point).finish();
  return `ssh-ed25519 ${Buffer.from(blob).toString("base64")}`;
}

/** What the tool printed; its standard output alone when it succeeded. */
async function signs(
  scope: string,
  mechanism = "ECDSA",
  input = "digest",
  more: readonly string[] = [],
): Promise<string> {
  const files = ["--input-file", join(directory, input), "--output-file", join(directory, "signature")];
  const env = { ...process.env, P11_KIT_SERVER_ADDRESS: `unix:path=${broker.socket(scope)}` };
  const args = ["--module", CLIENT, "--sign", "--mechanism", mechanism, ...more, ...files];
  return run("pkcs11-tool", args, { env }).then(
    () => "signed",
    ({ stderr }: { stderr: string }) => stderr,
  );
}

/** OpenSC 0.23 has no name for CKR_FUNCTION_REJECTED. */
const failed = (call: string, name: string, code: string): string =>
  `error: PKCS11 function ${call} failed: rv = ${name === "FUNCTION_REJECTED" ? "unknown PKCS11 error" : `CKR_${name}`} (${code})`;
const lastStep = () => broker.records().at(-1)?.step;

describe("what the policy denies, as `pkcs11-tool` says it", () => {
  it.each<[string, string, string, string, string, string[]]>([
    ["operation", failed("C_SignInit", "KEY_FUNCTION_NOT_PERMITTED", "0x68"), "legacy", "RSA-PKCS", "digest", []],
    ["mechanism", failed("C_SignInit", "MECHANISM_INVALID", "0x70"), "release-signing", "ECDSA-SHA1", "digest", []],
    [
      "parameters",
      failed("C_SignInit", "MECHANISM_PARAM_INVALID", "0x71"),
      ...(["rsa-signing", "RSA-PKCS-PSS", "long"] as const),
      ["--hash-algorithm", "SHA384", "--mgf", "MGF1-SHA384"],
    ],
    // After any failure of C_Sign the tool tries it in parts, and says what came of that.
    ["parameters", failed("C_SignUpdate", "FUNCTION_NOT_SUPPORTED", "0x54"), "release-signing", "ECDSA", "short", []],
    ["valid", failed("C_SignInit", "FUNCTION_REJECTED", "0x200"), "expired", "ECDSA", "digest", []],
    ["approvals", failed("C_SignFinal", "FUNCTION_REJECTED", "0x200"), "approved", "SHA256-RSA-PKCS", "digest", []],
  ])("I7: step %s: %s", async (step, words, scope, mechanism, input, more) => {
    expect(await signs(scope, mechanism, input, more)).toContain(words);
    expect(lastStep()).toBe(step);
  });

  it.each([
    ["rate", "rated"],
    ["budget", "budgeted"],
  ])("I7: step %s: the second signature is rejected, and an hour does not matter to a budget", async (step, scope) => {
    expect(await signs(scope)).toBe("signed");
    expect(await signs(scope)).toContain(failed("C_SignInit", "FUNCTION_REJECTED", "0x200"));
    expect(lastStep()).toBe(step);
    broker.time += 3_600_000;
    expect(await signs(scope)).toMatch(step === "rate" ? /^signed$/ : /0x200/);
  });

  it("I6: step caller: a stranger cannot even initialize", async () => {
    broker.peer = INTRUDER_PEER;
    expect(await signs("release-signing")).toContain(failed("C_Initialize", "FUNCTION_REJECTED", "0x200"));
    broker.peer = SIGNER_PEER;
    expect(lastStep()).toBe("caller");
  });

  it("I6: step key: the key of another scope is not there", async () => {
    expect(await signs("rsa-signing", "RSA-PKCS", "digest", ["--id", "01"])).toContain("Private key not found");
  });

  it("I8: a busy token and one that fails have codes of their own", async () => {
    token = "busy";
    expect(await signs("rsa-signing", "SHA256-RSA-PKCS")).toContain(failed("C_SignFinal", "DEVICE_MEMORY", "0x31"));
    token = "fails";
    expect(await signs("rsa-signing", "SHA256-RSA-PKCS")).toContain(failed("C_SignFinal", "DEVICE_ERROR", "0x30"));
    token = "serves";
    expect(await signs("rsa-signing", "SHA256-RSA-PKCS")).toBe("signed");
  });
});
