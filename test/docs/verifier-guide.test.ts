import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openStandIn } from "../support/cli-layout.ts";
import { startSwtpm } from "../support/swtpm.ts";
import { blocksUnder, CLI_README, layOutAll, runBlock } from "../support/walk-through.ts";
import { root } from "./documents.ts";

const GUIDE = join(root, "agent/docs/verifier-guide.md");
const directory = mkdtempSync(join(tmpdir(), "verifier-guide-"));
const started: AsyncDisposable[] = [];

beforeAll(async () => {
  const tpm = await startSwtpm();
  started.push(tpm);
  const image = await layOutAll(directory, tpm);
  for (const block of await blocksUnder(CLI_README, "### Before the first boot")) await runBlock(directory, block);
  started.push(await openStandIn(directory, tpm, image));
}, 300_000);
afterAll(async () => {
  for (const each of started.reverse()) await each[Symbol.asyncDispose]();
  rmSync(directory, { recursive: true, force: true });
});

/** Runs the blocks under a heading; resolves with what they printed and complained. */
async function walk(heading: string): Promise<string> {
  let printed = "";
  for (const block of await blocksUnder(GUIDE, `### ${heading}`)) {
    const { stdout, stderr } = await runBlock(directory, block);
    printed += stdout + stderr;
  }
  return printed;
}

// In the order of the document: each part goes on where the one before it ended.
describe("agent/docs/verifier-guide.md, block by block as it stands there", () => {
  test("I9: a machine is enrolled, and its class is what its anchors say", async () => {
    expect(await walk("What is its TPM worth?")).toMatch(/software-tpm[\s\S]*enrolled vm-1/);
  });

  test("what is accepted is said back in words", async () => {
    expect(await walk("What do you accept?")).toContain("desk");
  });

  test("I9: a fresh report is affirming", async () => {
    expect(await walk("Ask, and judge")).toMatch(/^vm-1: affirming \(launch serving, software-tpm, release first\)$/m);
  });

  test("I9: another nonce is refused with 3, an image that the policy leaves out is contraindicated with 1", async () => {
    const printed = await walk("What a no looks like");
    expect(printed).toContain("another nonce: exit code 3");
    expect(printed).toContain("a demo image: exit code 1");
    expect(printed).toMatch(/^image-variant: /m);
  });

  test("I9: a relying party reads the same from the signed result", async () => {
    expect(await walk("Hand the result on")).toMatch(/signed by/);
    expect(readFileSync(join(directory, "result.jwt"), "utf8").split(".")).toHaveLength(3);
  });

  test("the firmware's log is shown with what its digests vouch for", async () => {
    expect(await walk("Pin the firmware")).toContain("--firmware-log");
  });
});
