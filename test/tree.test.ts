import { execFile } from "node:child_process";
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { promisify } from "node:util";
import { describe, expect, test } from "vitest";

const run = promisify(execFile);
const root = resolve(import.meta.dirname, "..");
const require = createRequire(import.meta.url);
const biome = join(dirname(require.resolve(`@biomejs/cli-linux-${process.arch}/package.json`)), "biome");

/** Runs a checker; resolves with what it complained about, empty when it is content. */
async function complaints(file: string, args: string[]): Promise<string> {
  return run(file, args, { cwd: root, maxBuffer: 1 << 24 }).then(
    () => "",
    (error: { stdout?: string; stderr?: string }) => `${error.stdout ?? ""}${error.stderr ?? ""}`,
  );
}

/** What the lint says in another folder that has this project's configuration. */
function complaintsIn(folder: string): Promise<string> {
  return run(biome, ["lint", "--config-path=.config", "--max-diagnostics=50"], { cwd: folder }).then(
    () => "",
    (error: { stdout?: string; stderr?: string }) => `${error.stdout ?? ""}${error.stderr ?? ""}`,
  );
}

/** Where a package may lie that `from` depends on: in its own `node_modules`, or in one further up. */
function placesOf(from: string, dependency: string): readonly string[] {
  const folders = from === "" ? [] : from.split("/");
  return [...folders.keys(), folders.length].map((depth) =>
    [...folders.slice(0, depth), "node_modules", dependency].join("/"),
  );
}

describe("the tree", () => {
  test("the source type-checks", async () => {
    expect(await complaints(join(root, "node_modules/.bin/tsc"), ["--noEmit"])).toBe("");
  });

  test("lint holds, and imports point one way", async () => {
    expect(await complaints(biome, ["check", "--config-path=.config", "--max-diagnostics=50"])).toBe("");
  });

  test("a backward or deep import fails the lint", async () => {
    const folder = await mkdtemp(join(tmpdir(), "ironclaw-lint-"));
    try {
      await cp(join(root, ".config"), join(folder, ".config"), { recursive: true });
      for (const [path, imported] of [
        ["policy/x.ts", "../attest/index.ts"],
        ["attest/x.ts", "../seal/index.ts"],
        ["attest/x.ts", "../policy/bytes.ts"],
        ["seal/x.ts", "../agent/config.ts"],
        ["seal/x.ts", "../attest/cel.ts"],
        ["agent/x.ts", "../vm-images/build.ts"],
        ["agent/broker/x.ts", "../../policy/bytes.ts"],
      ] as const) {
        await mkdir(dirname(join(folder, path)), { recursive: true });
        await writeFile(join(folder, path), `export { x } from "${imported}";\n`);
        expect(await complaintsIn(folder), `${path} imports ${imported}`).toContain("noRestrictedImports");
        await rm(join(folder, path));
      }
      await writeFile(join(folder, "attest/x.ts"), 'export { x } from "../policy/index.ts";\n');
      expect(await complaintsIn(folder)).toBe("");
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });

  test("scripts run on the pinned Node", async () => {
    const manifest = JSON.parse(await readFile(join(root, "package.json"), "utf8"));
    expect(process.version).toBe(`v${manifest.optionalDependencies[`node-linux-${process.arch}`]}`);
  });

  test("the lock file records no download address, and an entry for every optional dependency", async () => {
    const lock = JSON.parse(await readFile(join(root, "package-lock.json"), "utf8"));
    const packages: Record<string, { resolved?: string; optionalDependencies?: Record<string, string> }> =
      lock.packages;
    for (const [name, entry] of Object.entries(packages)) {
      expect(entry.resolved ?? "", name).not.toMatch(/^http/);
      for (const optional of Object.keys(entry.optionalDependencies ?? {}))
        expect(
          placesOf(name, optional).filter((place) => place in packages),
          `${name} ${optional}`,
        ).not.toEqual([]);
    }
  });
});
