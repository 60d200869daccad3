import { existsSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { makeDirectory } from "../../vm-images/make-directory.ts";
import { cli } from "../support/cli.ts";
import { expectComplaint } from "../support/cli-fixture.ts";

const directory = mkdtempSync(join(tmpdir(), "make-"));
const at = (name: string) => join(directory, name);
writeFileSync(at("file"), "");
symlinkSync(at("nowhere"), at("dangling"));
symlinkSync(directory, at("link"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

describe("a folder to write into", () => {
  it("is made with those above it, once, with the mode that was asked for", async () => {
    expect(await makeDirectory(at("a/b/c"), 0o700)).toBe(true);
    expect(statSync(at("a/b/c")).mode & 0o777).toBe(0o700);
    expect(await makeDirectory(at("a/b/c"))).toBe(false);
    expect(await makeDirectory(at("link"))).toBe(false);
  });

  it.each([
    ["a file", at("file"), "a file"],
    ["below a file", at("file/x"), "a file above it"],
    ["a link that leads nowhere", at("dangling"), "a file"],
    [
      "in a place that takes none, where a recursion that only looks at the error never ends",
      "/proc/x",
      "a place that takes none",
    ],
  ])("I10: that is %s ends in a typed error", async (_, path, got) => {
    await expect(makeDirectory(path)).rejects.toMatchObject({
      ...{ code: "ERR_IMAGE_PLACE", exitCode: 4, got, expected: "a folder, or a place for one" },
    });
  });

  it.each([
    ["image build", ["--variant", "release", "--out"]],
    ["image build", ["--variant", "release", "--out", at("image"), "--cache"]],
    ["tpm software", []],
  ])("I10: is what `%s` complains about before it does anything else", async (words, line) => {
    for (const place of [at("file"), "/proc/x"])
      expectComplaint(await cli([...words.split(" "), ...line, place]), 4, `folder ${place}`);
    expect(existsSync("/proc/x")).toBe(false);
  });
});
