import { readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import * as z from "zod";
import type { Suite } from "./apt.ts";
import { ImageError } from "./errors.ts";
import { type Recipe, rootPartOf } from "./recipes.ts";
import { exists } from "./unpack.ts";

/**
 * guest: what every root is taken from; dev: the shell; module: the stand-in HSM's library; sysroot: what the C parts compile against; kernel
 * and recipe: what recipes name, of which an image takes its own.
 */
const GROUPS = ["guest", "dev", "module", "sysroot", "stub", "kernel", "recipe"] as const;

export type PackageGroup = (typeof GROUPS)[number];

const lockedPackage = z.strictObject({
  group: z.enum(GROUPS),
  name: z.string().regex(/^[a-z0-9][a-z0-9+.-]{1,127}$/),
  version: z.string().regex(/^[A-Za-z0-9.+:~-]{1,128}$/),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
  /** The package whose dependency this one is: the kernel's own name changes with each update. */
  through: z.string().optional(),
});
const lockSchema = (suite: Suite) =>
  z.strictObject({ suite: z.literal(suite), packages: z.array(lockedPackage).max(1024) });

export type LockedPackage = Readonly<z.infer<typeof lockedPackage>>;

export const LOCK_NAME = "packages.lock.json";
/** Of every image and of the project's recipes. */
export const LOCK_PATH = resolve(import.meta.dirname, LOCK_NAME);

/** A recipe's further packages. */
export const lockPathOf = (recipe: Recipe): string => join(recipe.folder, LOCK_NAME);

/** @throws ImageError ERR_IMAGE_MALFORMED */
export async function readWholeLock(
  path: string = LOCK_PATH,
  suite: Suite = "bookworm",
): Promise<readonly LockedPackage[]> {
  const parsed = lockSchema(suite).safeParse(JSON.parse(await readFile(path, "utf8")));
  if (parsed.success) return parsed.data.packages;
  const issue = parsed.error.issues[0];
  throw new ImageError("ERR_IMAGE_MALFORMED", `${path}: ${issue?.path.join(".")}: ${issue?.message}`);
}

/** A lock file as text. */
export function encodeLock(packages: readonly LockedPackage[], suite: Suite = "bookworm"): string {
  return `${JSON.stringify({ suite, packages }, null, 2)}\n`;
}

export async function readLock(groups: readonly PackageGroup[]): Promise<readonly LockedPackage[]> {
  return (await readWholeLock()).filter(({ group }) => groups.includes(group));
}

export const answersTo = (name: string, entry: LockedPackage): boolean => entry.name === name || entry.through === name;

/** What a recipe names, in all its variants, with the group that each is of. */
export function namedPackages(recipe: Recipe): readonly { readonly group: PackageGroup; readonly name: string }[] {
  const packages = rootPartOf(recipe, "demo").packages.map((name) => ({ group: "recipe" as const, name }));
  return [{ group: "kernel", name: recipe.kernel }, ...packages];
}

/** What a recipe names and these do not have. */
export function withoutLock(recipe: Recipe, known: readonly LockedPackage[]): ReturnType<typeof namedPackages> {
  return namedPackages(recipe).filter(({ name }) => !known.some((entry) => answersTo(name, entry)));
}

/** A recipe's own lock, empty where it has none. */
export async function readOwnLock(recipe: Recipe): Promise<readonly LockedPackage[]> {
  const path = lockPathOf(recipe);
  const own = (await exists(path)) ? await readWholeLock(path) : [];
  const other = own.find(({ group }) => group !== "kernel" && group !== "recipe");
  if (other === undefined) return own;
  throw new ImageError("ERR_IMAGE_PACKAGE", `${path}: ${other.name}: group`, {
    expected: "kernel or recipe: the others are the project's",
    got: other.group,
  });
}

/**
 * The packages of an image: those of every image, and what the recipe names for any variant. Nobody downloads the others'.
 * @throws ImageError ERR_IMAGE_PACKAGE for a name without a lock
 */
export async function recipeLock(recipe: Recipe): Promise<readonly LockedPackage[]> {
  const common = await readWholeLock();
  const own = (await readOwnLock(recipe)).filter(({ name }) => !common.some((entry) => entry.name === name));
  const known = [...common, ...own];
  const [missing] = withoutLock(recipe, known);
  if (missing !== undefined) {
    throw new ImageError("ERR_IMAGE_PACKAGE", `recipe ${recipe.name}: package ${missing.name}`, {
      expected: "a locked version",
      got: "none",
      hint: `ironclaw image lock ${recipe.folder}`,
    });
  }
  const named = namedPackages(recipe);
  return known.filter(
    (entry) =>
      (entry.group !== "kernel" && entry.group !== "recipe") || named.some(({ name }) => answersTo(name, entry)),
  );
}
