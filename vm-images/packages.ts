import { access, readFile, rename, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { Archive, type ArchivePackage } from "./apt.ts";
import { sha256File, sha256Hex } from "./digest.ts";
import { ImageError, reportFailure } from "./errors.ts";

/** One kernel for each recipe; see recipes.ts. */
export type KernelGroup = "kernel" | "kernel-usb" | "kernel-6.1";

/** guest: files of the root; module: the stand-in HSM's library; sysroot: what the C parts compile against. */
export type PackageGroup = "guest" | "module" | "sysroot" | "stub" | KernelGroup;

export interface LockedPackage {
  readonly group: PackageGroup;
  readonly name: string;
  readonly version: string;
  readonly sha256: string;
  /** The package whose dependency this one is: the kernel's own name changes with each update. */
  readonly through?: string;
}

/** The locked packages as files on this machine, each checked against its SHA-256. */
export interface PackageSet {
  readonly packages: readonly (LockedPackage & { readonly path: string })[];
  /** True when a locked version is gone from the archive and another one took its place. */
  readonly unlocked: boolean;
  /** SHA-256 over all names, versions and digests. */
  readonly digest: string;
}

export const LOCK_PATH = resolve(import.meta.dirname, "packages.lock.json");

const WANTED: Readonly<Record<PackageGroup, readonly string[]>> = {
  guest: [
    ...["libc6", "libgcc-s1", "libstdc++6", "libatomic1", "zlib1g", "libffi8", "libtasn1-6", "libssl3", "openssl"],
    ...[
      "libtss2-mu0",
      "libtss2-sys1",
      "libtss2-esys-3.0.2-0",
      "libtss2-rc0",
      "libtss2-tctildr0",
      "libtss2-tcti-device0",
    ],
    ...["libp11-kit0", "p11-kit-modules", "libengine-pkcs11-openssl", "opensc", "opensc-pkcs11", "libglib2.0-0"],
    ...["libpcre2-8-0", "libmount1", "libselinux1", "libblkid1", "busybox-static"],
  ],
  module: ["libsofthsm2"],
  sysroot: ["libc6-dev", "linux-libc-dev", "libgcc-12-dev", "libstdc++-12-dev", "libtss2-dev", "libssl-dev"],
  kernel: ["linux-image-6.12-cloud-amd64"],
  "kernel-usb": ["linux-image-6.12-amd64"],
  "kernel-6.1": ["linux-image-cloud-amd64"],
  stub: ["systemd-boot-efi"],
};

/** Packages of which not the package itself is wanted but the one it depends on. */
const THROUGH: Readonly<Record<string, RegExp>> = {
  "linux-image-6.12-cloud-amd64": /\blinux-image-6\.12\.\S+-cloud-amd64\b/,
  "linux-image-6.12-amd64": /\blinux-image-6\.12\.\S+-amd64\b/,
  "linux-image-cloud-amd64": /\blinux-image-6\.1\.\S+-cloud-amd64\b/,
};

const KERNELS: ReadonlySet<PackageGroup> = new Set<KernelGroup>(["kernel", "kernel-usb", "kernel-6.1"]);

interface Wanted {
  readonly group: PackageGroup;
  readonly name: string;
}

/** The newest version of each wanted package, in the order asked. */
async function newest(archive: Archive, wanted: readonly Wanted[]): Promise<LockedPackage[]> {
  const described = await describe(
    archive,
    wanted.map(({ name }) => name),
  );
  const targets = new Map(
    wanted.flatMap(({ name }) => {
      const target = THROUGH[name]?.exec(described.get(name)?.depends ?? "")?.[0];
      return target === undefined ? [] : [[name, target] as const];
    }),
  );
  const followed = targets.size === 0 ? new Map() : await describe(archive, [...targets.values()]);
  return wanted.map(({ group, name }) => {
    const target = targets.get(name);
    const found = target === undefined ? described.get(name) : followed.get(target);
    if (found === undefined) throw new ImageError("ERR_IMAGE_PACKAGE", `package ${name}: not in the archive`);
    const { version, sha256 } = found;
    return {
      group,
      name: found.name,
      version,
      sha256,
      ...(target === undefined ? {} : { through: name }),
    };
  });
}

async function describe(archive: Archive, names: readonly string[]): Promise<Map<string, ArchivePackage>> {
  return new Map((await archive.describe(names)).map((entry) => [entry.name, entry]));
}

/** Resolve every wanted package to its newest version. */
function resolveAll(archive: Archive): Promise<LockedPackage[]> {
  const groups = Object.entries(WANTED) as [PackageGroup, readonly string[]][];
  return newest(
    archive,
    groups.flatMap(([group, names]) => names.map((name) => ({ group, name }))),
  );
}

export async function readWholeLock(path: string = LOCK_PATH): Promise<readonly LockedPackage[]> {
  return (JSON.parse(await readFile(path, "utf8")) as { packages: LockedPackage[] }).packages;
}

/** The packages of an image with this kernel: nobody downloads the others'. */
export async function readLock(kernel: KernelGroup = "kernel"): Promise<readonly LockedPackage[]> {
  return (await readWholeLock()).filter(({ group }) => group === kernel || !KERNELS.has(group));
}

/** apt writes the epoch's colon as %3a. */
function fileName(item: LockedPackage, architecture: string): string {
  return `${item.name}_${item.version.replaceAll(":", "%3a")}_${architecture}.deb`;
}

async function cached(directory: string, item: LockedPackage): Promise<string | undefined> {
  const path = join(directory, `${item.sha256}.deb`);
  const present = await access(path).then(
    () => true,
    () => false,
  );
  return present && (await sha256File(path)) === item.sha256 ? path : undefined;
}

/**
 * Bring every locked package into `cacheDirectory`/debs, checked against its SHA-256. Needs no network when all are
 * there. A locked version that the archive no longer has is replaced by the newest one and the set says `unlocked`.
 * Throws {@link ImageError} ERR_IMAGE_PACKAGE when a file's digest is not the expected one.
 */
export async function fetchPackages(cacheDirectory: string, lock: readonly LockedPackage[]): Promise<PackageSet> {
  const debs = join(cacheDirectory, "debs");
  const archive = new Archive(join(cacheDirectory, "apt"));
  const present = await Promise.all(lock.map((item) => cached(debs, item)));
  const missing = lock.filter((_, index) => present[index] === undefined);
  const replaced = missing.length === 0 ? new Map() : await replaceGone(archive, missing);
  const items = lock.map((item) => replaced.get(item.name) ?? item);
  const wanted = items.filter((item, index) => present[index] === undefined || item !== lock[index]);
  if (wanted.length > 0) await download(archive, wanted, debs);
  const packages = items.map((item) => ({
    ...item,
    path: join(debs, `${item.sha256}.deb`),
  }));
  const digest = sha256Hex(items.map((item) => `${item.group} ${item.name} ${item.version} ${item.sha256}\n`).join(""));
  return { packages, unlocked: replaced.size > 0, digest };
}

/** The missing packages whose locked version is gone, by name, each with the version that takes its place. */
async function replaceGone(archive: Archive, missing: readonly LockedPackage[]): Promise<Map<string, LockedPackage>> {
  const exact = await archive.describe(missing.map((item) => `${item.name}=${item.version}`));
  const gone = missing.filter((item) => {
    const entry = exact.find(({ name, version }) => name === item.name && version === item.version);
    if (entry === undefined || entry.sha256 === item.sha256) return entry === undefined;
    // An archive never changes what a version contains: this is no update but a different file under the same name.
    throw new ImageError("ERR_IMAGE_PACKAGE", `package ${item.name} ${item.version}`, {
      expected: item.sha256,
      got: entry.sha256,
    });
  });
  if (gone.length === 0) return new Map();
  const found = await newest(
    archive,
    gone.map((item) => ({
      group: item.group,
      name: item.through ?? item.name,
    })),
  );
  return new Map(gone.map((item, index) => [item.name, found[index] ?? item]));
}

async function download(archive: Archive, items: readonly LockedPackage[], debs: string): Promise<void> {
  await archive.download(
    items.map((item) => `${item.name}=${item.version}`),
    debs,
  );
  for (const item of items) {
    const path = await firstPresent(["amd64", "all"].map((architecture) => join(debs, fileName(item, architecture))));
    const got = await sha256File(path);
    if (got !== item.sha256) {
      throw new ImageError("ERR_IMAGE_PACKAGE", `package ${item.name}`, {
        expected: item.sha256,
        got,
      });
    }
    await rename(path, join(debs, `${item.sha256}.deb`));
  }
}

async function firstPresent(paths: readonly string[]): Promise<string> {
  for (const path of paths)
    if (
      await access(path).then(
        () => true,
        () => false,
      )
    )
      return path;
  throw new ImageError("ERR_IMAGE_PACKAGE", `downloaded package: none of ${paths.join(", ")} exists`);
}

async function main(args: readonly string[]): Promise<void> {
  const cache = resolve(import.meta.dirname, "../build/cache");
  if (args[0] === "--update") {
    const packages = await resolveAll(new Archive(join(cache, "apt")));
    await writeFile(LOCK_PATH, `${JSON.stringify({ suite: "bookworm", packages }, null, 2)}\n`);
  }
  const { packages, unlocked } = await fetchPackages(cache, await readWholeLock());
  console.log(`${packages.length} packages${unlocked ? ", unlocked" : ""}`);
}

if (import.meta.main) await main(process.argv.slice(2)).catch(reportFailure);
