import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
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

describe("the tree", () => {
  test("the source type-checks", async () => {
    expect(await complaints(join(root, "node_modules/.bin/tsc"), ["--noEmit"])).toBe("");
  });

  test("lint holds, and imports point one way", async () => {
    expect(await complaints(biome, ["check", "--config-path=.config", "--max-diagnostics=50"])).toBe("");
  });

  test("a backward or deep import fails the lint", async () => {
    for (const [path, source] of [
      ["policy/x.ts", 'import { x } from "../attest/index.ts";\nexport const y = x;\n'],
      ["attest/x.ts", 'import { x } from "../seal/index.ts";\nexport const y = x;\n'],
      ["attest/x.ts", 'import { x } from "../policy/bytes.ts";\nexport const y = x;\n'],
      ["seal/x.ts", 'import { x } from "../agent/config.ts";\nexport const y = x;\n'],
      ["agent/x.ts", 'import { x } from "../vm-images/build.ts";\nexport const y = x;\n'],
      ["agent/broker/x.ts", 'import { x } from "../../policy/bytes.ts";\nexport const y = x;\n'],
    ] as const) {
      const child = run(biome, ["lint", "--config-path=.config", `--stdin-file-path=${path}`], { cwd: root });
      child.child.stdin?.end(source);
      const text = await child.then(
        ({ stdout, stderr }) => stdout + stderr,
        (error: { stdout: string; stderr: string }) => error.stdout + error.stderr,
      );
      expect(text, path).toContain("noRestrictedImports");
    }
  });

  test("scripts run on the pinned Node", async () => {
    const manifest = JSON.parse(await readFile(join(root, "package.json"), "utf8"));
    expect(process.version).toBe(`v${manifest.optionalDependencies[`node-linux-${process.arch}`]}`);
  });

  test("the lock file records no download address, and an entry for every optional dependency", async () => {
    const lock = JSON.parse(await readFile(join(root, "package-lock.json"), "utf8"));
    const packages: Record<string, { resolved?: string; optionalDependencies?: object }> = lock.packages;
    for (const [name, entry] of Object.entries(packages)) {
      expect(entry.resolved ?? "", name).not.toMatch(/^http/);
    }
  });
});
