import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import { compileProfile } from "../policy/runtime/compile.ts";
import { parseProfile } from "../policy/runtime/parse.ts";

const TEXT = resolve(import.meta.dirname, "../policy/runtime/local.profile");

/** The shim's runtime policy `local`, compiled to the binary form that the shim loads. */
export async function localProfile(): Promise<Uint8Array> {
  return compileProfile(parseProfile(await readFile(TEXT, "utf8")));
}
