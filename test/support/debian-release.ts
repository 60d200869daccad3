// node test/support/debian-release.ts --update: locks the newest versions of the packages that each release's lock names.
import { writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { encodeLock, type LockedPackage, readWholeLock } from "../../vm-images/lock.ts";
import { newest } from "../../vm-images/newest.ts";
import { archiveOf, fetchPackages, type PackageSet } from "../../vm-images/packages.ts";
import { unpackPackages } from "../../vm-images/unpack.ts";

const CACHE = resolve(import.meta.dirname, "../../build/cache");

/** A release that the package is installed on. */
export type DebianSuite = "bookworm" | "trixie";

export const DEBIAN = {
  bookworm: { name: "Debian 12", lock: "debian.lock.json" },
  trixie: { name: "Debian 13", lock: "debian-13.lock.json" },
} as const;

const lockOf = (suite: DebianSuite): string => join(import.meta.dirname, DEBIAN[suite].lock);

const KERNEL = "linux-image-6.12-cloud-amd64";

/** Groups `guest`: what is installed; `kernel`; and `stub`, systemd's. Debian 12's kernel and stub are those of our images. */
async function lockedPackages(suite: DebianSuite): Promise<readonly LockedPackage[]> {
  const own = await readWholeLock(lockOf(suite), suite);
  if (suite !== "bookworm") return own;
  const images = await readWholeLock();
  return [...own, ...images.filter(({ group, through }) => group === "stub" || through === KERNEL)];
}

export async function debianPackages(suite: DebianSuite): Promise<PackageSet> {
  return fetchPackages(CACHE, await lockedPackages(suite), suite);
}

/** The unpacked packages of one group; nobody writes there. */
export async function debianTree(suite: DebianSuite, group: "guest" | "kernel" | "stub" = "guest"): Promise<string> {
  return unpackPackages(await debianPackages(suite), [group], CACHE);
}

async function update(suite: DebianSuite): Promise<void> {
  const wanted = (await readWholeLock(lockOf(suite), suite)).map(({ group, name, through }) => ({
    group,
    name: through ?? name,
  }));
  await writeFile(lockOf(suite), encodeLock(await newest(archiveOf(CACHE, suite), wanted), suite));
}

if (import.meta.main && process.argv[2] === "--update") await Promise.all([update("bookworm"), update("trixie")]);
