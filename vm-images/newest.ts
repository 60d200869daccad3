import type { Archive, ArchivePackage } from "./apt.ts";
import { ImageError } from "./errors.ts";
import { answersTo, type LockedPackage, namedPackages, type PackageGroup, readWholeLock, withoutLock } from "./lock.ts";
import { RECIPE_NAMES, type Recipe, readRecipe } from "./recipes.ts";

const TSS = ["mu0", "sys1", "esys-3.0.2-0", "rc0", "tctildr0", "tcti-device0"].map((name) => `libtss2-${name}`);

/** What every image needs, whatever its recipe. */
const COMMON: Readonly<Partial<Record<PackageGroup, readonly string[]>>> = {
  guest: ["libc6", "libgcc-s1", "libstdc++6", "libatomic1", "libssl3", ...TSS],
  dev: ["busybox-static"],
  module: ["libsofthsm2"],
  sysroot: ["libc6-dev", "linux-libc-dev", "libgcc-12-dev", "libstdc++-12-dev", "libtss2-dev", "libssl-dev"],
  stub: ["systemd-boot-efi"],
};

/** Of such a package not itself is wanted but the kernel that it depends on. */
const KERNEL_OF_THE_DAY = /\blinux-image-\d+\.\d+\.[^\s,]+/;

interface Wanted {
  readonly group: PackageGroup;
  readonly name: string;
}

/**
 * The newest version of each wanted package, in the order asked.
 * @throws ImageError ERR_IMAGE_PACKAGE for one that the archive does not have
 */
export async function newest(archive: Archive, wanted: readonly Wanted[]): Promise<LockedPackage[]> {
  const described = await describe(
    archive,
    wanted.map(({ name }) => name),
  );
  const targets = new Map(
    wanted.flatMap(({ group, name }) => {
      const target = group === "kernel" ? KERNEL_OF_THE_DAY.exec(described.get(name)?.depends ?? "")?.[0] : undefined;
      return target === undefined ? [] : [[name, target] as const];
    }),
  );
  const followed = targets.size === 0 ? new Map() : await describe(archive, [...targets.values()]);
  return wanted.map(({ group, name }) => {
    const target = targets.get(name);
    const found = target === undefined ? described.get(name) : followed.get(target);
    if (found === undefined) throw new ImageError("ERR_IMAGE_PACKAGE", `package ${name}: not in the archive`);
    const { version, sha256 } = found;
    return { group, name: found.name, version, sha256, ...(target === undefined ? {} : { through: name }) };
  });
}

async function describe(archive: Archive, names: readonly string[]): Promise<Map<string, ArchivePackage>> {
  return new Map((await archive.describe(names)).map((entry) => [entry.name, entry]));
}

/** The newest of all that the project and its recipes need. */
export async function newestOfProject(archive: Archive): Promise<LockedPackage[]> {
  const common = Object.entries(COMMON).flatMap(([group, names]) =>
    names.map((name) => ({ group: group as PackageGroup, name })),
  );
  const recipes = await Promise.all(RECIPE_NAMES.map(readRecipe));
  const named = new Map(recipes.flatMap(namedPackages).map((entry) => [entry.name, entry]));
  return newest(archive, [...common, ...named.values()]);
}

/**
 * A recipe's own lock: what it names and the project's lock does not have.
 * @param kept packages of an earlier lock, whose versions stay
 */
export async function lockRecipe(
  archive: Archive,
  recipe: Recipe,
  kept: readonly LockedPackage[],
): Promise<readonly LockedPackage[]> {
  const own = withoutLock(recipe, await readWholeLock());
  const known = kept.filter((entry) => own.some(({ name }) => answersTo(name, entry)));
  const wanted = withoutLock(recipe, [...(await readWholeLock()), ...known]);
  const added = wanted.length === 0 ? [] : await newest(archive, wanted);
  return [...known, ...added].sort((a, b) => (a.name < b.name ? -1 : 1));
}
