import { readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { constants, zstdCompressSync } from "node:zlib";
import { type CpioEntry, encodeCpio } from "./cpio.ts";
import { listFiles } from "./digest.ts";
import { ImageError } from "./errors.ts";
import { runTool } from "./tool.ts";

/**
 * Virtio's bus and ports, the drivers of the root disk and its file system, then those of the state volume; what they depend on
 * is added, and what a kernel has built in is left out. The checksum and the cipher mode are for modules that ask for them by
 * algorithm, which is no dependency.
 */
const MODULES = [
  ...["virtio_pci", "virtio_console", "virtio_blk", "dm-verity", "crc32c_generic", "erofs"],
  ...["dm-integrity", "dm-crypt", "authenc", "ecb", "xts", "ext4"],
];

/**
 * Faster code for what is built in, and the processor's flag without which it is not loaded: emulated AVX2 makes SHA-256
 * slower, and its self-test costs an emulated boot four seconds.
 */
const ACCELERATORS = { "aesni-intel": "aes", "sha256-ssse3": "sha_ni" } as const;

const moduleName = (path: string): string =>
  basename(path)
    .replace(/\.ko(\.xz)?$/, "")
    .replaceAll("-", "_");

/** A module's bytes, decompressed: the signature appended to them survives and is what the kernel checks. */
async function moduleBytes(path: string): Promise<Uint8Array> {
  if (!path.endsWith(".xz")) return readFile(path);
  const hex = await runTool("sh", ["-c", 'xz -dc "$1" | od -An -v -tx1', "xz", path]);
  return Buffer.from(hex.replace(/\s/g, ""), "hex");
}

/** The module's own statement of what it needs: the `depends=` entry of its .modinfo section. */
function dependsOf(bytes: Uint8Array): string[] {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
  const list = /\0depends=([\w,-]*)\0/.exec(text)?.[1] ?? "";
  return list === "" ? [] : list.split(",").map((name) => name.replaceAll("-", "_"));
}

export interface KernelModule {
  readonly name: string;
  /** Its path in the initrd: numbered in the order to load them. */
  readonly file: string;
  readonly bytes: Uint8Array;
  /** Only for processors with this flag in /proc/cpuinfo. */
  readonly flag?: string;
}

/** What the package says that the kernel itself contains: paths as if they were modules. */
async function builtinModules(directory: string): Promise<ReadonlySet<string>> {
  const lists = await listFiles(directory, (name) => name === "modules.builtin");
  const lines = await Promise.all(
    lists.map(async (path) => (await readFile(join(directory, path), "utf8")).split("\n")),
  );
  return new Set(lines.flat().map(moduleName));
}

/**
 * The modules the initrd loads, dependencies first: those of every image, then `further`.
 * Throws {@link ImageError} when the kernel package lacks one.
 */
export async function kernelModules(
  kernelTree: string,
  further: readonly string[] = [],
): Promise<readonly KernelModule[]> {
  const directory = join(kernelTree, "usr/lib/modules");
  const paths = new Map(
    (await listFiles(directory, (name) => /\.ko(\.xz)?$/.test(name))).map((path) => [
      moduleName(path),
      join(directory, path),
    ]),
  );
  const builtin = await builtinModules(directory);
  const loaded = new Map<string, Omit<KernelModule, "file">>();
  const load = async (name: string, flag?: string): Promise<void> => {
    if (loaded.has(name) || builtin.has(name)) return;
    const path = paths.get(name);
    if (path === undefined)
      throw new ImageError("ERR_IMAGE_SOURCE", `kernel module ${name}: not in the kernel package`);
    const bytes = await moduleBytes(path);
    for (const needed of dependsOf(bytes)) await load(needed);
    loaded.set(name, { name, bytes, ...(flag === undefined ? {} : { flag }) });
  };
  for (const name of [...MODULES, ...further]) await load(moduleName(name));
  for (const [name, flag] of Object.entries(ACCELERATORS)) await load(moduleName(name), flag);
  return [...loaded.values()].map((module, index) => ({ ...module, file: initrdPath(module, index) }));
}

function initrdPath({ name, flag }: Omit<KernelModule, "file">, index: number): string {
  return `modules/${String(index).padStart(2, "0")}-${name}${flag === undefined ? "" : `@${flag}`}.ko`;
}

/**
 * The initrd: one static program, its mount points and the kernel modules, as a zstd-compressed cpio archive. The compressor is the pinned Node's own.
 */
export function encodeInitrd(init: Uint8Array, modules: readonly KernelModule[]): Uint8Array {
  const directories = ["dev", "proc", "sys", "root", "modules"].map((name) => ({
    path: `${name}/`,
    mode: 0o755,
  }));
  const files: CpioEntry[] = modules.map(({ file, bytes }) => ({ path: file, mode: 0o644, bytes }));
  const archive = encodeCpio([{ path: "init", mode: 0o755, bytes: init }, ...directories, ...files]);
  return zstdCompressSync(archive, {
    params: {
      [constants.ZSTD_c_compressionLevel]: 19,
      [constants.ZSTD_c_checksumFlag]: 1,
    },
  });
}
