// node attest/library/build.ts [DIRECTORY]: makes the verifier a package of its own, without dependencies. See README.md.
import { execFile } from "node:child_process";
import { cp, mkdtemp, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { dirname, join, relative, resolve } from "node:path";
import { promisify } from "node:util";
import { build } from "esbuild";
import type { ErrorFields } from "../../policy/index.ts";
import { makeDirectory } from "../service/make-directory.ts";
import { browserBundle } from "./bundle.ts";

const run = promisify(execFile);
const root = resolve(import.meta.dirname, "../..");
const NAME = "ironclaw-verifier";
const USAGE =
  "usage: npm run library -- [DIRECTORY]\n\nMakes the verifier a package there (default build/verifier-library).";

/** One ES module for anything from Node 20 on, and browsers of its time. @returns names of the packages that are in it */
async function bundle(directory: string): Promise<readonly string[]> {
  const { metafile } = await build({
    ...browserBundle,
    entryPoints: ["attest/verifier.ts"],
    outfile: join(directory, "index.js"),
    metafile: true,
  });
  const packages = Object.keys(metafile.inputs).flatMap((path) => {
    const [, name] = /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path) ?? [];
    return name === undefined ? [] : [name];
  });
  return [...new Set(packages)].sort();
}

/** Declarations of the verifier and all it names. They import no package: `zod.d.ts` says what a schema's value is. */
async function declare(directory: string): Promise<void> {
  const types = join(directory, "types");
  const project = join(root, "attest/library/tsconfig.json");
  await run(join(root, "node_modules/.bin/tsc"), ["--project", project, "--outDir", types]);
  await cp(join(root, "attest/library/zod-types.d.ts"), join(types, "zod.d.ts"));
  for (const name of await readdir(types, { recursive: true })) {
    if (!name.endsWith(".d.ts") || name === "zod.d.ts") continue;
    const path = join(types, name);
    const zod = relative(dirname(path), join(types, "zod.js"));
    const text = (await readFile(path, "utf8"))
      .replaceAll(/(from\s+"\.{1,2}\/[^"]+)\.ts"/g, '$1.js"')
      .replaceAll('from "zod"', `from "${zod.startsWith(".") ? zod : `./${zod}`}"`);
    await writeFile(path, text);
  }
  await writeFile(join(directory, "index.d.ts"), 'export * from "./types/attest/verifier.js";\n');
}

/** The licences of what was bundled go along, as they ask. */
async function describe(directory: string, packages: readonly string[]): Promise<void> {
  const { version, license } = JSON.parse(await readFile(join(root, "package.json"), "utf8"));
  const manifest = {
    ...{ name: NAME, version, license, type: "module", sideEffects: false },
    description: "Verifies and judges reports of IronClaw machines: TPM quotes, event logs, signed releases",
    engines: { node: ">=20" },
    exports: { ".": { types: "./index.d.ts", default: "./index.js" }, "./package.json": "./package.json" },
    files: ["index.js", "index.d.ts", "types", "example.mjs", "THIRD-PARTY-LICENSES"],
  };
  await writeFile(join(directory, "package.json"), `${JSON.stringify(manifest, null, 2)}\n`);
  await cp(join(root, "LICENSE"), join(directory, "LICENSE"));
  for (const name of ["README.md", "example.mjs"]) await cp(join(root, "attest/library", name), join(directory, name));
  const licences = packages.map(async (name) => {
    const text = await readFile(join(root, "node_modules", name, "LICENSE"), "utf8");
    return `${name}\n\n${text.trim()}\n`;
  });
  await writeFile(join(directory, "THIRD-PARTY-LICENSES"), (await Promise.all(licences)).join("\n\n"));
}

/** A folder that is named by a slip of the hand is not thrown away. */
async function requireReplaceable(directory: string): Promise<void> {
  const present = await readdir(directory).catch(() => []);
  const manifest = await readFile(join(directory, "package.json"), "utf8").catch(() => "{}");
  if (present.length === 0 || JSON.parse(manifest).name === NAME) return;
  throw new TypeError(`${directory}: expected a new or an empty folder, or an earlier ${NAME}, got another`);
}

/**
 * Makes the package in `directory`: all of it or, where something fails, nothing. An earlier one is replaced.
 * @throws TypeError for a folder with anything else in it, and where none can be made
 */
export async function buildVerifierLibrary(directory: string): Promise<void> {
  await requireReplaceable(directory);
  const refusal = (what: string, { expected, got }: ErrorFields) =>
    new TypeError(`${what}: expected ${expected}, got ${got}`);
  await makeDirectory({ path: dirname(directory), mode: 0o777, refusal });
  const fresh = await mkdtemp(`${directory}.`);
  try {
    const packages = await bundle(fresh);
    await declare(fresh);
    await describe(fresh, packages);
    await rm(directory, { recursive: true, force: true });
    await rename(fresh, directory);
  } finally {
    await rm(fresh, { recursive: true, force: true });
  }
}

async function main([given = join(root, "build/verifier-library"), ...more]: readonly string[]): Promise<void> {
  if (given === "--help") return console.log(USAGE);
  try {
    if (given.startsWith("-") || more.length > 0) throw new TypeError(USAGE);
    await buildVerifierLibrary(resolve(given));
    console.log(resolve(given));
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    console.error(error.message);
    process.exitCode = 2;
  }
}

if (import.meta.main) await main(process.argv.slice(2));
