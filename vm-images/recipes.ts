import { readdirSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { basename, join, resolve } from "node:path";
import * as z from "zod";
import { IronclawError, parseCommentedJson } from "../policy/index.ts";
import { ImageError } from "./errors.ts";
import { exists } from "./unpack.ts";
import { type ImageVariant, isTrial } from "./variants.ts";

// IMAGES.md is the format.

export const DEFAULT_RECIPE = "cloud";

const FILE = "image.json";
const MAX_BYTES = 1 << 16;
const MAX_LIKE = 4;

const debianName = z.string().regex(/^[a-z0-9][a-z0-9+.-]{1,127}$/, "expected the name of a Debian package");
const guestPath = z.string().regex(/^(?:\/[A-Za-z0-9+_@:-][A-Za-z0-9+._@:-]*)+$/, "expected an absolute, normal path");
const moduleName = z.string().regex(/^[A-Za-z0-9_-]{1,63}$/, "expected the name of a kernel module");
const RESERVED =
  /^(?:verity|lockdown|init_on_free|ironclaw\..*|init|rdinit|root|rootfstype|initrd|console|panic|loglevel|lsm|security)(?:=|$)|^sysctl\.|^__$/;
const word = z
  .string()
  .regex(/^[A-Za-z0-9._,:@/+=-]{1,256}$/, "expected one word of the kernel's command line")
  .refine((text) => !RESERVED.test(text.replaceAll("-", "_")), "expected none of the words that every image has");
const argument = z.string().regex(/^[!-~]{1,1024}$/, "expected printable ASCII without spaces");

const workload = z.strictObject({
  name: z
    .string()
    .regex(/^[a-z][a-z0-9-]{0,30}$/)
    .refine((name) => !["root", "ironclaw", "ironclaw-shim"].includes(name), "expected no account of the project"),
  uid: z.int().min(1000).max(59_999),
  port: z
    .string()
    .regex(/^[a-z0-9][a-z0-9.-]{0,31}$/)
    .refine((port) => !port.startsWith("ironclaw."), "expected no port of the project")
    .nullable(),
  argv: z.tuple([guestPath], argument).refine((argv) => argv.length <= 32, "expected at most 32 words"),
});

const rootPart = {
  packages: z.array(debianName).max(256),
  root: z.array(guestPath).max(256),
  workloads: z.array(workload).max(32),
};

const fields = {
  kernel: debianName,
  modules: z.array(moduleName).max(64),
  commandLine: z.array(word).max(32),
  ...rootPart,
  trial: z.strictObject(rootPart),
};
const whole = z.strictObject({ version: z.literal(1), ...fields });
const likeAnother = z
  .strictObject({ version: z.literal(1), like: z.string() })
  .extend(z.strictObject(fields).partial().shape);

export type Workload = z.infer<typeof workload>;

/** What a recipe puts into the root file system of one variant. */
export interface RootPart {
  readonly packages: readonly string[];
  readonly root: readonly string[];
  readonly workloads: readonly Workload[];
}

/** One `image.json`, with what it takes from another. */
export interface Recipe extends RootPart {
  /** The folder's name. */
  readonly name: string;
  readonly folder: string;
  readonly kernel: string;
  readonly modules: readonly string[];
  readonly commandLine: readonly string[];
  readonly trial: RootPart;
}

const project = import.meta.dirname;

/** The project's own recipes. */
export const RECIPE_NAMES: readonly string[] = readdirSync(project, { withFileTypes: true })
  .filter((entry) => entry.isDirectory() && readdirSync(join(project, entry.name)).includes(FILE))
  .map(({ name }) => name)
  .sort();

/**
 * A recipe by the name of one of the project's, or by its folder.
 * @throws ImageError ERR_IMAGE_SOURCE when there is none, ERR_IMAGE_MALFORMED when it is not as IMAGES.md says
 */
export async function readRecipe(nameOrFolder: string = DEFAULT_RECIPE): Promise<Recipe> {
  const folder = RECIPE_NAMES.includes(nameOrFolder) ? join(project, nameOrFolder) : resolve(nameOrFolder);
  const { version: _, ...found } = await readFields(folder, MAX_LIKE);
  const recipe = { name: basename(folder), folder, ...found };
  for (const variant of ["release", "demo"] as const)
    requireDistinct(recipe.name, rootPartOf(recipe, variant).workloads);
  return recipe;
}

/** What goes into the root of this variant: `trial` is for those that no release verifier accepts. */
export function rootPartOf(recipe: Recipe, variant: ImageVariant): RootPart {
  const { packages, root, workloads, trial } = recipe;
  if (!isTrial(variant)) return { packages, root, workloads };
  return {
    packages: [...new Set([...packages, ...trial.packages])],
    root: [...new Set([...root, ...trial.root])],
    workloads: [...workloads, ...trial.workloads],
  };
}

async function readFields(folder: string, depth: number): Promise<z.infer<typeof whole>> {
  const path = join(folder, FILE);
  const json = await readJson(path);
  if (typeof json !== "object" || json === null || !("like" in json)) return checked(whole, path, json);
  const { like, ...own } = checked(likeAnother, path, json);
  if (depth === 0 || !RECIPE_NAMES.includes(like)) {
    throw new ImageError("ERR_IMAGE_MALFORMED", `${path}: like`, { expected: RECIPE_NAMES.join(" or "), got: like });
  }
  return checked(whole, path, { ...(await readFields(join(project, like), depth - 1)), ...own });
}

async function readJson(path: string): Promise<unknown> {
  if (!(await exists(path))) {
    throw new ImageError("ERR_IMAGE_SOURCE", `recipe ${path}`, {
      expected: "a file",
      got: "none",
      hint: `a recipe is a folder with an image.json, or one of ${RECIPE_NAMES.join(", ")}`,
    });
  }
  try {
    return parseCommentedJson(await readFile(path), "recipe", { maxBytes: MAX_BYTES, maxDepth: 6 });
  } catch (cause) {
    if (!(cause instanceof IronclawError)) throw cause;
    throw new ImageError("ERR_IMAGE_MALFORMED", `${path}: ${cause.message}`, { cause });
  }
}

function checked<T>(schema: z.ZodType<T>, path: string, json: unknown): T {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  const where = issue?.path.join(".") ?? "";
  throw new ImageError("ERR_IMAGE_MALFORMED", `${path}: ${where === "" ? "recipe" : where}: ${issue?.message ?? ""}`, {
    hint: "vm-images/IMAGES.md describes every field",
  });
}

function requireDistinct(recipe: string, workloads: readonly Workload[]): void {
  for (const field of ["name", "uid", "port"] as const) {
    const values = workloads.map((each) => each[field]).filter((value) => value !== null);
    const twice = values.find((value, index) => values.indexOf(value) !== index);
    if (twice === undefined) continue;
    throw new ImageError("ERR_IMAGE_MALFORMED", `recipe ${recipe}: workloads ${field}`, {
      expected: "each once",
      got: `${twice} twice`,
    });
  }
  if (workloads.length > 32) throw new ImageError("ERR_IMAGE_MALFORMED", `recipe ${recipe}: workloads: more than 32`);
}
