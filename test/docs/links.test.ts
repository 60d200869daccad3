import { existsSync, statSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { describe, expect, test } from "vitest";
import { documents, readDocument, root } from "./documents.ts";

/** As GitHub makes them of a heading. */
function anchorOf(heading: string): string {
  const text = heading.replaceAll(/\[([^\]]*)\]\([^)]*\)/g, "$1").replaceAll("`", "");
  return text
    .toLowerCase()
    .replaceAll(/[^\p{L}\p{N} _-]/gu, "")
    .trim()
    .replaceAll(" ", "-");
}

function anchorsIn(document: string): ReadonlySet<string> {
  const headings = readDocument(document)
    .replaceAll(/^```[\s\S]*?^```/gm, "")
    .matchAll(/^#+ (.*)$/gm);
  return new Set([...headings].map(([, heading = ""]) => anchorOf(heading)));
}

function brokenLinks(document: string): readonly string[] {
  const text = readDocument(document)
    .replaceAll(/^```[\s\S]*?^```/gm, "")
    .replaceAll(/`[^`\n]*`/g, "");
  return [...text.matchAll(/\]\(([^)\s]+)\)/g)].flatMap(([, target = ""]) => {
    if (/^[a-z]+:/.test(target)) return [];
    const [path = "", anchor] = target.split("#");
    const file = path === "" ? document : normalize(join(dirname(document), path));
    if (!existsSync(join(root, file))) return [`${document}: ${target}: no such file`];
    if (anchor === undefined || !statSync(join(root, file)).isFile() || !file.endsWith(".md")) return [];
    return anchorsIn(file).has(anchor) ? [] : [`${document}: ${target}: no such heading`];
  });
}

describe("documents", () => {
  test("every link of every document leads to a file and a heading that are there", () => {
    expect(documents().flatMap(brokenLinks)).toEqual([]);
  });

  test("every file that GUARDS.md names is there", () => {
    const named = readDocument("test/GUARDS.md").matchAll(/`([\w./-]+\.(?:ts|c|h))`/g);
    const missing = [...named].flatMap(([, file = ""]) =>
      ["", "test"].some((folder) => existsSync(join(root, folder, file))) ? [] : [file],
    );
    expect(missing).toEqual([]);
  });

  test("every document is reached from README.md by links", () => {
    const all = documents();
    const reached = new Set(["README.md"]);
    for (const document of reached) for (const target of linkedFrom(document, all)) reached.add(target);
    // The repository's host shows these by itself.
    expect(all.filter((document) => !reached.has(document) && !document.startsWith(".github/"))).toEqual([]);
  });

  test("the index of decisions has every one with its title", () => {
    const index = readDocument("agent/docs/decisions/README.md");
    for (const document of documents().filter((path) => /decisions\/\d{4}-/.test(path))) {
      const [, number = "", title = ""] = /^# 0*(\d+)[.:] (.*)$/m.exec(readDocument(document)) ?? [];
      const row = `| [${number.padStart(4, "0")}](${document.split("/").at(-1)}) | ${title.slice(0, 1).toUpperCase()}${title.slice(1)} |`;
      expect(index.split("\n")).toContain(row);
    }
  });

  test("the map of the documents names every page of agent/docs", () => {
    const named = new Set(linkedFrom("agent/docs/README.md", documents()));
    const pages = documents().filter(
      (document) => /^agent\/docs\/[^/]+$/.test(document) && document !== "agent/docs/README.md",
    );
    expect(pages.filter((page) => !named.has(page))).toEqual([]);
  });
});

/** Documents that a document links to. A folder is its README, or all in it where it has none. */
function linkedFrom(document: string, all: readonly string[]): readonly string[] {
  const targets = [...readDocument(document).matchAll(/\]\(([^)#\s]+)/g)].map(([, path = ""]) =>
    normalize(join(dirname(document), path)).replace(/\/$/, ""),
  );
  return targets.flatMap((target) => {
    if (all.includes(target)) return [target];
    const readme = `${target}/README.md`;
    return all.includes(readme) ? [readme] : all.filter((other) => other.startsWith(`${target}/`));
  });
}
