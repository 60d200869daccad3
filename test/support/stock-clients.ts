import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { sha256Hex, utf8 } from "../../policy/index.ts";
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
  const list = join(CACHE, `${suite}.json`);
  if (!existsSync(list)) {
    const found = await unpack(suite).catch(() => null);
    if (found === null) return null;
    await writeFile(`${list}.${process.pid}`, JSON.stringify(found));
    await rename(`${list}.${process.pid}`, list);
  }
  const { tree, version }: Unpacked = JSON.parse(await readFile(list, "utf8"));
  const libraries = join(tree, MULTIARCH);
  const loader = [join(libraries, "ld-linux-x86-64.so.2"), "--library-path", libraries] as const;
  return {
    ...{ suite, version, module: join(libraries, "pkcs11/p11-kit-client.so") },
    provider: join(libraries, "ossl-modules/pkcs11.so"),
    run: (program, args, env) => output(loader[0], [...loader.slice(1), join(tree, "usr/bin", program), ...args], env),
  };
}

interface Unpacked {
  readonly tree: string;
  readonly version: string;
}

async function unpack(suite: Suite): Promise<Unpacked> {
  const debs = join(CACHE, `${suite}-debs`);
  await rm(debs, { recursive: true, force: true });
  await mkdir(debs, { recursive: true });
  const archive = new Archive(join(CACHE, `${suite}-apt`), suite);
  const described = await archive.describe(PACKAGES);
  await archive.download(
    described.map(({ name, version }) => `${name}=${version}`),
    debs,
  );
  const files = await readdir(debs);
  const packages = described.map((entry) => ({
    ...{ ...entry, group: "guest" as const },
    path: join(debs, files.find((file) => file.startsWith(`${entry.name}_`)) ?? entry.name),
  }));
  const digest = sha256Hex(utf8(described.map(({ sha256 }) => sha256).join()));
  const tree = await unpackPackages({ packages, digest, unlocked: true }, ["guest"], join(CACHE, suite));
  await rm(debs, { recursive: true, force: true });
  return { tree, version: described.find(({ name }) => name === "libp11-kit0")?.version ?? "unknown" };
}

async function output(program: string, args: readonly string[], env: Record<string, string>): Promise<string> {
  const { stdout, stderr } = await run(program, args, { env: { ...process.env, ...env } });
  return stdout + stderr;
}
