import { copyFile, readFile, rename, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join, relative, resolve } from "node:path";
import { listFiles, sha256Hex } from "./digest.ts";
import { ImageError, reportFailure } from "./errors.ts";
import { makeDirectory } from "./make-directory.ts";
import { compiledProfiles } from "./profiles.ts";
import { runTool } from "./tool.ts";
import { exists } from "./unpack.ts";

const require = createRequire(import.meta.url);
const root = resolve(import.meta.dirname, "..");

/** One native program or add-on, built from all C or C++ files of a folder. */
export interface NativePart {
  readonly output: string;
  /** addon: loaded by Node; program: dynamic; static: also runs where no loader and no library exist yet. */
  readonly kind: "addon" | "program" | "static";
  /** Absolute folder of the sources. */
  readonly directory: string;
  /** File names of the folder, or of another from there. Default: all .c files of the folder, which `ALL_C` is in a list. */
  readonly sources?: readonly string[];
  readonly libraries?: readonly string[];
  readonly flags?: readonly string[];
}

const TSS = ["tss2-esys", "tss2-mu", "tss2-rc", "tss2-tctildr", "crypto"];
const ALL_C = "*.c";
const pkcs11js = dirname(require.resolve("pkcs11js/package.json"));

/** Everything compiled, for this machine's tests and for the image alike. */
export const NATIVE_PARTS: readonly NativePart[] = [
  { output: "tpm2_tss.node", kind: "addon", directory: join(root, "seal/node-tpm2-tss/native"), libraries: TSS },
  { output: "agent_native.node", kind: "addon", directory: join(root, "agent/native") },
  {
    output: "unsealer",
    kind: "program",
    directory: join(root, "seal/unsealer"),
    sources: [ALL_C, "../node-tpm2-tss/native/openssl_context.c"],
    libraries: [...TSS, "tss2-sys"],
  },
  // Nothing of the shim may be visible to the library it loads: no -rdynamic.
  { output: "shim", kind: "program", directory: join(root, "agent/shim") },
  { output: "spawner", kind: "static", directory: join(root, "agent/spawner") },
  {
    output: "relay",
    kind: "static",
    directory: join(root, "agent/relay"),
    sources: [ALL_C, "../spawner/endpoint.c", "../spawner/log_format.c"],
  },
  { output: "kernel-probe", kind: "static", directory: join(root, "agent/doctor/probe") },
  { output: "init", kind: "static", directory: join(root, "vm-images/initrd") },
  {
    output: "pkcs11.node",
    kind: "addon",
    directory: join(pkcs11js, "src"),
    sources: ["dl.cpp", "common.cpp", "main.cpp"],
    flags: [`-I${join(pkcs11js, "includes")}`, "-DNAPI_DISABLE_CPP_EXCEPTIONS"],
  },
];

export interface NativeTarget {
  /** Where the results go. */
  readonly directory: string;
  /** Headers and libraries to compile against; absent = this machine's own. */
  readonly sysroot?: { readonly path: string; readonly digest: string };
}

/** The release of the sysroot's libgcc: an image's C parts come from the same compiler on every Debian. */
const COMPILER = 12;
const C_FLAGS = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE"];
const COMMON = ["-O2", "-D_FORTIFY_SOURCE=2", "-fstack-protector-strong", "-pthread"];
const HARDENED_LINK = ["-Wl,-z,relro,-z,now", "-Wl,-z,noexecstack"];

function kindFlags(kind: NativePart["kind"]): readonly string[] {
  if (kind === "static") return ["-static"];
  if (kind === "program") return ["-fPIE", "-pie"];
  const node = dirname(require.resolve(`node-linux-${process.arch}/package.json`));
  return ["-shared", "-fPIC", "-fvisibility=hidden", "-DNAPI_VERSION=9", `-I${join(node, "include/node")}`];
}

const TRIPLET = "x86_64-linux-gnu";
const GCC_FILES = `usr/lib/gcc/${TRIPLET}/${COMPILER}`;
const CPP_INCLUDES = [
  `usr/include/c++/${COMPILER}`,
  `usr/include/${TRIPLET}/c++/${COMPILER}`,
  `usr/include/c++/${COMPILER}/backward`,
];
const C_INCLUDES = [`${GCC_FILES}/include`, `usr/include/${TRIPLET}`, "usr/include"];

/**
 * Headers, start files and libraries come from the sysroot alone: `--sysroot` by itself prefers this machine's copies beside
 * the compiler. Folder names and anything random are kept out of the result; an image's files carry no symbol table.
 */
function targetFlags({ sysroot }: NativeTarget, cpp: boolean): readonly string[] {
  if (sysroot === undefined) return [];
  const { path } = sysroot;
  return [
    `--sysroot=${path}`,
    ...[GCC_FILES, `usr/lib/${TRIPLET}`].map((folder) => `-B${join(path, folder)}`),
    "-nostdinc",
    ...[...(cpp ? CPP_INCLUDES : []), ...C_INCLUDES].map((folder) => `-isystem${join(path, folder)}`),
    `-ffile-prefix-map=${path}=`,
    `-ffile-prefix-map=${root}=.`,
    "-Wl,--build-id=none",
    "-s",
  ];
}

interface Compilation {
  readonly compiler: string;
  readonly args: readonly string[];
  /** Absolute paths of all files that the result depends on. */
  readonly inputs: readonly string[];
}

async function compilation(part: NativePart, target: NativeTarget): Promise<Compilation> {
  const isSource = (name: string): boolean => /\.(c|h|cpp)$/.test(name);
  const files = await listFiles(part.directory, isSource);
  const allC = files.filter((name) => name.endsWith(".c"));
  const sources = (part.sources ?? [ALL_C]).flatMap((name) => (name === ALL_C ? allC : name));
  const shared = [...new Set(sources.map((name) => dirname(join(part.directory, name))))];
  const inputs = await Promise.all(
    [...new Set([part.directory, ...shared])].map(async (folder) =>
      (await listFiles(folder, isSource)).map((name) => join(folder, name)),
    ),
  );
  if (sources.length === 0) {
    throw new ImageError("ERR_IMAGE_SOURCE", `${part.output}: no sources in ${relative(root, part.directory)}`);
  }
  const cpp = sources.some((name) => name.endsWith(".cpp"));
  return {
    compiler: cpp ? `g++-${COMPILER}` : `gcc-${COMPILER}`,
    args: [
      ...(cpp ? ["-std=c++17"] : C_FLAGS),
      ...COMMON,
      ...HARDENED_LINK,
      ...kindFlags(part.kind),
      ...targetFlags(target, cpp),
      ...(part.flags ?? []),
      ...sources.map((name) => join(part.directory, name)),
      ...(part.libraries ?? []).map((name) => `-l${name}`),
    ],
    inputs: inputs.flat(),
  };
}

/**
 * Compile one part unless sources, flags, compiler and sysroot are those of the file that is there.
 * Returns whether it was compiled.
 */
async function buildPart(part: NativePart, target: NativeTarget, toolVersion: string): Promise<boolean> {
  const { compiler, args, inputs } = await compilation(part, target);
  const contents = await Promise.all(inputs.map(async (path) => sha256Hex(await readFile(path))));
  const stamp = sha256Hex([toolVersion, target.sysroot?.digest ?? "host", ...args, ...contents].join("\n"));
  const output = join(target.directory, part.output);
  const stampPath = join(target.directory, `.${part.output}.stamp`);
  const known = (await exists(output)) ? await readFile(stampPath, "utf8").catch(() => "") : "";
  if (known === stamp) return false;
  const partial = `${output}.partial-${process.pid}`;
  await runTool(compiler, [...args, "-o", partial]).catch((cause: unknown) => {
    const why = cause instanceof Error ? cause.message : "unknown failure";
    throw new ImageError("ERR_IMAGE_SOURCE", `${part.output}: ${why}`, { cause });
  });
  await rename(partial, output);
  await writeFile(stampPath, stamp);
  return true;
}

/**
 * Build native parts into `target.directory` and return the names of those that were out of date.
 * Throws {@link ImageError} with the compiler's message.
 */
export async function buildNative(
  target: NativeTarget,
  parts: readonly NativePart[] = NATIVE_PARTS,
): Promise<readonly string[]> {
  await makeDirectory(target.directory);
  const toolVersion = await runTool(`gcc-${COMPILER}`, ["-dumpfullversion"]);
  // All are tried before the first failure is reported: one broken part does not hold up the others.
  const results = await Promise.allSettled(parts.map((part) => buildPart(part, target, toolVersion)));
  const failed = results.find((result) => result.status === "rejected");
  if (failed !== undefined) throw failed.reason;
  return parts.flatMap(({ output }, index) => {
    const result = results[index];
    return result?.status === "fulfilled" && result.value ? [output] : [];
  });
}

/** Where this machine's own builds are: what tests and the host-side commands load. */
export const HOST_NATIVE_DIRECTORY = join(root, "build/native");

/** Where the pkcs11js package looks for its add-on. npm runs no install scripts here, so the file is put there. */
const PKCS11JS_ADDON = join(pkcs11js, "build/Release/pkcs11.node");

/** Build everything for this machine: native parts, the compiled profiles, and the add-on that pkcs11js expects. */
export async function buildHostNative(): Promise<readonly string[]> {
  const built = await buildNative({ directory: HOST_NATIVE_DIRECTORY });
  for (const [name, bytes] of compiledProfiles()) await writeFile(join(HOST_NATIVE_DIRECTORY, name), bytes);
  if (built.includes("pkcs11.node") || !(await exists(PKCS11JS_ADDON))) {
    await makeDirectory(dirname(PKCS11JS_ADDON));
    await copyFile(join(HOST_NATIVE_DIRECTORY, "pkcs11.node"), PKCS11JS_ADDON);
  }
  return built;
}

async function main(): Promise<void> {
  const built = await buildHostNative();
  if (built.length > 0) console.log(`native: built ${built.join(", ")}`);
}

if (import.meta.main) await main().catch(reportFailure);
