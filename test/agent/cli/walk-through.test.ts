import { execFile } from "node:child_process";
import { existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { LAYOUT_FILE, LAYOUT_PIN } from "../../support/cli-layout.ts";
import { runWalkThrough, type WalkThrough } from "../../support/walk-through.ts";

const run = promisify(execFile);
const SECRET_LINE = LAYOUT_FILE.split("\n")[1] ?? "";
let walk: WalkThrough;
const at = (name: string) => join(walk.directory, name);
const json = (name: string) => JSON.parse(readFileSync(at(name), "utf8"));

beforeAll(async () => {
  walk = await runWalkThrough();
}, 300_000);
afterAll(async () => {
  await walk?.[Symbol.asyncDispose]();
});

describe("the walk-through of the README", () => {
  test("I9: it ends in an affirming verdict over every event that the release predicted", () => {
    expect(walk.verdict).toMatch(/^vm-1: affirming \(launch serving, software-tpm, release first\)$/m);
    expect(walk.verdict).not.toContain("<- differs");
  });

  test("I9: a relying party reads the same from the signed result, with the TPM's class as its warning", () => {
    const read = walk.outputs.find((output) => output.includes("signed by")) ?? "";
    expect(read).toMatch(/^vm-1: warning \(policy verdict affirming, launch serving, software-tpm, release first\)$/m);
    expect(read).toMatch(/^ {2}vector: .*hardware 32/m);
    expect(walk.verdict).toMatch(/^continuity: this is the first report in that history$/m);
    expect(read).toMatch(/^continuity: comes after the last report in that history$/m);
  });

  test("the machine's cabinet then holds both releases and three sealed credentials, without a warning", () => {
    const list = walk.outputs.at(-1) ?? "";
    for (const line of [
      "first, epoch 1,",
      "second, epoch 2, ends lower ones,",
      "/hsm-pin.json",
      "/state.json",
      "/tls-key.json",
    ])
      expect(list).toContain(line);
    expect(walk.everything).not.toMatch(/^ *warning/m);
  });

  test("I4: PIN and key file are sealed and in no file and no output; private keys are their owner's alone", async () => {
    for (const name of ["pin", "client.key"]) expect(existsSync(at(name))).toBe(false);
    for (const secret of [LAYOUT_PIN, SECRET_LINE]) expect(walk.everything).not.toContain(secret);
    const found = await run("grep", ["-rlaF", "-e", LAYOUT_PIN, "-e", SECRET_LINE, walk.directory]).catch(
      ({ code }) => ({
        stdout: code,
      }),
    );
    expect(found.stdout).toBe(1); // grep found nothing
    for (const name of ["root.pem", "release.pem", "operator.pem"]) expect(statSync(at(name)).mode & 0o777).toBe(0o600);
    expect(walk.everything).not.toContain("PRIVATE KEY");
  });

  test("I2: enrolment gave the TPM an owner, whose authorisations are in the escrow file alone", () => {
    const { ekName, secret: escrowed, ownerAuth, lockoutAuth } = json("escrow.json");
    expect(statSync(at("escrow.json")).mode & 0o777).toBe(0o600);
    expect(json("enrolment.json")).toMatchObject({ ekName });
    for (const secret of [escrowed, ownerAuth, lockoutAuth]) {
      expect(secret).toMatch(/^[0-9a-f]{64}$/);
      expect(walk.everything).not.toContain(secret);
    }
  });

  test("I2: a running machine says what its next boot needs, with advice", () => {
    expect(walk.everything).toMatch(/hsm-pin, generation 1: stays sealed\n {2}agent-pcr-capped: PCR 13 /);
    expect(walk.everything).toContain("only a reboot can unseal again");
  });

  test("I1: what `measure` printed is what the policy pins", () => {
    const { environment: _none, ...measured } = json("module.json");
    expect(json("policy.json").module).toMatchObject(measured);
    expect(Object.keys(measured.closure)).toContain("/lib64/ld-linux-x86-64.so.2");
    expect(Object.keys(measured.closure)).not.toContain("/shim");
  });
});
