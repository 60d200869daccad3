import { existsSync } from "node:fs";

export interface PageFile {
  readonly type: string;
  readonly bytes: Uint8Array;
}
/** By name: `index.html` and what it loads from beside it. */
export type Page = ReadonlyMap<string, PageFile>;

/** What `/` says where the page cannot be built, as in an installation without its sources or without esbuild. */
export const plainPage: Page = new Map([
  [
    "index.html",
    {
      type: "text/plain; charset=utf-8",
      bytes: new TextEncoder().encode("ironclaw verifier: /v1/openapi.json describes the interface\n"),
    },
  ],
]);

/** Builds the page of `attest/page`, or gives the plain line. Loaded only here: the service works without it. */
export async function loadPage(complain: (problem: string) => void): Promise<Page> {
  const program = new URL("../page/build.ts", import.meta.url);
  if (!existsSync(program)) return plainPage;
  try {
    const { buildPage } = (await import(program.href)) as { buildPage(): Promise<Page> }; // the page's own contract
    return await buildPage();
  } catch (error) {
    complain(error instanceof Error ? error.message : "the page cannot be built");
    return plainPage;
  }
}
