import { execFileSync } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import { softhsmFiles } from "../../vm-images/build.ts";
import type { ImageFile } from "../../vm-images/files.ts";

const root = resolve(import.meta.dirname, "../..");

/** `test/support/<name>.c` in front of the SoftHSM of the image's packages, as the module of a machine. */
export async function moduleOverSofthsm(
  name: string,
  places: { readonly directory: string; readonly cacheDirectory: string },
): Promise<{ readonly library: string; readonly files: readonly ImageFile[] }> {
  const output = join(places.directory, `${name}.so`);
  execFileSync("gcc", [
    ...["-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-D_GNU_SOURCE", "-fPIC", "-fvisibility=hidden", "-shared"],
    ...[`-I${root}/agent/shim`, "-o", output, join(import.meta.dirname, `${name}.c`)],
    ...["-L/usr/lib/softhsm", "-l:libsofthsm2.so", "-Wl,-rpath,/usr/lib/softhsm"],
  ]);
  const library = `/usr/lib/${name}/lib${name}.so`;
  const softhsm = await softhsmFiles(places.cacheDirectory);
  return { library, files: [...softhsm, { path: library, bytes: await readFile(output) }] };
}
