import { readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { build, type Plugin } from "esbuild";

/** One file of the page, as a server sends it. */
export interface PageFile {
  readonly type: string;
  readonly bytes: Uint8Array;
}

const folder = import.meta.dirname;
const root = resolve(folder, "../..");

/**
 * Leaves out what the page never calls. Zod comes as one object that drags in every locale; imported as a namespace, it is
 * cut to the parts in use. Only files of this project are changed, only in this one line, and only in the bundle.
 */
const smallZod: Plugin = {
  name: "small-zod",
  setup(context) {
    context.onLoad({ filter: /[/\\](?:policy|attest)[/\\].*\.ts$/ }, async ({ path }) => {
      const source = await readFile(path, "utf8");
      return { contents: source.replace('import { z } from "zod";', 'import * as z from "zod";'), loader: "ts" };
    });
    context.onLoad({ filter: /[/\\]zod[/\\]v4[/\\]locales[/\\]index\.js$/ }, () => ({ contents: "export {};" }));
  },
};

/**
 * The page's files by name: `index.html`, `page.js`, `page.css`, `icon.svg`. Deterministic, and complete: none of them
 * names an address outside, so they work under the Content-Security-Policy that the service sends (`../service/headers.ts`).
 */
export async function buildPage(): Promise<ReadonlyMap<string, PageFile>> {
  const [html, script, style, icon] = await Promise.all([
    readFile(join(folder, "index.html")),
    bundle("main.ts"),
    bundle("page.css"),
    readFile(join(folder, "icon.svg")),
  ]);
  return new Map([
    ["index.html", { type: "text/html; charset=utf-8", bytes: html }],
    ["page.js", { type: "text/javascript; charset=utf-8", bytes: script }],
    ["page.css", { type: "text/css; charset=utf-8", bytes: style }],
    ["icon.svg", { type: "image/svg+xml", bytes: icon }],
  ]);
}

async function bundle(entry: string): Promise<Uint8Array> {
  const result = await build({
    entryPoints: [join(folder, entry)],
    absWorkingDir: root,
    bundle: true,
    platform: "browser",
    format: "esm",
    target: "es2022",
    charset: "utf8",
    legalComments: "none",
    minify: true,
    plugins: [smallZod],
    logLevel: "silent",
    write: false,
  });
  const [output] = result.outputFiles;
  if (output === undefined) throw new Error(`page: no output for ${entry}`);
  return output.contents;
}
