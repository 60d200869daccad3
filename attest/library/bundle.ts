import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import type { BuildOptions, Plugin } from "esbuild";

/**
 * Leaves out what is never called. Zod comes as one object that drags in every locale; imported as a namespace, it is cut to the parts in
 * use. Only files of this project are changed, only in this one line, and only in the bundle.
 */
const zodAsNamespace: Plugin = {
  name: "zod-as-namespace",
  setup(context) {
    context.onLoad({ filter: /[/\\](?:policy|attest)[/\\].*\.ts$/ }, async ({ path }) => ({
      contents: (await readFile(path, "utf8")).replace('import { z } from "zod";', 'import * as z from "zod";'),
      loader: "ts",
    }));
    context.onLoad({ filter: /[/\\]zod[/\\]v4[/\\]locales[/\\]index\.js$/ }, () => ({ contents: "export {};" }));
  },
};

/** One ES module for browsers and anything from Node 20 on. A Node module below it ends the build: there is none in a browser. */
export const browserBundle = {
  absWorkingDir: resolve(import.meta.dirname, "../.."),
  bundle: true,
  platform: "browser",
  format: "esm",
  target: "es2022",
  charset: "utf8",
  legalComments: "none",
  plugins: [zodAsNamespace],
  logLevel: "silent",
} as const satisfies BuildOptions;
