import { execFile } from "node:child_process";
import { cp, mkdtemp, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative, resolve } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { buildImage } from "../../vm-images/build.ts";
import { DEFAULT_RECIPE, RECIPE_NAMES } from "../../vm-images/recipes.ts";
import { SBOM_NAME } from "../../vm-images/sbom.ts";

const project = resolve(import.meta.dirname, "../..");
const run = promisify(execFile);

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "ironclaw elsewhere "));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** The sources without anything built, and npm's packages as links to the same files. */
async function copyProject(into: string): Promise<void> {
  const left = ["node_modules", "build", "coverage", ".git"];
  await cp(project, into, { recursive: true, filter: (path) => !left.includes(relative(project, path)) });
  await run("cp", ["-a", "--reflink=auto", join(project, "node_modules"), into]);
}

describe("image", () => {
  it("I12: the image built in another folder, umask and time zone without a cache is identical, and so are its manifest and its bill of materials", async () => {
    const here = await buildImage({
      variant: "demo",
      outDirectory: join(project, "build/image/demo"),
      cacheDirectory: join(project, "build/cache"),
    });
    const copy = join(folder, "project");
    await copyProject(copy);
    const command = [join(copy, "agent/cli/ironclaw.ts"), "image", "build", "--variant", "demo", "--json"];
    const places = ["--out", join(folder, "out"), "--cache", join(folder, "cache")];
    await run("sh", ["-c", 'umask 077; exec "$@"', "sh", process.execPath, ...command, ...places], {
      cwd: folder,
      env: { PATH: process.env["PATH"], HOME: folder, TZ: "Asia/Tokyo", LANG: "tr_TR.UTF-8", SOURCE_DATE_EPOCH: "1" },
      maxBuffer: 16 * 1024 * 1024,
    });
    const { manifest } = JSON.parse(await readFile(join(folder, "out/manifest.json"), "utf8"));
    expect(manifest).toEqual(here.manifest);
    const billOf = (directory: string) => readFile(join(directory, SBOM_NAME), "utf8");
    expect(await billOf(join(folder, "out"))).toBe(await billOf(here.directory));
  });

  it("I12: each recipe's kernel image is the same in another folder and under another umask, on the root of the image it is based on", async () => {
    const cacheDirectory = join(project, "build/cache");
    const base = await buildImage({ variant: "demo", outDirectory: join(project, "build/image/demo"), cacheDirectory });
    for (const recipe of RECIPE_NAMES.filter((name) => name !== DEFAULT_RECIPE)) {
      const build = (name: string) =>
        buildImage({ variant: "demo", recipe, base, cacheDirectory, outDirectory: join(folder, recipe, name) });
      const first = await build("first");
      const umask = process.umask(0o077);
      const second = await build("second").finally(() => process.umask(umask));
      expect(second.manifest).toEqual(first.manifest);
      expect(first.manifest).toMatchObject({ recipe, files: { "root.img": base.manifest.files["root.img"] } });
      expect(first.manifest.prediction).not.toEqual(base.manifest.prediction);
    }
  });
});
