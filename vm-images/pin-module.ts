import { SHIM_PATH } from "../agent/launch/files.ts";
import { type CpuLevel, type MeasuredPin, type ModulePolicy, measureClosure, modulePolicy } from "../attest/index.ts";
import { sha256Hex } from "../policy/index.ts";
import { ImageError } from "./errors.ts";
import type { ImageFile } from "./files.ts";
import { type GuestTree, requireGuestFile } from "./guest-tree.ts";

/** Where the measured root image holds the project's programs. */
export const PROGRAMS = "/usr/lib/ironclaw";
/** Used by the loader when the shim's root has it. */
export const LIBRARY_CACHE = "/etc/ld.so.cache";

export interface ModuleOrder {
  /** Path of the library among `files`. */
  readonly library: string;
  /** All that the cabinet's module bundle brings; `tree` has these files laid over the root image. */
  readonly files: readonly ImageFile[];
  readonly environment: Readonly<Record<string, string>>;
  /** What is opened later: providers, plug-ins. Of the bundle or of the image. */
  readonly also?: readonly string[];
  /** Configuration that the image has and the bundle has not. */
  readonly config?: readonly string[];
  readonly cpu?: CpuLevel;
}

export interface PinnedModule {
  readonly pin: MeasuredPin;
  readonly module: ModulePolicy;
}

/**
 * Pin a module as the shim's loader will see it: the library, what it needs from `files` and the image's root, and its
 * configuration, which is every other of `files`. Runs nothing.
 * @throws ImageError ERR_IMAGE_SOURCE; AttestError ERR_ELF_MALFORMED, ERR_CLOSURE_MISSING and others of `measureClosure`
 */
export function pinModule(tree: GuestTree, order: ModuleOrder): ModulePolicy {
  return measureModule(tree, order).module;
}

export function measureModule(tree: GuestTree, order: ModuleOrder): PinnedModule {
  const { library, files, environment, also = [], config = [], cpu } = order;
  if (!files.some(({ path }) => path === library)) {
    throw new ImageError("ERR_IMAGE_SOURCE", `module ${library}`, {
      expected: "a file of the module",
      got: files.map(({ path }) => path).join(" ") || "no files",
    });
  }
  const named = config.map((path) => ({ path, bytes: requireGuestFile(tree, path) }));
  const cache = [...files, ...named].find(({ path }) => path === LIBRARY_CACHE)?.bytes;
  const pin = measureClosure({
    entry: library,
    executable: SHIM_PATH,
    readFile: (path) => tree.readFile(path === SHIM_PATH ? `${PROGRAMS}/shim` : path),
    realPath: (path) => tree.realPath(path),
    also,
    ...(cpu === undefined ? {} : { cpu }),
    ...(cache === undefined ? {} : { cache }),
  });
  // The shim itself is part of the image, which the release names: a policy pins what it brings and what that needs.
  const { [SHIM_PATH]: _shim, ...closure } = pin.closure;
  const others = [...files, ...named].filter(({ path }) => path !== pin.path && !Object.hasOwn(closure, path));
  for (const file of others) requireNoCode(file);
  const configuration = Object.fromEntries(others.map(({ path, bytes }) => [path, sha256Hex(bytes)]));
  return { pin, module: modulePolicy({ ...pin, closure }, configuration, environment) };
}

/** An object that nothing needs would be there to load all the same: a variant for other processors, a plug-in whose own needs nobody measured. */
function requireNoCode({ path, bytes }: ImageFile): void {
  if (!(bytes[0] === 0x7f && bytes[1] === 0x45 && bytes[2] === 0x4c && bytes[3] === 0x46)) return;
  throw new ImageError("ERR_IMAGE_SOURCE", `module ${path}`, {
    expected: "no ELF file but the library, what it needs, and what is named",
    got: "one more",
    hint: `name it with --also ${path} if the library opens it later, or leave it out`,
  });
}
