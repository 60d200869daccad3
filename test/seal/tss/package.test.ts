import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { Tpm } from "node-tpm2-tss";
import { describe, expect, test } from "vitest";
import { apiReference } from "../../../seal/node-tpm2-tss/scripts/api.ts";
import { root } from "./fixture.ts";

const folder = join(root, "seal", "node-tpm2-tss");
const read = (name: string) => readFile(join(folder, name), "utf8");

/** Methods of `Tpm` and of the groups that it extends. */
function methods(): readonly string[] {
  const names: string[] = [];
  for (let group = Tpm.prototype; group !== Object.prototype; group = Object.getPrototypeOf(group)) {
    names.push(...Object.getOwnPropertyNames(group));
  }
  const shared = ["constructor", "run", "nvBufferMax"]; // protected in TypeScript
  return [...new Set(names)].filter((name) => !shared.includes(name)).sort();
}

describe("the documents are in sync with the source", () => {
  test("API.md is what scripts/api.ts writes of the docstrings", async () => {
    expect(await read("API.md")).toBe(await apiReference());
  });

  test("every method has a docstring, and a place in the README's table", async () => {
    const [api, readme] = [await read("API.md"), await read("README.md")];
    const table = readme.slice(readme.indexOf("## Commands"), readme.indexOf("## Secrets"));
    for (const method of methods()) {
      expect(api, method).toMatch(new RegExp(`^#### ${method}\n\n[A-Z\`]`, "m"));
      expect(table, method).toMatch(new RegExp(`\`(Tpm\\.)?${method}\``));
    }
  });

  test("binding.gyp lists every C file", async () => {
    const gyp = await read("binding.gyp");
    const sources = (await readdir(join(folder, "native"))).filter((name) => name.endsWith(".c")).sort();
    expect([...gyp.matchAll(/"native\/([^"]+)"/g)].map(([, name]) => name)).toEqual(sources);
  });

  test("every command of the addon has a method that sends it, and no method sends another", async () => {
    const texts = async (sub: string, ending: string) => {
      const names = (await readdir(join(folder, sub))).filter((name) => name.endsWith(ending));
      return (await Promise.all(names.map((name) => read(join(sub, name))))).join("\n");
    };
    const quoted = (text: string, pattern: RegExp) =>
      [...new Set([...text.matchAll(pattern)].map(([, name]) => name))].sort();
    const commands = quoted(await texts("native", ".c"), /^ {4}\{"(\w+)", "[nb]*", run_/gm);
    const sent = quoted(await texts("src", ".ts"), /(?:run\(\s*|command: |\| |Release = )"([A-Z]\w+)"/g);
    expect(sent).toEqual(commands);
    expect(commands.length).toBeGreaterThan(60);
  });
});

test("I4: no source of the agent unseals through the binding: that is the unsealer's, in C", async () => {
  const isSource = (name: string) => /\.[cm]?[jt]s$/.test(name) && !name.startsWith("node-tpm2-tss/");
  for (const part of ["agent", "attest", "policy", "seal"]) {
    for (const name of (await readdir(join(root, part), { recursive: true })).filter(isSource)) {
      expect(await readFile(join(root, part, name), "utf8"), `${part}/${name}`).not.toMatch(/\.\s*unseal(ToFd)?\s*\(/);
    }
  }
});
