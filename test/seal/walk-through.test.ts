import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { layOut } from "../support/cli-layout.ts";
import { blocksUnder, putProgram, runBlock } from "../support/walk-through.ts";

const README = resolve(import.meta.dirname, "../../seal/README.md");
const directory = mkdtempSync(join(tmpdir(), "seal-walk-"));
let everything = "";

beforeAll(async () => {
  await layOut(directory);
  await putProgram(directory);
});
afterAll(() => {
  const pid = join(directory, "tpm/pid");
  if (existsSync(pid)) process.kill(Number(readFileSync(pid, "utf8")));
  rmSync(directory, { recursive: true, force: true });
});

/** Runs the blocks under a heading of seal/README.md; resolves with what they printed. */
async function walk(heading: string): Promise<string> {
  let printed = "";
  for (const block of await blocksUnder(README, `### ${heading}`)) {
    const { stdout, stderr } = await runBlock(directory, block);
    printed += stdout;
    everything += stdout + stderr;
  }
  return printed;
}

/** Each command is a program started anew: on a busy machine that adds up. */
const PATIENCE = 300_000;

// In the order of the document: each part goes on where the one before it ended.
describe("seal/README.md, block by block as it stands there", () => {
  it(
    "I2: sealing needs a certificate and keys, no TPM",
    async () => {
      await walk("A TPM and three keys");
      expect(await walk("A release and a seal, offline")).toContain("release one");
    },
    PATIENCE,
  );

  it(
    "I2: a credential unseals once everything measures as released, and `--check` says so before",
    async () => {
      const printed = await walk("Set up and unseal");
      expect(printed).toMatch(
        /agent-not-launched[\s\S]*not before the launch has measured[\s\S]*hsm-pin, generation 1: would unseal now/,
      );
      expect(printed).toMatch(/tls-key, generation 1: would unseal now/);
      expect(printed).toMatch(/authorisations +owner set, lockout set, endorsement empty/);
    },
    PATIENCE,
  );

  it(
    "I3: after the cap nothing unseals",
    async () => {
      const printed = await walk("The cap");
      expect(printed).toMatch(/measurement-changed: PCR 13[\s\S]*measurement-changed, as it says/);
      expect(everything).toContain("hsm-pin: refused by the TPM: TPM2_PolicyPCR 0x000001c4");
    },
    PATIENCE,
  );

  it(
    "I11: a new generation is pending until it has served, and an older one is never taken after it",
    async () => {
      const printed = await walk("A new PIN");
      expect(printed).toContain("hsm-pin: generation 2 is pending");
      expect(printed).toContain("hsm-pin: generation 2 has served");
    },
    PATIENCE,
  );

  it(
    "I2: two releases are valid side by side until the later one ends the earlier",
    async () => {
      const printed = await walk("The next release ends the one before");
      expect(printed).toContain("epoch counter raised");
      expect(printed).toMatch(/release-revoked: release one/);
      expect(everything).toContain("hsm-pin: refused by the TPM: TPM2_PolicyNV 0x00000126");
    },
    PATIENCE,
  );

  it(
    "I11: a PIN that was refused is not tried again until an operator says so",
    async () => {
      expect(await walk("A wrong PIN, and a second try")).toMatch(
        /login-tried[\s\S]*one more try is allowed[\s\S]*would unseal now/,
      );
    },
    PATIENCE,
  );

  it(
    "I2: a TPM that was cleared opens the packages again, and does not forget the epoch",
    async () => {
      expect(await walk("The TPM is cleared")).toContain("tpm-cleared");
    },
    PATIENCE,
  );

  it(
    "I4: no secret was printed anywhere on the way",
    () => {
      for (const secret of [
        "4711-first",
        "4712-second",
        ...Object.values(JSON.parse(readFileSync(join(directory, "escrow.json"), "utf8"))).filter((value) =>
          /^[0-9a-f]{64}$/.test(`${value}`),
        ),
      ]) {
        expect(everything).not.toContain(secret);
      }
    },
    PATIENCE,
  );
});
