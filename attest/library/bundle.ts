import { resolve } from "node:path";
import type { BuildOptions, Plugin } from "esbuild";

/** Leaves out what is never called: zod's texts in every language but its own. */
const withoutLocales: Plugin = {
  name: "without-locales",
  setup(context) {
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
  plugins: [withoutLocales],
  logLevel: "silent",
} as const satisfies BuildOptions;
