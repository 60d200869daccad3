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

/** Modules that are loaded for what they do. */
const DOES = /\/no-eval\.ts$/;

/** Any other module of the project is left out where nothing is taken from it, and with it what it would do when it is loaded. */
const usedModules: Plugin = {
  name: "used-modules",
  setup(context) {
    context.onResolve({ filter: /^\.{1,2}\/.*\.ts$/ }, ({ path, resolveDir, kind }) =>
      kind === "entry-point" ? undefined : { path: resolve(resolveDir, path), sideEffects: DOES.test(path) },
    );
  },
};

/** Of the metrics' package what keeps and prints them; its other parts watch this process and push to servers, and take as long to load. */
const metricsAlone: Plugin = {
  name: "metrics-alone",
  setup(context) {
    context.onResolve({ filter: /^prom-client$/ }, () => ({ path: "prom-client", namespace: "metrics" }));
    context.onLoad({ filter: /.*/, namespace: "metrics" }, () => ({
      resolveDir: root,
      contents: ["Counter", "Gauge", "Histogram", "Registry"]
        .map((name) => `exports.${name} = require("prom-client/lib/${name.toLowerCase()}");`)
        .join("\n"),
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

/** What needs a checkout, and so is in no package: building images, locking their packages, and the verifier service with its page. */
const CHECKOUT_ONLY = /agent\/cli\/(?:image-build|image-lock|verifier-[a-z]+)\.ts$/;

const withoutCheckout: Plugin = {
  name: "without-checkout",
  setup(context) {
    context.onLoad({ filter: CHECKOUT_ONLY }, () => ({
      loader: "ts",
      contents: `import { UsageError } from "./command.ts";
        export const command = { summary: "not part of this package: run it from a checkout", positionals: [], options: {}, examples: [], absent: true,
          run: () => Promise.reject(new UsageError("command", { expected: "a checkout", got: "the package", hint: "run it from a checkout" })) };`,
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
    plugins: [usedModules, metricsAlone, addonsBesideBundle],
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
