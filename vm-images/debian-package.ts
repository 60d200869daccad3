// node vm-images/debian-package.ts [DIRECTORY]: the agent as a Debian package, for systems that are not our image (agent/docs/install.md).

import { createHash } from "node:crypto";
import { chmod, mkdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { bundleCommand, bundleProgram } from "./bundle.ts";
import { listFiles } from "./digest.ts";
import { reportFailure } from "./errors.ts";
import { readLock } from "./lock.ts";
import { makeDirectory } from "./make-directory.ts";
import { buildNative, NATIVE_PARTS } from "./native.ts";
import { stripNode } from "./node.ts";
import { projectVersion } from "./npm-lock.ts";
import { fetchPackages } from "./packages.ts";
import { compiledProfiles } from "./profiles.ts";
import { type RootEntry, writeRoot } from "./rootfs.ts";
import { stateTemplate } from "./state-template.ts";
import { Progress } from "./story/progress.ts";
import { runTool } from "./tool.ts";
import { digestOfPackages, unpackPackages } from "./unpack.ts";

const project = resolve(import.meta.dirname, "..");
const TEMPLATES = join(project, "vm-images/debian");
const UNITS = join(project, "agent/p11kit/deploy");
const PROGRAMS = "usr/lib/ironclaw";
const DOCUMENTS = "usr/share/doc/ironclaw-agent";
const SYSTEMD = "usr/lib/systemd/system";

/** Everything compiled but the image's initrd. */
const PARTS = NATIVE_PARTS.filter(({ output }) => output !== "init");

/** Where each file of the folders goes; the rest is made. */
const PLACED: readonly (readonly [source: string, path: string, mode: number])[] = [
  [join(TEMPLATES, "command"), "usr/bin/ironclaw", 0o755],
  [join(UNITS, "ironclaw-agent.service"), `${SYSTEMD}/ironclaw-agent.service`, 0o644],
  [join(UNITS, "ironclaw-scope@.socket"), `${SYSTEMD}/ironclaw-scope@.socket`, 0o644],
  [join(TEMPLATES, "ironclaw-cap.service"), `${SYSTEMD}/ironclaw-cap.service`, 0o644],
  [join(TEMPLATES, "sysusers.conf"), "usr/lib/sysusers.d/ironclaw.conf", 0o644],
  [join(TEMPLATES, "tmpfiles.conf"), "usr/lib/tmpfiles.d/ironclaw.conf", 0o644],
  [join(TEMPLATES, "modules-load.conf"), "usr/lib/modules-load.d/ironclaw.conf", 0o644],
  [join(TEMPLATES, "udev.rules"), "usr/lib/udev/rules.d/70-ironclaw.rules", 0o644],
  [join(TEMPLATES, "agent.json"), "etc/ironclaw/agent.json", 0o644],
  [join(TEMPLATES, "spawner.conf"), "etc/ironclaw/spawner.conf", 0o644],
  [join(TEMPLATES, "workloads"), "etc/ironclaw/workloads", 0o644],
  [join(UNITS, "ironclaw.module"), `${DOCUMENTS}/ironclaw.module`, 0o644],
  [join(TEMPLATES, "reboot-when-lost.conf"), `${DOCUMENTS}/reboot-when-lost.conf`, 0o644],
  [join(project, "agent/docs/install.md"), `${DOCUMENTS}/install.md`, 0o644],
  [join(project, "LICENSE"), `${DOCUMENTS}/copyright`, 0o644],
];

const SCRIPTS = ["preinst", "postinst", "prerm", "postrm"];

export interface PackageOrder {
  /** Made; holds the native parts of the last build, so that they are not built again. */
  readonly outDirectory: string;
  readonly cacheDirectory: string;
  /** Shows what is being done. Default: nobody watches. */
  readonly progress?: Pick<Progress, "step">;
}

const UNWATCHED: Pick<Progress, "step"> = { step: (_, act) => act() };

export interface DebianPackage {
  /** Path of the .deb file. */
  readonly path: string;
  /** The files that it installs, under their paths. */
  readonly tree: string;
}

/**
 * Build the package. Needs no privilege; equal inputs give equal bytes, as for an image.
 * Throws ImageError when a tool, a package or a source file is missing.
 */
export async function buildDebianPackage(order: PackageOrder): Promise<DebianPackage> {
  const { outDirectory, cacheDirectory, progress = UNWATCHED } = order;
  await makeDirectory(outDirectory);
  const native = await progress.step("native parts", () => buildParts(outDirectory, cacheDirectory));
  const tree = join(outDirectory, "tree");
  await progress.step("Node, agent and command", async () => {
    const entries = await packageEntries(native, outDirectory);
    await writeRoot(entries, tree);
    await writeControl(tree, entries);
  });
  const path = join(outDirectory, `ironclaw-agent_${await projectVersion()}_amd64.deb`);
  await progress.step("package", () => pack(tree, path));
  return { path, tree };
}

async function pack(tree: string, path: string): Promise<void> {
  // Not xz: dpkg unpacks this several times faster, on Debian 12 and newer.
  const options = ["--root-owner-group", "--uniform-compression", "-Zzstd", "-z9"];
  await runTool("dpkg-deb", [...options, "--build", tree, `${path}.new`]);
  await rename(`${path}.new`, path);
  await rm(join(tree, "DEBIAN"), { recursive: true });
}

const SYSROOT = ["guest", "sysroot"] as const;

async function buildParts(outDirectory: string, cacheDirectory: string): Promise<string> {
  const set = await fetchPackages(cacheDirectory, await readLock(SYSROOT));
  const sysroot = await unpackPackages(set, SYSROOT, cacheDirectory);
  const directory = join(outDirectory, "native");
  await buildNative({ directory, sysroot: { path: sysroot, digest: digestOfPackages(set, SYSROOT) } }, PARTS);
  return directory;
}

async function packageEntries(nativeDirectory: string, outDirectory: string): Promise<readonly RootEntry[]> {
  const node = join(outDirectory, "node.stripped");
  await stripNode(node);
  const bytes = (path: string, content: Uint8Array): RootEntry => ({
    kind: "bytes",
    path,
    bytes: content,
    mode: 0o644,
  });
  const file = (path: string, source: string, mode: number): RootEntry => ({ kind: "file", path, source, mode });
  const texts = join(project, "policy/runtime");
  return [
    ...PLACED.map(([source, path, mode]) => file(path, source, mode)),
    file(`${PROGRAMS}/node`, node, 0o755),
    ...PARTS.map(({ output }) => file(`${PROGRAMS}/${output}`, join(nativeDirectory, output), 0o755)),
    bytes(`${PROGRAMS}/agent.cjs`, await bundleProgram(join(project, "agent/main.ts"))),
    ...[...(await bundleCommand(`/${PROGRAMS}`))].map(([name, content]) => bytes(`${PROGRAMS}/cli/${name}`, content)),
    ...[...compiledProfiles()].map(([name, content]) => bytes(`${PROGRAMS}/${name}`, content)),
    // Their texts, for `profile explain`, where the command looks for them.
    ...(await listFiles(texts, (name) => name.endsWith(".profile"))).map((name) =>
      file(`${PROGRAMS}/policy/runtime/${name}`, join(texts, name), 0o644),
    ),
    bytes(`${PROGRAMS}/state-volume.template`, await stateTemplate()),
  ];
}

async function writeControl(tree: string, entries: readonly RootEntry[]): Promise<void> {
  const control = join(tree, "DEBIAN");
  await mkdir(control);
  await chmod(control, 0o755);
  const files = entries.map(({ path }) => path).sort();
  const contents = await Promise.all(files.map((path) => readFile(join(tree, path))));
  const kilobytes = Math.ceil(contents.reduce((sum, { length }) => sum + length, 0) / 1024);
  const template = await readFile(join(TEMPLATES, "control"), "utf8");
  const put = async (name: string, content: string | Uint8Array, mode = 0o644) => {
    await writeFile(join(control, name), content);
    await chmod(join(control, name), mode); // whatever the umask
  };
  await put("control", template.replace("@VERSION@", await projectVersion()).replace("@SIZE@", `${kilobytes}`));
  // For `dpkg --verify`, which knows no other digest: against damage, not against people.
  const sums = contents.map(
    (content, index) => `${createHash("md5").update(content).digest("hex")}  ${files[index]}\n`,
  );
  await put("md5sums", sums.join(""));
  await put("conffiles", await readFile(join(TEMPLATES, "conffiles")));
  for (const name of SCRIPTS) await put(name, await readFile(join(TEMPLATES, name)), 0o755);
}

const USAGE =
  "usage: npm run package -- [DIRECTORY]\n\nMakes ironclaw-agent_VERSION_amd64.deb there (default build/package).";

async function main([given = join(project, "build/package"), ...more]: readonly string[]): Promise<void> {
  if (given === "--help") return console.log(USAGE);
  if (given.startsWith("-") || more.length > 0) {
    console.error(USAGE);
    process.exitCode = 2;
    return;
  }
  const directory = resolve(given);
  const { path } = await buildDebianPackage({
    ...{ outDirectory: directory, cacheDirectory: join(project, "build/cache"), progress: new Progress() },
  });
  console.log(path);
}

if (import.meta.main) await main(process.argv.slice(2)).catch(reportFailure);
