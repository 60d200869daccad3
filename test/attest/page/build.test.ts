import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import { buildPage } from "../../../attest/page/build.ts";
import { pagePolicy } from "../../../attest/service/headers.ts";

const page = await buildPage();
const text = (name: string) => new TextDecoder().decode(page.get(name)?.bytes);

/** What is in it today, and a tenth more: a dependency that comes in by accident shows. */
const scriptCap = 310 << 10;

describe("the page as it is built", () => {
  it("has four files with their types", () => {
    expect([...page].map(([name, { type }]) => [name, type.split(";")[0]])).toEqual([
      ["index.html", "text/html"],
      ["page.js", "text/javascript"],
      ["page.css", "text/css"],
      ["icon.svg", "image/svg+xml"],
    ]);
  });

  it("I9: the verifier in it is the pure one: no module of Node, and small", () => {
    // A faster hash is asked for by name where there is a Node to ask; a browser has none, and nothing is imported.
    const script = text("page.js").replace('getBuiltinModule?.("node:crypto")', "");
    expect(script).not.toMatch(/["'`]node:/);
    expect(script).not.toMatch(/\brequire\(|\bimport\(|\bimport\s*[{"*]/);
    expect(page.get("page.js")?.bytes.length).toBeLessThan(scriptCap);
  });

  it("names no address outside: a namespace is the only one that stands in it", () => {
    for (const name of page.keys()) {
      const addresses = text(name).match(/https?:\/\/[\w.-]+[\w/.-]*/g) ?? [];
      const fetched = addresses.filter((address) => !isName(address));
      expect(fetched, name).toEqual([]);
    }
  });

  it("has nothing inline that its Content-Security-Policy would stop", () => {
    const html = text("index.html");
    expect(html).not.toMatch(/<style|\sstyle=|\son\w+=|javascript:/i);
    for (const [, inner] of html.matchAll(/<script[^>]*>([\s\S]*?)<\/script>/g)) expect(inner).toBe("");
    expect(text("page.css")).not.toMatch(/@import|url\(/);
  });

  it("is the same from build to build", async () => {
    const again = await buildPage();
    for (const [name, { bytes }] of page)
      expect(Buffer.from(again.get(name)?.bytes ?? []).equals(bytes), name).toBe(true);
  });

  it("I10: the policy that its README promises is the one that the service sends", () => {
    const readme = readFileSync(new URL("../../../attest/page/README.md", import.meta.url), "utf8");
    const [, promised = ""] = /Served with `([^`]+)`/.exec(readme) ?? [];
    expect(promised.split(/;\s+/)).toEqual(pagePolicy.split("; "));
  });
});

/** Names that look like addresses: of XML namespaces and JSON Schema dialects. Nothing loads them. */
function isName(address: string): boolean {
  return /^http:\/\/www\.w3\.org\/(?:2000\/svg|1999\/xhtml)$|^https?:\/\/json-schema\.org\//.test(address);
}
