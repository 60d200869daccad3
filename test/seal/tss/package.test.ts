import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { Tpm } from "node-tpm2-tss";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { apiReference } from "../../../seal/node-tpm2-tss/scripts/api.ts";
import { stage } from "../../../seal/node-tpm2-tss/scripts/stage.ts";
import { root } from "./fixture.ts";

const run = promisify(execFile);
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

describe("the package as it is published, in an empty folder", () => {
  const started: { application?: string } = {};
  const at = (name: string) => join(started.application ?? "", name);
  beforeAll(async () => {
    started.application = await mkdtemp(join(tmpdir(), "tss-example-"));
    await stage(at("staged"));
    await run("npm", ["pack", at("staged"), "--pack-destination", at("."), "--offline", "--silent"], { cwd: at(".") });
    await mkdir(at("node_modules"));
    await run("tar", ["-xzf", at("node-tpm2-tss-0.1.0.tgz"), "-C", at("node_modules")]);
    await run("mv", [at("node_modules/package"), at("node_modules/node-tpm2-tss")]);
  });
  afterAll(async () => {
    // When the example failed, its TPM was not stopped; when it did not, there is no such file or no such process.
    await run("kill", [
      await readFile(at("pid"), "utf8").then(
        (pid) => pid.trim(),
        () => "",
      ),
    ]).catch(() => undefined);
    await rm(at("."), { recursive: true, force: true });
  });

  test("it contains what it needs and nothing else", async () => {
    const files = (await readdir(at("node_modules/node-tpm2-tss"), { recursive: true })).filter((name) =>
      name.includes("."),
    );
    expect(files).toContain("dist/index.d.ts");
    expect(files.filter((name) => !/^(dist\/\w+\.(js|d\.ts)|native\/[\w-]+\.[ch])$/.test(name)).sort()).toEqual([
      "API.md",
      "README.md",
      "binding.gyp",
      "package.json",
    ]);
  });

  test("the README's example runs word for word", async () => {
    const blocks = [...(await read("README.md")).matchAll(/^```(sh|ts)\n(.*?)^```$/gms)];
    const [build, start, example, use] = blocks.map(([, , code]) => code ?? "");
    expect(blocks.map(([, language]) => language)).toEqual(["sh", "sh", "ts", "sh"]);
    await writeFile(at("package.json"), '{ "type": "module" }\n');
    await writeFile(at("example.ts"), example ?? "");
    const shell = (script: string | undefined) => run("sh", ["-euc", script ?? "false"], { cwd: at(".") });
    // The `node` of this test, with the headers beside it.
    await shell(build);
    await shell(start);
    const { stdout, stderr } = await shell(use);
    expect(stderr).toBe("");
    expect(stdout.split("\n")).toEqual([
      expect.stringMatching(/^sha256 [0-9a-f]{16}$/),
      expect.stringMatching(/^quote \d+ bytes, signed by 000b[0-9a-f]{12}$/),
      "hello",
      expect.stringMatching(/^tpm UnsealToFd: tpm:session\(1\):a policy check failed \(0x99d\)$/),
      "",
    ]);
  });

  test("the example type-checks against the published declarations", async () => {
    const require = createRequire(import.meta.url);
    const tsc = join(dirname(require.resolve("typescript/package.json")), "bin/tsc");
    const types = ["--typeRoots", join(root, "node_modules/@types"), "--types", "node"];
    const options = [
      "--noEmit",
      "--strict",
      "--exactOptionalPropertyTypes",
      "--module",
      "nodenext",
      "--target",
      "esnext",
    ];
    await writeFile(at("package.json"), '{ "type": "module" }\n');
    await run(process.execPath, [tsc, ...options, ...types, at("example.ts")], { cwd: at(".") });
  });
});
