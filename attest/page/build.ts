import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { build } from "esbuild";
import { browserBundle } from "../library/bundle.ts";

/** One file of the page, as a server sends it. */
export interface PageFile {
  readonly type: string;
  readonly bytes: Uint8Array;
}

const folder = import.meta.dirname;

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
    ...browserBundle,
    entryPoints: [join(folder, entry)],
    minify: true,
    write: false,
  });
  const [output] = result.outputFiles;
  if (output === undefined) throw new Error(`page: no output for ${entry}`);
  return output.contents;
}
