import { execFile, execFileSync } from "node:child_process";
import { createPublicKey, randomBytes, verify } from "node:crypto";
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { connect } from "../../../agent/client/index.ts";
import { sha256, utf8 } from "../../../policy/index.ts";
import { type BrokerFixture, INTRUDER_PEER, SIGNER_PEER, startBroker } from "../../support/broker-fixture.ts";
import { createSoftHsmToken, type SoftHsmToken } from "../../support/softhsm.ts";

const run = promisify(execFile);
const root = join(import.meta.dirname, "../../..");
const MESSAGE = utf8("what is signed");
const DIGEST = Uint8Array.from(sha256(MESSAGE));

let directory: string;
let hsm: SoftHsmToken;
let broker: BrokerFixture;
beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), "outside-"));
  hsm = await createSoftHsmToken({ directory, pin: "123456", label: "signing" });
  broker = await startBroker({ publicKeys: hsm.publicKeys, token: hsm.token });
});
afterAll(async () => {
  await broker.close();
  await hsm.close();
  rmSync(directory, { recursive: true });
});

const isSignature = (spki: Uint8Array, signature: Uint8Array) => {
  const key = createPublicKey({ key: Buffer.from(spki), format: "der", type: "spki" });
  return verify("sha256", MESSAGE, { key, dsaEncoding: "ieee-p1363" }, signature);
};

describe("a client in C, written from RPC.md alone", () => {
  let program: string;
  beforeAll(() => {
    program = join(directory, "rpc-client");
    const flags = ["-std=c17", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror"];
    execFileSync("gcc", [...flags, "-o", program, join(root, "test/support/rpc-client.c")]);
  });
  const ask = (...args: string[]) => run(program, [broker.socket("release-signing"), ...args]);

  test("I6: connects, reads the scope's key and has a digest signed that verifies with it", async () => {
    const { stdout } = await ask("0x1041", Buffer.from(DIGEST).toString("hex"));
    const [key = "", signature = ""] = stdout.split("\n").map((line) => line.split(" ")[1] ?? "");
    expect(key).toBe(Buffer.from(hsm.publicKeys.get("release-ec")?.spki ?? []).toString("hex"));
    expect(isSignature(Buffer.from(key, "hex"), Buffer.from(signature, "hex"))).toBe(true);
  });

  test("I7: is told the reason of a refusal", async () => {
    await expect(ask("0x1041", "00")).rejects.toMatchObject({
      code: 2,
      stdout: expect.stringContaining("refused 2\n"),
    });
    await expect(ask("0x0d", "00")).rejects.toMatchObject({ code: 2, stdout: expect.stringContaining("refused 1\n") });
    broker.peer = INTRUDER_PEER;
    await expect(ask("0x1041", "00")).rejects.toMatchObject({ code: 2, stdout: "refused 1\n" });
    broker.peer = SIGNER_PEER;
  });
});

describe("the client in TypeScript", () => {
  test("I6: has SoftHSM sign through the broker, many at once", async () => {
    await using client = await connect({ scope: "release-signing", directory: dirname(broker.socket("x")) });
    await using session = client.session();
    const [key] = client.keys;
    const asked = Array.from({ length: 8 }, () => session.sign({ mechanism: "CKM_ECDSA_SHA256", message: MESSAGE }));
    for (const signature of await Promise.all(asked))
      expect(isSignature(key?.publicKey ?? DIGEST, signature)).toBe(true);
  });

  test("I7: its folder alone is enough for plain Node, and the examples of its README run", async () => {
    const app = join(directory, "app");
    mkdirSync(join(app, "client"), { recursive: true });
    cpSync(join(root, "agent/client"), join(app, "client"), { recursive: true });
    const text = readFileSync(join(root, "agent/client/README.md"), "utf8");
    const examples = [...text.matchAll(/^```js\n(.*?)^```$/gms)].map(([, code = ""]) => code);
    expect(examples.length).toBe(5);
    const program = examples
      .join("\n")
      .replace("ironclaw-guest-agent/client", "./client/index.ts")
      .replace('{ scope: "release-signing" }', JSON.stringify(broker.socket("release-signing")));
    const digest = JSON.stringify([...randomBytes(32)]);
    const values = `const digest = Uint8Array.from(${digest}); const digests = [digest, digest]; const tooShort = digest.slice(1);`;
    writeFileSync(join(app, "main.mjs"), `${values}\n${program}\nconsole.log(signature.length, signatures.length);\n`);
    const { stdout } = await run(process.execPath, [join(app, "main.mjs")]);
    expect(stdout).toBe(
      "release-ec sign 91 CKM_ECDSA of a digest, sha256; CKM_ECDSA_SHA256 of a message, sha256\nrefused: malformed-input\n64 2\n",
    );
  });
});
