import { SHIM_PATH } from "../agent/launch/files.ts";
import { type ModulePolicy, measureClosure, modulePolicy } from "../attest/index.ts";
import { sha256Hex } from "../policy/index.ts";
import { ImageError } from "./errors.ts";
import type { ImageFile } from "./files.ts";
import type { GuestTree } from "./guest-tree.ts";

/** Where the measured root image holds the project's programs. */
export const PROGRAMS = "/usr/lib/ironclaw";

export interface ModuleOrder {
  /** Path of the library among `files`. */
  readonly library: string;
  /** All that the cabinet's module bundle brings; `tree` has these files laid over the root image. */
  readonly files: readonly ImageFile[];
  readonly environment: Readonly<Record<string, string>>;
}

/**
 * Pin a module as the shim's loader will see it: the library, what it needs from `files` and the image's root, and its
 * configuration, which is every other of `files`. Runs nothing.
 * @throws ImageError ERR_IMAGE_SOURCE; AttestError ERR_ELF_MALFORMED, ERR_CLOSURE_MISSING and others of `measureClosure`
 */
export function pinModule(tree: GuestTree, { library, files, environment }: ModuleOrder): ModulePolicy {
  if (!files.some(({ path }) => path === library)) {
    throw new ImageError("ERR_IMAGE_SOURCE", `module ${library}`, {
      expected: "a file of the module",
      got: files.map(({ path }) => path).join(" ") || "no files",
    });
  }
  const pin = measureClosure({
    entry: library,
    executable: SHIM_PATH,
    readFile: (path) => tree.readFile(path === SHIM_PATH ? `${PROGRAMS}/shim` : path),
    realPath: (path) => tree.realPath(path),
  });
  // The shim itself is part of the image, which the release names: a policy pins what it brings and what that needs.
  const { [SHIM_PATH]: _shim, ...closure } = pin.closure;
  const configuration = files
    .filter(({ path }) => path !== pin.path && !Object.hasOwn(closure, path))
    .map(({ path, bytes }) => [path, sha256Hex(bytes)]);
  return modulePolicy({ ...pin, closure }, Object.fromEntries(configuration), environment);
}
