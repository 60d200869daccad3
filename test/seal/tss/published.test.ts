import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { stage } from "../../../seal/node-tpm2-tss/scripts/stage.ts";
import { root } from "./fixture.ts";

const run = promisify(execFile);

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
    const blocks = [
      ...(await readFile(join(root, "seal", "node-tpm2-tss", "README.md"), "utf8")).matchAll(
        /^```(sh|ts)\n(.*?)^```$/gms,
      ),
    ];
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
