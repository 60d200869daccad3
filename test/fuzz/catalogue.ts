import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";

export const root = resolve(import.meta.dirname, "../..");

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
  return ["corpus", "regressions"].flatMap((kind) => {
    const directory = join(import.meta.dirname, kind, name);
    if (!existsSync(directory)) return [];
    return readdirSync(directory)
      .sort()
      .map((file) => Uint8Array.from(readFileSync(join(directory, file))));
  });
}
