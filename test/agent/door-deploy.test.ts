import { execFile } from "node:child_process";
import {
  chmodSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

const run = promisify(execFile);
const DEPLOY = resolve(import.meta.dirname, "../../agent/p11kit/deploy");
const PROFILES = resolve(import.meta.dirname, "../../policy/runtime");
const PACKAGE = resolve(import.meta.dirname, "../../vm-images/debian");

let directory: string;
beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "deploy-"));
  chmodSync(directory, 0o755);
});
afterAll(() => rmSync(directory, { recursive: true }));

describe("what a package takes from here", () => {
  it("I6: systemd accepts the units, and each socket is one scope's, known by its name", async () => {
    // The units as a package would have them, with the programs that they start in place.
    const root = join(directory, "root");
    const units = join(root, "usr/lib/systemd/system");
    for (const path of [units, join(root, "usr/lib/ironclaw"), join(root, "usr/bin")])
      mkdirSync(path, { recursive: true });
    for (const program of ["lib/ironclaw/spawner", "lib/ironclaw/node", "bin/install", "bin/udevadm"]) {
      writeFileSync(join(root, "usr", program), "#!/bin/sh\n");
      chmodSync(join(root, "usr", program), 0o755);
    }
    for (const name of ["ironclaw-scope@.socket", "ironclaw-agent.service"])
      copyFileSync(join(DEPLOY, name), join(units, name));
    copyFileSync(join(PACKAGE, "ironclaw-cap.service"), join(units, "ironclaw-cap.service"));
    const verify = ["--man=no", "--generators=no", "--recursive-errors=no", `--root=${root}`, "verify"];
    const named = ["ironclaw-scope@release-signing.socket", "ironclaw-agent.service", "ironclaw-cap.service"];
    const { stdout, stderr } = await run("systemd-analyze", [...verify, ...named]);
    expect(stdout + stderr).toBe("");
    const socket = readFileSync(join(units, "ironclaw-scope@.socket"), "utf8");
    expect(socket).toMatch(/^ListenStream=\/run\/ironclaw\/scopes\/%i\.sock$/m);
    expect(socket).toMatch(/^FileDescriptorName=%i\.sock$/m);
    await expect(run("systemd-analyze", [...verify, "ironclaw-none.socket"]), "what is not there").rejects.toThrow();
  });

  it("I5: the unit's filter has no call that a shim's filter watches: it would answer first, and the attempt would not be seen", async () => {
    const unit = readFileSync(join(DEPLOY, "ironclaw-agent.service"), "utf8");
    const sets = /^SystemCallFilter=~(.*)$/m.exec(unit)?.[1]?.split(" ") ?? [];
    expect(sets.length).toBeGreaterThan(0);
    const { stdout } = await run("systemd-analyze", ["syscall-filter", "--no-pager", ...sets]);
    const denied = stdout.split("\n").map((line) => line.trim());
    expect(denied).toContain("clock_settime");
    expect(
      denied.filter((line) => line.startsWith("@") && !sets.includes(line)),
      "no set in a set",
    ).toEqual([]);
    for (const profile of ["local", "usb", "relay"]) {
      const text = readFileSync(resolve(PROFILES, `${profile}.profile`), "utf8");
      const watched = [...text.matchAll(/^watch (.*)$/gm)].flatMap(([, calls = ""]) => calls.split(" "));
      expect(
        denied.filter((call) => watched.includes(call)),
        profile,
      ).toEqual([]);
    }
    // Each of these is a filter of that kind: sockets, clone and unshare, module loading, openat2, sethostname.
    expect(unit).not.toMatch(
      /^(?:RestrictAddressFamilies|RestrictNamespaces|ProtectKernelModules|RestrictSUIDSGID|ProtectHostname)=/m,
    );
  });

  it("I6: p11-kit reads the .module file, strictly, and takes its address for a remote module", async () => {
    const modules = join(directory, "pkcs11/modules");
    mkdirSync(modules, { recursive: true });
    const list = async (text: string) => {
      writeFileSync(join(modules, "ironclaw-scope.module"), text);
      const env = { PATH: process.env["PATH"], XDG_CONFIG_HOME: directory, P11_KIT_STRICT: "1", TSS2_LOG: "all+none" };
      // p11-kit reads no user's configuration as root.
      const drop = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];
      const [program = "p11-kit", ...args] = [...(process.getuid?.() === 0 ? drop : []), "p11-kit", "list-modules"];
      const { stdout, stderr } = await run(program, args, { env }).catch(
        (error: { stdout: string; stderr: string }) => error,
      );
      return stdout + stderr;
    };
    const text = readFileSync(join(DEPLOY, "ironclaw.module"), "utf8");
    // Nobody listens at the template's path: the stock client then has a module without a token.
    expect(await list(text)).toMatch(/^ironclaw-scope: .*\n\s+library-description: p11-kit \(no connection\)/m);
    expect(await list(text.replace("unix:path", "tcp"))).not.toMatch(/^ironclaw-scope: .*\n\s+library-description/m);
  });

  it("I6: every file that callers find their socket by is described", () => {
    const readme = readFileSync(join(DEPLOY, "README.md"), "utf8");
    for (const name of readdirSync(DEPLOY).filter((file) => file !== "README.md"))
      expect(readme).toContain(`\`${name}\``);
  });
});
