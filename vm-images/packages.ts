import { access, rename, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { Archive, type Suite } from "./apt.ts";
import { sha256File } from "./digest.ts";
import { ImageError, reportFailure } from "./errors.ts";
import { encodeLock, LOCK_PATH, type LockedPackage, readWholeLock } from "./lock.ts";
import { newest, newestOfProject } from "./newest.ts";

/** Of this project's cache, the state of the archive of one release. */
export const archiveOf = (cacheDirectory: string, suite: Suite = "bookworm"): Archive =>
  new Archive(join(cacheDirectory, suite === "bookworm" ? "apt" : `apt-${suite}`), suite);

/** The locked packages as files on this machine, each checked against its SHA-256. */
export interface PackageSet {
  readonly packages: readonly (LockedPackage & { readonly path: string })[];
  /** True when a locked version is gone from the archive and another one took its place. */
  readonly unlocked: boolean;
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
export async function fetchPackages(
  cacheDirectory: string,
  lock: readonly LockedPackage[],
  suite: Suite = "bookworm",
): Promise<PackageSet> {
  const debs = join(cacheDirectory, "debs");
  const archive = archiveOf(cacheDirectory, suite);
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
  return { packages, unlocked: replaced.size > 0 };
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
    await writeFile(LOCK_PATH, encodeLock(await newestOfProject(archiveOf(cache))));
  }
  const { packages, unlocked } = await fetchPackages(cache, await readWholeLock());
  console.log(`${packages.length} packages${unlocked ? ", unlocked" : ""}`);
}

if (import.meta.main) await main(process.argv.slice(2)).catch(reportFailure);
