import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { text } from "node:stream/consumers";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { buildVerifierLibrary } from "../../attest/library/build.ts";
import * as verifier from "../../attest/verifier.ts";
import { toHex } from "../../policy/index.ts";
import { makeSignedReport, type SignedReport } from "../support/signed-report.ts";

const run = promisify(execFile);
const root = resolve(import.meta.dirname, "../..");
const CHROMIUM = "/usr/bin/chromium-headless-shell";
/** The pinned one, and one that somebody else's machine has, where this machine has it: nobody's PATH decides. */
const NODES = [process.execPath, "/usr/bin/node"].filter(existsSync);

let directory = "";
let made: SignedReport;
let installed = "";

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "verifier-library-"));
  const built = join(directory, "build/verifier-library");
  await buildVerifierLibrary(built);
  const home = join(directory, "home");
  await mkdir(home);
  await writeFile(join(home, "package.json"), '{"private": true}\n');
  const npm = (...args: string[]) =>
    run("npm", [...args, "--offline", "--cache", join(directory, "cache")], { cwd: home });
  const { stdout } = await npm("pack", built, "--json");
  const [{ filename }] = Object.values(JSON.parse(stdout)) as [{ filename: string }];
  await npm("install", join(home, filename), "--ignore-scripts", "--no-audit", "--no-fund");
  installed = join(home, "node_modules");
  made = await makeSignedReport();
  for (const name of ["report", "enrolment", "anchors", "release"] as const)
    await writeFile(join(home, name), made[name]);
}, 120_000);
afterAll(() => rm(directory, { recursive: true, force: true }));

describe("the verifier's package", () => {
  test("is never made in the place of a folder that holds anything else", async () => {
    await expect(buildVerifierLibrary(join(directory, "home"))).rejects.toThrow("got another");
    expect(existsSync(join(directory, "home/package.json"))).toBe(true);
  });

  test("I10: is refused at once in a place that takes no folder", async () => {
    await expect(buildVerifierLibrary("/proc/x/verifier")).rejects.toThrow(
      new TypeError("folder /proc/x: expected a folder, or a place for one, got a place that takes none"),
    );
  });

  test("needs no other package, has the licences of what is in it, and the verifier's whole surface", async () => {
    expect(await readdir(installed)).toEqual([".package-lock.json", "ironclaw-verifier"]);
    const at = (name: string) => readFile(join(installed, "ironclaw-verifier", name), "utf8");
    const manifest = JSON.parse(await at("package.json"));
    expect(Object.keys(manifest)).not.toContain("dependencies");
    expect(await at("index.js")).not.toMatch(/[\s}*]from\s*"|require\(|import\(/);
    for (const name of ["zod", "@noble/hashes"]) expect(await at("THIRD-PARTY-LICENSES")).toContain(`${name}\n`);
    expect(await at("LICENSE")).toContain("Apache License");
    const library = await import(join(installed, "ironclaw-verifier/index.js"));
    expect(Object.keys(library).sort()).toEqual(Object.keys(verifier).sort());
  });

  test("inside the project the same module has a name of its own", async () => {
    const name = "ironclaw-guest-agent/verifier";
    expect(await import(name)).toBe(verifier);
  });

  test.each(NODES)("I9: its example verifies a report on %s, and refuses one for another nonce", async (node) => {
    const example = join(installed, "ironclaw-verifier/example.mjs");
    const judge = (nonce: string) =>
      run(node, [example, "report", nonce, "enrolment", "anchors", "release"], { cwd: join(directory, "home") });
    expect((await judge(toHex(made.challenge.nonce))).stdout).toMatch(/^affirming\nm1: affirming/);
    const refused = { code: 1, stdout: expect.stringMatching(/^refused\n.*extra-data/s) };
    await expect(judge("00".repeat(32))).rejects.toMatchObject(refused);
  });

  test("I9: its example verifies a report in a browser, and refuses one for another nonce", async () => {
    const nonces = [toHex(made.challenge.nonce), "00".repeat(32)];
    const [affirmed, refused] = await judgeInBrowser(join(installed, "ironclaw-verifier"), nonces);
    expect(affirmed).toMatchObject({ tier: "affirming", text: expect.stringMatching(/^m1: affirming/) });
    expect(refused).toMatchObject({ tier: "refused", text: expect.stringMatching(/extra-data/) });
  }, 60_000);

  test("its types are the sources' and need no other package", async () => {
    const project = join(directory, "home");
    const compilerOptions = {
      ...{ strict: true, exactOptionalPropertyTypes: true, noEmit: true, skipLibCheck: false, types: [] },
      ...{ target: "es2022", module: "nodenext", lib: ["es2023", "dom"] },
    };
    await writeFile(join(project, "tsconfig.json"), JSON.stringify({ compilerOptions, files: ["use.ts"] }));
    await writeFile(
      join(project, "use.ts"),
      [
        "import { appraise, type AppraisalPolicyDocument, type AttestationResult, type Enrolment, parseEvidence, type Release,",
        '  type VerifiedEvidence, verifyEvidence } from "ironclaw-verifier";',
        "type Same<A, B> = (<T>() => T extends A ? 1 : 2) extends <T>() => T extends B ? 1 : 2 ? true : false;",
        'export const tier: Same<AttestationResult["tier"], "affirming" | "warning" | "contraindicated"> = true;',
        'export const reboot: Same<AppraisalPolicyDocument["reboot"], "warn" | "accept" | "refuse"> = true;',
        'export const age: Same<AppraisalPolicyDocument["freshness"]["maxAgeSeconds"], number> = true;',
        'export const releases: Same<AppraisalPolicyDocument["releases"], "any" | string[]> = true;',
        'export const raise: Same<Release["raise"], string | null> = true;',
        'export const name: Same<Enrolment["name"], string> = true;',
        'export const pcrs: Same<Release["pcrs"]["sha256"], Record<string, string>> = true;',
        "// @ts-expect-error: only verifyEvidence makes one",
        'export const forged: VerifiedEvidence = { machine: "m" };',
        "// @ts-expect-error: a policy is read, not written down",
        "export const judged = appraise({} as VerifiedEvidence, [], { document: { version: 2 } }, { now: new Date() });",
        "export const verified = (bytes: Uint8Array, enrolment: Enrolment): Promise<VerifiedEvidence> =>",
        '  verifyEvidence(parseEvidence(bytes), { nonce: bytes, bank: "sha256", pcrs: [0] }, enrolment, null);',
        "",
      ].join("\n"),
    );
    const tsc = join(root, "node_modules/.bin/tsc");
    const { stdout } = await run(tsc, ["--project", project]).catch((error: { stdout: string }) => error);
    expect(stdout).toBe("");
  });

  test("a Node module below the verifier would end the build", async () => {
    const { build } = await import("esbuild");
    const failing = build({
      ...{ stdin: { contents: 'import "node:fs";', resolveDir: root }, bundle: true, write: false },
      ...{ platform: "browser", logLevel: "silent" },
    });
    await expect(failing).rejects.toThrow(/node:fs/);
  });
});

/** What the page runs. It sends back what the example said of each nonce, or why it could not run. */
const PAGE = `<!doctype html>
<script type="importmap">{"imports": {"ironclaw-verifier": "/index.js"}}</script>
<script type="module">
const read = async (path) => new Uint8Array(await (await fetch(path)).arrayBuffer());
const send = (answer) => fetch("/answer", { method: "POST", body: JSON.stringify(answer) });
try {
  const { judge } = await import("/example.mjs");
  const input = { report: await read("report"), enrolment: await read("enrolment"), anchors: await read("anchors") };
  const releases = [await read("release")];
  const nonces = await (await fetch("/nonces")).json();
  await send(await Promise.all(nonces.map((nonce) => judge({ ...input, releases, nonce, challenged: new Date() }))));
} catch (error) {
  await send([String(error)]);
}
</script>`;

/** Chromium loads the page from the loopback address, which is a secure context, and answers by a request. */
async function judgeInBrowser(folder: string, nonces: readonly string[]): Promise<readonly unknown[]> {
  const files = new Map<string, Uint8Array>([["/nonces", Buffer.from(JSON.stringify(nonces))]]);
  for (const name of ["report", "enrolment", "anchors", "release"] as const) files.set(`/${name}`, made[name]);
  for (const name of ["index.js", "example.mjs"]) files.set(`/${name}`, await readFile(join(folder, name)));
  const answered = Promise.withResolvers<readonly unknown[]>();
  const server = createServer(async (request, response) => {
    const { url = "" } = request;
    const body = await text(request);
    response.setHeader("content-type", url.endsWith("js") ? "text/javascript" : "text/html");
    response.end(files.get(url) ?? PAGE);
    if (url === "/answer") answered.resolve(JSON.parse(body));
  });
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
  const { port } = server.address() as AddressInfo;
  const profile = `--user-data-dir=${join(directory, "profile")}`;
  const options = ["--no-sandbox", "--remote-debugging-port=0", profile, `http://127.0.0.1:${port}/`];
  const browser = spawn(CHROMIUM, options, { stdio: "ignore", detached: true });
  browser.on("close", (code) => answered.reject(new Error(`the browser ended with ${code}`)));
  try {
    return await answered.promise;
  } finally {
    const closed = once(browser, "close");
    // With all that it has started: it leads a group of its own.
    if (browser.pid !== undefined) process.kill(-browser.pid, "SIGKILL");
    await closed;
    server.closeAllConnections();
    await new Promise<void>((done) => server.close(() => done()));
  }
}
