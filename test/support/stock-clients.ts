import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { Archive, type Suite } from "../../vm-images/apt.ts";
import { unpackPackages } from "../../vm-images/unpack.ts";

const run = promisify(execFile);
const MULTIARCH = "usr/lib/x86_64-linux-gnu";
const CACHE = resolve(import.meta.dirname, "../../build/clients");

/** p11-kit's client, the programs that are tried with it, and the libraries that they need, each of its own release. */
const PACKAGES = [
  ...["libp11-kit0", "p11-kit", "p11-kit-modules", "libffi8", "libtasn1-6"],
  ...["opensc", "opensc-pkcs11", "libeac3", "libpcsclite1", "libreadline8t64", "libtinfo6"],
  ...["openssl", "libssl3t64", "pkcs11-provider", "libc6", "libgcc-s1", "zlib1g", "libzstd1"],
  ...["libglib2.0-0t64", "libpcre2-8-0", "libmount1", "libblkid1", "libselinux1"],
];

const SERVERS = ["openssh-server", "libwrap0", "libnsl2", "libtirpc3", "nginx"];

/** The programs of one release of Debian, as they are there. */
export interface StockClients {
  readonly suite: Suite;
  /** Of p11-kit, as its package has it. */
  readonly version: string;
  /** Path of p11-kit-client.so. */
  readonly module: string;
  /** Path of OpenSSL's provider for PKCS #11; null where the release has none. */
  readonly provider: string | null;
  /** Runs a program of the release with its own loader and libraries; resolves with what it printed. */
  run(
    program: "pkcs11-tool" | "openssl" | "p11-kit",
    args: readonly string[],
    env: Record<string, string>,
  ): Promise<string>;
}

/** What stands on this machine, which is Debian 12. */
export async function installedClients(): Promise<StockClients> {
  const { stdout } = await run("dpkg-query", ["-W", "libp11-kit0"]);
  const version = stdout.trim().split("\t")[1] ?? "unknown";
  return {
    ...{ suite: "bookworm", version, module: `/${MULTIARCH}/pkcs11/p11-kit-client.so`, provider: null },
    run: (program, args, env) => output(program, args, env),
  };
}

/**
 * The same of another release, from its signed archive and unpacked below `build/clients`: nothing is installed, no privilege is needed. What
 * is there already is used as it is.
 * @returns null when the archive cannot be reached from here
 */
export async function unpackedClients(suite: Exclude<Suite, "bookworm">): Promise<StockClients | null> {
  const found = await unpacked(suite, suite, PACKAGES).catch(() => null);
  if (found === null) return null;
  const { tree, versions } = found;
  const libraries = join(tree, MULTIARCH);
  const loader = [join(libraries, "ld-linux-x86-64.so.2"), "--library-path", libraries] as const;
  return {
    ...{ suite, version: versions["libp11-kit0"] ?? "unknown", module: join(libraries, "pkcs11/p11-kit-client.so") },
    provider: join(libraries, "ossl-modules/pkcs11.so"),
    run: (program, args, env) => output(loader[0], [...loader.slice(1), join(tree, "usr/bin", program), ...args], env),
  };
}

/**
 * Servers of this machine's own release. Not installed, because their packages start them.
 * @throws ImageError when the archive cannot be reached from here
 */
export async function stockServers(): Promise<{ sshd: string; nginx: string; libraries: string }> {
  const { tree } = await unpacked("servers", "bookworm", SERVERS);
  const program = (name: string): string => join(tree, "usr/sbin", name);
  return { sshd: program("sshd"), nginx: program("nginx"), libraries: join(tree, MULTIARCH) };
}

interface Unpacked {
  readonly tree: string;
  readonly versions: Readonly<Record<string, string>>;
}

async function unpacked(name: string, suite: Suite, packages: readonly string[]): Promise<Unpacked> {
  const list = join(CACHE, `${name}.json`);
  if (!existsSync(list)) {
    await writeFile(`${list}.${process.pid}`, JSON.stringify(await unpack(name, suite, packages)));
    await rename(`${list}.${process.pid}`, list);
  }
  return JSON.parse(await readFile(list, "utf8"));
}

async function unpack(name: string, suite: Suite, wanted: readonly string[]): Promise<Unpacked> {
  const debs = join(CACHE, `${name}-debs`);
  await rm(debs, { recursive: true, force: true });
  await mkdir(debs, { recursive: true });
  const archive = new Archive(join(CACHE, `${name}-apt`), suite);
  const described = await archive.describe(wanted);
  const selections = described.map((entry) => `${entry.name}=${entry.version}`);
  await archive.download(selections, debs);
  const files = await readdir(debs);
  const packages = described.map((entry) => ({
    ...{ ...entry, group: "guest" as const },
    path: join(debs, files.find((file) => file.startsWith(`${entry.name}_`)) ?? entry.name),
  }));
  const tree = await unpackPackages({ packages, unlocked: true }, ["guest"], join(CACHE, name));
  for (const done of [debs, join(CACHE, `${name}-apt`)]) await rm(done, { recursive: true, force: true });
  return { tree, versions: Object.fromEntries(described.map((entry) => [entry.name, entry.version])) };
}

async function output(program: string, args: readonly string[], env: Record<string, string>): Promise<string> {
  const { stdout, stderr } = await run(program, args, { env: { ...process.env, ...env } });
  return stdout + stderr;
}
