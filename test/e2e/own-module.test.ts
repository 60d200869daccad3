import { createPublicKey, randomBytes } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { buildImage } from "../../vm-images/build.ts";
import { PLACES } from "../../vm-images/story/story.ts";
import { makeNssToken } from "../support/nss-token.ts";
import { blocksUnder, putProgram, runBlock, startCommand } from "../support/walk-through.ts";

// agent/docs/your-own-module.md as it stands there, with the token of Mozilla's NSS.

const PAGE = resolve(import.meta.dirname, "../../agent/docs/your-own-module.md");
const directory = mkdtempSync(join(tmpdir(), "own-"));
const at = (name: string) => join(directory, name);
const pin = `nss-${randomBytes(9).toString("hex")}`;

/** All blocks below a heading; their standard outputs, one behind the other. */
async function follow(heading: string): Promise<string> {
  let output = "";
  for (const block of await blocksUnder(PAGE, heading)) output += (await runBlock(directory, block)).stdout;
  return output;
}

describe("a new user with a module of their own, by the page's commands alone", () => {
  let machine: Awaited<ReturnType<typeof startCommand>> | undefined;

  beforeAll(async () => {
    const image = await buildImage({
      variant: "demo",
      outDirectory: PLACES.image("demo"),
      cacheDirectory: PLACES.cache,
    });
    symlinkSync(image.directory, at("image"));
    await putProgram(directory);
    const key = Buffer.from(makeNssToken(at("token/var/lib/hsm"), pin, "own-ec"));
    writeFileSync(
      at("own-ec.pem"),
      createPublicKey({ key, format: "der", type: "spki" }).export({ format: "pem", type: "spki" }),
    );
    writeFileSync(at("pin"), pin, { mode: 0o600 });
  });
  afterAll(async () => {
    await machine?.[Symbol.asyncDispose]();
    rmSync(directory, { recursive: true, force: true });
  });

  it("I1: pins the library, what it opens later, and its configuration", async () => {
    await follow("## The module");
    const module = JSON.parse(readFileSync(at("module.json"), "utf8"));
    expect(Object.keys(module.closure)).toEqual(
      expect.arrayContaining(
        ["libsoftokn3.so", "libfreeblpriv3.so"].map((name) => `/usr/lib/x86_64-linux-gnu/${name}`),
      ),
    );
    expect(Object.keys(module.config)).toEqual(["/etc/pkcs11/modules/nss.module", "/etc/pkcs11/pkcs11.conf"]);
  });

  it("I6: gets a first policy that says in words what it opens and accepts, and allows the one signature", async () => {
    const output = await follow("## The policy");
    expect(output).toContain("/dev/urandom");
    expect(output).toContain("unknown-history");
    expect(output).toMatch(/own-ec/);
  });

  it("I2, I12: predicts, signs and seals offline, and the cabinet holds together", async () => {
    const output = await follow("## Keys, release, machine");
    expect(output).toMatch(/^ok +image [0-9a-f]{16}: release first predicts it$/m);
    expect(output).toMatch(/^ok +credential hsm-pin: sealed to this TPM$/m);
    expect(output).not.toMatch(/^fail/m);
    expect(output).not.toContain(pin);
  });

  it("I2: boots, unseals and serves", async () => {
    const [command = ""] = await blocksUnder(PAGE, "## Boot");
    machine = await startCommand(directory, command);
    expect(machine.first).toMatch(/^serving after \d+\.\d s\n/);
    expect(machine.first).toContain(`${at("machine")}/ironclaw.control.sock`);
  });

  it("I11: is not started a second time on the same folder, and goes on", async () => {
    const [command = ""] = await blocksUnder(PAGE, "## Boot");
    await expect(runBlock(directory, command)).rejects.toThrow(/expected none running, got one that listens/);
  });

  it("I9: verifies from outside, as a warning that names what the policy opened", async () => {
    const output = await follow("## Verify");
    expect(output).toContain("exception  profile usb");
    expect(output).toMatch(/^vm-1: warning /m);
  });

  it("I7: signs with the module's own key through its scope", async () => {
    expect(await follow("## Sign")).toContain("Verified OK");
  });

  it("I11: an end that is asked for is a clean one, and the machine comes back with what it had", async () => {
    await machine?.[Symbol.asyncDispose]();
    const [command = ""] = await blocksUnder(PAGE, "## Boot");
    machine = await startCommand(directory, command);
    expect(machine.first).toMatch(/^serving after/);
  });
});
