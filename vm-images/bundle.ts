import { resolve } from "node:path";
import { build, type Plugin } from "esbuild";
import { ImageError } from "./errors.ts";

const root = resolve(import.meta.dirname, "..");

/** Add-ons lie next to the bundle in the guest, whatever relative path a package loads them by. */
const addonsBesideBundle: Plugin = {
  name: "addons-beside-bundle",
  setup(context) {
    context.onResolve({ filter: /\.node$/ }, ({ path }) => ({
      path: `./${path.split("/").at(-1)}`,
      external: true,
    }));
  },
};

export interface Bundle {
  readonly bytes: Uint8Array;
  /** npm packages of which some file is in it, sorted. */
  readonly packages: readonly string[];
}

/** The text of {@link bundleWithPackages} alone. */
export async function bundleProgram(entry: string): Promise<Uint8Array> {
  return (await bundleWithPackages(entry)).bytes;
}

/**
 * Bundle a TypeScript program and all it imports into one CommonJS text for the guest's Node. File names in the text
 * are relative to the project, so the folder it is built in does not show.
 */
export async function bundleWithPackages(entry: string): Promise<Bundle> {
  const result = await build({
    entryPoints: [entry],
    absWorkingDir: root,
    bundle: true,
    platform: "node",
    target: "node26",
    format: "cjs",
    minifySyntax: true,
    // A bundle is a plain script: what ES modules know about themselves is given by Node's own variables.
    define: {
      "import.meta.url": "__filename",
      "import.meta.dirname": "__dirname",
    },
    plugins: [addonsBesideBundle],
    logLevel: "silent",
    write: false,
    metafile: true,
  });
  const [output] = result.outputFiles;
  if (output === undefined) throw new ImageError("ERR_IMAGE_SOURCE", `bundle of ${entry}: no output`);
  const packages = Object.keys(result.metafile.inputs).flatMap((path) => packageOf(path) ?? []);
  return { bytes: output.contents, packages: [...new Set(packages)].sort() };
}

/** The innermost one: `node_modules/@noble/hashes/sha2.js` is of `@noble/hashes`. */
function packageOf(path: string): string | undefined {
  return /.*node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path)?.[1];
}
