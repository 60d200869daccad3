import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { sha256Hex } from "../../../policy/index.ts";
import { compiledProfile, PROFILE_NAMES, profileText } from "../../../vm-images/profiles.ts";
import { cli } from "../../support/cli.ts";
import { expectComplaint } from "../../support/cli-fixture.ts";

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "ironclaw-profile-"));
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

function written(name: string, text: string): string {
  const path = join(directory, name);
  writeFileSync(path, text);
  return path;
}

test.each(PROFILE_NAMES)(
  "`profile explain %s` says what it permits and by which digest a policy names it",
  async (name) => {
    const { code, out } = await cli(["profile", "explain", name]);
    expect(code).toBe(0);
    expect(out).toContain(`profile ${name}: what a PKCS#11 library may do in a shim`);
    const sha256 = sha256Hex(compiledProfile(name));
    expect(out).toMatch(new RegExp(`\\nsha256 ${sha256}\\n$`));
    const json = JSON.parse((await cli(["profile", "explain", name, "--json"])).out);
    expect(json).toMatchObject({ name, sha256 });
    expect(json.opens.length === 0).toBe(name === "local");
  },
);

test("a text of one's own is explained together with what it includes", async () => {
  const path = written("own.profile", "include local\nprofile own\nlimit nofile 16\n");
  const { code, out } = await cli(["profile", "explain", path]);
  expect(code).toBe(0);
  expect(out).toContain("profile own: ");
  expect(out).toContain("  nofile 16: open files\n");
  expect(out).toContain("  below /: read\n");
});

test("I5: a text that the linter refuses is refused with every finding, and not explained", async () => {
  const worse = profileText("local").replace("stage load\n", "stage load\nallow execve socket\n");
  const result = await cli(["profile", "explain", written("worse.profile", worse)]);
  expectComplaint(result, 3, "profile explain");
  expect(result.out).toBe("");
  for (const call of ["execve", "socket"]) expect(result.err).toContain(call);
});

test.each([
  ["no such file", "no-such-file", 4],
  ["a name that is none of ours", "constructor", 4],
  ["a text that is none", written, 3],
] as const)("I10: %s is refused", async (_what, file, exitCode) => {
  const path = typeof file === "string" ? file : file("text", "open everything\n");
  expectComplaint(await cli(["profile", "explain", path]), exitCode, "profile explain");
});
