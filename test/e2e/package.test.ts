import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { buildDebianPackage, type DebianPackage } from "../../vm-images/debian-package.ts";
import { sha256File } from "../../vm-images/digest.ts";
import { Progress } from "../../vm-images/story/progress.ts";
import { PLACES } from "../../vm-images/story/story.ts";

const directory = mkdtempSync(join(tmpdir(), "package-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));
let shown = "";
const progress = new Progress({
  write: (text) => {
    shown += text;
    return true;
  },
});
const build = (name: string) =>
  buildDebianPackage({ outDirectory: join(directory, name), cacheDirectory: PLACES.cache, progress });

let built: DebianPackage;
beforeAll(async () => {
  built = await build("one");
});

describe("the Debian package", () => {
  it("I12: is the same bit for bit when it is built in another folder, under another umask, time zone and locale", async () => {
    const umask = process.umask(0o077);
    const { TZ, LANG } = process.env;
    Object.assign(process.env, { TZ: "Pacific/Kiritimati", LANG: "de_DE.UTF-8" });
    try {
      const again = await build("two-with-a-longer-name");
      expect(await sha256File(again.path)).toBe(await sha256File(built.path));
    } finally {
      process.umask(umask);
      Object.assign(process.env, { TZ: TZ ?? "", LANG: LANG ?? "" });
    }
  });

  it("I4: holds no key, token, cabinet or set-uid file, and everything belongs to root", () => {
    const list = execFileSync("dpkg-deb", ["--contents", built.path], { encoding: "utf8" }).trim().split("\n");
    expect(list.length).toBeGreaterThan(30);
    for (const line of list) {
      expect(line, "owner").toMatch(/^[d-][rwx-]{9} root\/root /);
      expect(line, "mode").not.toMatch(/^.{3}[sS]|^.{6}[sS]|^.{5}w|^.{8}w/);
      expect(line).not.toMatch(/\.pem$|\.key$|cabinet\.img|libsofthsm/);
    }
  });

  it("says while it is made what is being done", () => {
    for (const step of ["native parts", "Node, agent and command", "package"])
      expect(shown).toMatch(new RegExp(`s\\]  ${step} \\.\\.\\.\n[\\s\\S]*s\\]  ${step}: done in [0-9.]+ s\n`));
  });

  it("its command runs on the package's own Node, and says what it leaves to a checkout", () => {
    const programs = join(built.tree, "usr/lib/ironclaw");
    const ironclaw = (...args: string[]) =>
      spawnSync(join(programs, "node"), [join(programs, "cli/ironclaw.js"), ...args], { encoding: "utf8", env: {} });
    expect(ironclaw("--help")).toMatchObject({ status: 0, stderr: "" });
    expect(ironclaw("profile", "explain", "local")).toMatchObject({ status: 0, stderr: "" });
    for (const words of [
      ["image", "build", "--variant", "release", "--out", "image"],
      ["image", "lock", "my-image"],
      ["verifier", "serve"],
    ])
      expect(ironclaw(...words)).toMatchObject({ status: 2, stderr: expect.stringContaining("from a checkout") });
  });

  it.each([
    ["a user's number", "passwd:990:daemon2"],
    ["a group's number", "group:992:other"],
    ["a user's name under another number", "passwd:ironclaw-shim:x:500"],
  ])("I5: is not installed where somebody else has %s", (_, taken) => {
    const control = join(directory, "control");
    execFileSync("dpkg-deb", ["--control", built.path, control]);
    // Stands in for the databases of users and groups: DATABASE:KEY:ANSWER, where the answer is a name, or more fields.
    const bin = join(directory, "bin");
    mkdirSync(bin, { recursive: true });
    const script = `#!/bin/sh\ncase "$1:$2" in "$DATABASE:$KEY") echo "$ANSWER";; esac\n`;
    writeFileSync(join(bin, "getent"), script, { mode: 0o755 });
    const [DATABASE = "", KEY = "", ...rest] = taken.split(":");
    const ANSWER = rest.length === 1 ? `${rest[0]}:x:${KEY}` : `${KEY}:${rest.join(":")}`;
    const install = (variables: Readonly<Record<string, string>>, act = "install") =>
      spawnSync("sh", [join(control, "preinst"), act], {
        encoding: "utf8",
        env: { PATH: `${bin}:${process.env["PATH"]}`, ...variables },
      });
    expect(install({ DATABASE, KEY, ANSWER })).toMatchObject({
      status: 1,
      stderr: expect.stringContaining("refusing"),
    });
    expect(install({ DATABASE: "none" })).toMatchObject({ status: 0, stderr: "" });
    const ours = { DATABASE: "passwd", KEY: "990", ANSWER: "ironclaw:x:990" };
    expect(install(ours, "upgrade")).toMatchObject({ status: 0, stderr: "" });
    rmSync(control, { recursive: true });
  });
});
