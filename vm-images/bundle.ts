import { basename, join, resolve } from "node:path";
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

/** What needs a checkout, and so is in no package: building images, and the verifier service with its page. */
const CHECKOUT_ONLY = /agent\/cli\/(?:image-build|verifier-[a-z]+)\.ts$/;

const withoutCheckout: Plugin = {
  name: "without-checkout",
  setup(context) {
    context.onLoad({ filter: CHECKOUT_ONLY }, () => ({
      loader: "ts",
      contents: `export const command = { summary: "not part of this package: run it from a checkout", positionals: [], options: {}, examples: [],
        run: async (_, io) => { io.complain("not part of this package: run it from a checkout"); return 2; } };`,
    }));
  },
};

/**
 * The `ironclaw` command as ES modules of one directory, by file name: each subcommand is loaded only when it is asked for.
 * @param programs the directory of the native parts where the command will run
 */
export async function bundleCommand(programs: string): Promise<ReadonlyMap<string, Uint8Array>> {
  const result = await build({
    entryPoints: [join(root, "agent/cli/ironclaw.ts")],
    absWorkingDir: root,
    bundle: true,
    splitting: true,
    platform: "node",
    target: "node26",
    format: "esm",
    minifySyntax: true,
    outdir: "cli",
    define: { IRONCLAW_PROGRAMS: JSON.stringify(programs) },
    // Packages in the older form call `require`, which an ES module does not have.
    banner: {
      js: 'import { createRequire as requireFrom } from "node:module"; const require = requireFrom(import.meta.url);',
    },
    plugins: [withoutCheckout, addonsBesideBundle],
    logLevel: "silent",
    write: false,
  });
  return new Map(result.outputFiles.map(({ path, contents }) => [basename(path), contents]));
}

/**
 * Bundle a TypeScript program and all it imports into one CommonJS text for the guest's Node. File names in the text
 * are relative to the project, so the folder it is built in does not show.
 */
export async function bundleProgram(entry: string): Promise<Uint8Array> {
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
  });
  const [output] = result.outputFiles;
  if (output === undefined) throw new ImageError("ERR_IMAGE_SOURCE", `bundle of ${entry}: no output`);
  return output.contents;
}
