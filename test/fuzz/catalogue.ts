import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";

export const root = resolve(import.meta.dirname, "../..");
const NOTE = ".txt";

/** A parser to fuzz: a TypeScript file with a `run` function, or a C file with a `fuzz_one`. */
export interface Target {
  readonly name: string;
  readonly kind: "javascript" | "native";
  /** Absolute. */
  readonly path: string;
}

/** Every target in the tree, by name: `targets/*.ts`, and `native/*.c` but for what they share. */
export function listTargets(): readonly Target[] {
  const found = (directory: string, ending: string, kind: Target["kind"]): Target[] =>
    readdirSync(join(import.meta.dirname, directory))
      .filter((file) => file.endsWith(ending) && file !== "driver.c")
      .map((file) => ({ name: file.slice(0, -ending.length), kind, path: join(import.meta.dirname, directory, file) }));
  return [...found("targets", ".ts", "javascript"), ...found("native", ".c", "native")].sort((a, b) =>
    a.name < b.name ? -1 : 1,
  );
}

/** What a target starts from: inputs that real encoders made, and those that once were findings. In the order of their names. */
export function readCorpus(name: string): readonly Uint8Array[] {
  return ["corpus", "regressions"].flatMap((kind) => readInputs(join(import.meta.dirname, kind), name));
}

/** The inputs of a target in a directory that has a folder for each. */
export function readInputs(directory: string, name: string): readonly Uint8Array[] {
  const folder = join(directory, name);
  if (!existsSync(folder)) return [];
  const files = readdirSync(folder).filter((file) => !file.endsWith(NOTE));
  return files.sort().map((file) => Uint8Array.from(readFileSync(join(folder, file))));
}

/** Writes an input under the name that its bytes give it, with a note beside it if there is one; returns where it is. */
export function writeInput(directory: string, name: string, input: Uint8Array, note?: string): string {
  const folder = resolve(root, directory, name);
  const path = join(folder, createHash("sha256").update(input).digest("hex").slice(0, 16));
  mkdirSync(folder, { recursive: true });
  writeFileSync(path, input);
  if (note !== undefined) writeFileSync(`${path}${NOTE}`, note);
  return path;
}
