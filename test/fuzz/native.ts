import { execFile, spawnSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync } from "node:fs";
import { join } from "node:path";
import { promisify } from "node:util";
import { ByteWriter } from "../../policy/bytes.ts";
import { root, type Target } from "./catalogue.ts";
import type { Outcome, Run, Subject } from "./subject.ts";

const compile = promisify(execFile);
const folder = import.meta.dirname;
const seconds = 5;

/** The first lines of a driver name what it is built with: `// sources: ...`, `// flags: ...`. */
interface Recipe {
  readonly sources: readonly string[];
  readonly flags: readonly string[];
}

const flags = [
  "-std=c11",
  "-g",
  "-O1",
  "-D_GNU_SOURCE",
  "-fno-omit-frame-pointer",
  "-fno-pie",
  "-no-pie",
  "-fsanitize=address,undefined",
  "-fno-sanitize-recover=all",
  `-I${join(folder, "native")}`,
];
const counted = "-fsanitize-coverage=trace-pc";

/**
 * Builds a driver with gcc's address and undefined-behaviour sanitizers and runs it on many inputs at a time. The project's
 * own files report the places they pass.
 */
export async function openNative(target: Target): Promise<Subject> {
  const program = await buildDriver(target);
  const places = new Map<number, number>();
  let counters = new Uint32Array(256);
  const decode = (record: DataView, count: number): Uint32Array => {
    counters.fill(0);
    for (let index = 0; index < count; index++) {
      const place = record.getUint32(8 * index, true);
      const id = places.get(place) ?? places.size;
      places.set(place, id);
      if (id >= counters.length) counters = grown(counters);
      counters[id] = record.getUint32(8 * index + 4, true);
    }
    return counters;
  };
  return {
    dictionary: readDictionary(target),
    maxLength: 8192,
    batch: 512,
    async run(inputs, report) {
      const { stdout, stderr, signal } = runDriver(program, inputs);
      let at = 0;
      let done = 0;
      for (; done < inputs.length && at + 8 <= stdout.byteLength; done++) {
        const count = stdout.getUint32(at + 4, true);
        const size = 8 + 8 * count;
        const outcome: Outcome = { kind: stdout.getUint32(at, true) === 0 ? "accepted" : "refused" };
        const run = new DataView(stdout.buffer, stdout.byteOffset + at + 8, 8 * count);
        report({ input: inputs[done] as Uint8Array, outcome, counters: decode(run, count) });
        at += size;
      }
      const culprit = inputs[done];
      if (culprit !== undefined) report(crash(culprit, stderr, signal, counters));
    },
  };
}

function grown(counters: Uint32Array): Uint32Array<ArrayBuffer> {
  const wider = new Uint32Array(2 * counters.length);
  wider.set(counters);
  return wider;
}

function crash(input: Uint8Array, stderr: string, signal: string | null, counters: Uint32Array): Run {
  const summary = /SUMMARY: (.*)|runtime error: (.*)/.exec(stderr)?.[0] ?? `driver ended: ${signal ?? "early"}`;
  const what = signal === "SIGALRM" ? "time limit" : summary.replaceAll(/0x[0-9a-f]+|\d+/g, "#").replaceAll(root, "");
  return { input, outcome: { kind: "finding", what, detail: stderr.slice(0, 8000) }, counters };
}

function runDriver(program: string, inputs: readonly Uint8Array[]) {
  const writer = new ByteWriter();
  for (const input of inputs) writer.sized32(input);
  const { stdout, stderr, signal, error } = spawnSync(program, [`${seconds}`], {
    input: writer.finish(),
    maxBuffer: 1 << 28,
    env: {
      ASAN_OPTIONS: "detect_leaks=0:max_allocation_size_mb=64:hard_rss_limit_mb=512",
      UBSAN_OPTIONS: "print_stacktrace=1",
    },
  });
  if (error !== undefined && !("code" in error && error.code === "EPIPE")) throw error;
  return {
    stdout: new DataView(stdout.buffer, stdout.byteOffset, stdout.byteLength),
    stderr: stderr.toString(),
    signal,
  };
}

/** The driver's program, built again only when a file that it is made of has changed. */
async function buildDriver(target: Target): Promise<string> {
  const { sources, flags: own } = readRecipe(target.path);
  const files = [target.path, ...sources];
  const common = [join(folder, "native/driver.c"), join(folder, "native/driver.h")];
  const included = [...readFileSync(target.path, "utf8").matchAll(/^#include "(.*\.[ch])"$/gm)].map(
    ([, name]) => name ?? "",
  );
  const resolved = included.map((name) => join(folder, "native", name)).filter((path) => existsSync(path));
  const digest = createHash("sha256").update(JSON.stringify([flags, own]));
  for (const path of [...files, ...common, ...resolved]) digest.update(readFileSync(path));
  const directory = join(root, "build/fuzz");
  const program = join(directory, `${target.name}-${digest.digest("hex").slice(0, 16)}`);
  if (existsSync(program)) return program;
  mkdirSync(directory, { recursive: true });
  const mine = `${program}.${process.pid}`;
  const objects = files.map((_, index) => `${mine}-${index}.o`);
  for (const [index, file] of files.entries()) {
    await compile("gcc-12", [...flags, ...own.filter(isCompiling), counted, "-c", file, "-o", objects[index] ?? ""]);
  }
  await compile("gcc-12", [
    ...flags,
    join(folder, "native/driver.c"),
    ...objects,
    ...own.filter((flag) => !isCompiling(flag)),
    "-o",
    mine,
  ]);
  await compile("rm", ["-f", ...objects]);
  renameSync(mine, program);
  return program;
}

function isCompiling(flag: string): boolean {
  return flag.startsWith("-I") || flag.startsWith("-D");
}

function readRecipe(path: string): Recipe {
  const text = readFileSync(path, "utf8");
  const words = (name: string) =>
    (new RegExp(`^// ${name}: (.*)$`, "m").exec(text)?.[1] ?? "").split(" ").filter(Boolean);
  return { sources: words("sources").map((name) => join(root, name)), flags: words("flags") };
}

/** Numbers and texts of the C source, as those of the TypeScript bundle: little is lost by reading them with a pattern. */
function readDictionary(target: Target): readonly Uint8Array[] {
  const { sources } = readRecipe(target.path);
  const text = [target.path, ...sources].map((path) => readFileSync(path, "utf8")).join("\n");
  const texts = [...text.matchAll(/"([ -!#-[\]-~]{1,40})"/g)].map(([, found]) => new TextEncoder().encode(found));
  const numbers = [...text.matchAll(/\b(0x[0-9a-fA-F]{1,8}|\d{1,9})\b/g)].flatMap(([found]) => {
    const value = Number(found);
    return [
      new ByteWriter().u32(value).finish(),
      new ByteWriter().u32(value).finish().subarray(2),
      Uint8Array.of(value),
    ];
  });
  return [...texts, ...numbers, Uint8Array.of(0)];
}
