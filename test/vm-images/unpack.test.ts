import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import type { LockedPackage } from "../../vm-images/lock.ts";
import { unpackPackages } from "../../vm-images/unpack.ts";

const directory = mkdtempSync(join(tmpdir(), "unpack-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

/** What a package has: a file's text, or `-> TARGET` for a link. */
type Content = Readonly<Record<string, string>>;

function debOf(name: string, content: Content): LockedPackage & { readonly path: string } {
  const tree = join(mkdtempSync(join(directory, "deb-")), name);
  const control = `Package: ${name}\nVersion: 1\nArchitecture: all\nMaintainer: nobody\nDescription: for a test\n`;
  for (const [path, text] of Object.entries({ ...content, "DEBIAN/control": control })) {
    const place = join(tree, path);
    mkdirSync(dirname(place), { recursive: true });
    if (text.startsWith("-> ")) symlinkSync(text.slice(3), place);
    else writeFileSync(place, text);
  }
  const path = `${tree}.deb`;
  execFileSync("dpkg-deb", ["--root-owner-group", "--build", tree, path], { stdio: "ignore" });
  const sha256 = createHash("sha256").update(readFileSync(path)).digest("hex");
  return { group: "recipe", name, version: "1", sha256, path };
}

const cacheOf = () => mkdtempSync(join(directory, "cache-"));
const unpacked = (cache: string, ...packages: readonly ReturnType<typeof debOf>[]) =>
  unpackPackages({ packages, unlocked: false }, ["recipe"], cache);
const OPENER = { "usr/lib/module.so": "one", "usr/share/doc/opener/copyright": "of opener" };

describe("packages in one tree", () => {
  it("I12: a file that another package has with other content is refused, with its name and both packages, in either order", async () => {
    const [opener, vendor] = [debOf("opener", OPENER), debOf("vendor", { "usr/lib/module.so": "two" })];
    for (const [first, second] of [
      [opener, vendor],
      [vendor, opener],
    ] as const) {
      const cache = cacheOf();
      await expect(unpacked(cache, first, second)).rejects.toMatchObject({
        ...{ code: "ERR_IMAGE_PACKAGE", message: expect.stringContaining("/usr/lib/module.so") },
        ...{ expected: `the one of package ${first.name}`, got: `another one of package ${second.name}` },
        hint: expect.stringContaining("recipe"),
      });
      // No tree that a second try would take for a whole one.
      expect(readdirSync(join(cache, "trees")).filter((name) => !name.includes(".partial-"))).toEqual([]);
    }
  });

  it.each<[string, Content, Content]>([
    ["by the other name of a merged directory", OPENER, { "lib/module.so": "two" }],
    ["through a link of the first", { ...OPENER, "usr/lib/x": "-> ." }, { "usr/lib/x/module.so": "two" }],
    ["as a link", OPENER, { "usr/lib/module.so": "-> other.so" }],
    ["as another link", { "usr/lib/a": "-> b" }, { "usr/lib/a": "-> c" }],
  ])("I12: so is one that is brought %s", async (_, first, second) => {
    await expect(unpacked(cacheOf(), debOf("opener", first), debOf("vendor", second))).rejects.toMatchObject({
      code: "ERR_IMAGE_PACKAGE",
      got: "another one of package vendor",
    });
  });

  it("I12: what is the same in both, and directories, may be of several", async () => {
    const link = { "usr/lib/a": "-> module.so" };
    const tree = await unpacked(
      cacheOf(),
      debOf("opener", { ...OPENER, ...link }),
      debOf("vendor", { "usr/lib/module.so": "one", "usr/share/doc/vendor/copyright": "of vendor", ...link }),
    );
    expect(readFileSync(join(tree, "usr/lib/a"), "utf8")).toBe("one");
    expect(readdirSync(join(tree, "usr/share/doc"))).toEqual(["opener", "vendor"]);
  });

  it("I12: a file behind a link that leads out of the tree is refused, and nothing is written there", async () => {
    const outside = mkdtempSync(join(directory, "outside-"));
    const packages = [debOf("opener", { "usr/lib/x": `-> ${outside}` }), debOf("vendor", { "usr/lib/x/file": "two" })];
    await expect(unpacked(cacheOf(), ...packages)).rejects.toMatchObject({ code: "ERR_IMAGE_PACKAGE" });
    expect(existsSync(join(outside, "file"))).toBe(false);
  });
});
