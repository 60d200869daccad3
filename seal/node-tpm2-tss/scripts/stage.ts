// node scripts/stage.ts FOLDER: writes the package as it is published. In the workspace Node runs src by type stripping, which
// it refuses under node_modules; so a published package is compiled, and its manifest exports that.
import { execFile } from "node:child_process";
import { cp, mkdir, readFile, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { promisify } from "node:util";

const folder = join(import.meta.dirname, "..");
const COPIED = ["native", "binding.gyp", "README.md", "API.md", "LICENSE"];

export async function stage(target: string): Promise<void> {
  await mkdir(target, { recursive: true });
  await compile(join(target, "dist"));
  for (const name of COPIED) await cp(join(folder, name), join(target, name), { recursive: true });
  const manifest = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
  const exports = { ".": { types: "./dist/index.d.ts", default: "./dist/index.js" } };
  await writeFile(join(target, "package.json"), `${JSON.stringify({ ...manifest, exports }, null, 2)}\n`);
}

async function compile(outDir: string): Promise<void> {
  const typescript = dirname(createRequire(import.meta.url).resolve("typescript/package.json"));
  const args = [join(typescript, "bin/tsc"), "--project", folder, "--outDir", outDir];
  await promisify(execFile)(process.execPath, args);
}

if (import.meta.main) {
  const [target] = process.argv.slice(2);
  if (target === undefined) throw new Error("stage.ts: expected the folder to write");
  await stage(resolve(target));
}
