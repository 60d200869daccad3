import { sha256, toHex } from "../policy/index.ts";
import { type ElfMachine, type ElfObject, parseElf } from "./elf.ts";
import { AttestError } from "./errors.ts";
import { CPU_LEVELS, type CpuLevel, type LibraryCache, parseLibraryCache } from "./library-cache.ts";

// Dependency search of glibc's ld.so (ld.so(8)), as it works inside the shim's private root: no LD_LIBRARY_PATH, no symbolic links, and nothing
// but the files that are measured. An ld.so.cache is used when it is one of these, and only then.

/** A library and everything that the loader opens to load it. Digests are lower-case hex SHA-256. */
export interface Pin {
  readonly path: string;
  readonly sha256: string;
  /** Path that the loader opens -> digest. Holds the interpreter; not the library itself. Sorted by path. */
  readonly closure: Readonly<Record<string, string>>;
  /** Path of the loader. */
  readonly interpreter: string;
}

export interface MeasuredPin extends Pin {
  /** What the person who pins should know, sorted by path. */
  readonly warnings: readonly PinWarning[];
}

export interface PinWarning {
  readonly path: string;
  /** `opens-later`: what else it opens is not in the closure. All others: it will not load where no memory may be writable and executable. */
  readonly trait: "executable-stack" | "text-relocations" | "writable-code" | "opens-later";
}

export interface ClosureSource {
  /** Absolute path of the library, as dlopen will be given it. */
  readonly entry: string;
  /** Absolute path of the program that loads it; measured with its own dependencies when given. */
  readonly executable?: string;
  /** Content of the file that opening `path` yields (symbolic links followed), `null` when there is none. */
  readonly readFile: (path: string) => Uint8Array | null;
  /** The file behind `path` once every symbolic link is followed; only compared with each other. */
  readonly realPath?: (path: string) => string;
  /** Directories searched last, in order: what the loader has built in. */
  readonly ldPaths?: readonly string[];
  /** The loader; by default the executable's PT_INTERP, else the usual path for the entry's machine. */
  readonly interpreter?: string;
  /**
   * Objects that are opened later: providers, plug-ins. By absolute path, or by a name that is searched as the library's own dlopen would.
   * Measured with what they need.
   */
  readonly also?: readonly string[];
  /** Refuse any other machine than this. */
  readonly machine?: ElfMachine;
  /** The class of the processor that will run it. Without, there are no variants in `glibc-hwcaps`. */
  readonly cpu?: CpuLevel;
  /** The bytes of the `/etc/ld.so.cache` that the shim's root will hold. */
  readonly cache?: Uint8Array;
}

/** Debian's built-in search directories (multiarch first). */
export function defaultLdPaths(machine: ElfMachine): readonly string[] {
  return [`/lib/${machine}-linux-gnu`, `/usr/lib/${machine}-linux-gnu`, "/lib", "/usr/lib"];
}

const defaultInterpreter: Readonly<Record<ElfMachine, string>> = {
  x86_64: "/lib64/ld-linux-x86-64.so.2",
  aarch64: "/lib/ld-linux-aarch64.so.1",
};

const MAX_OBJECTS = 256;

interface Loaded {
  readonly path: string;
  readonly elf: ElfObject;
  readonly digest: string;
  /** The object whose DT_NEEDED brought this one in, or that called dlopen. */
  readonly parent: Loaded | null;
}

/**
 * Find and hash everything that loading `entry`, and then each of `also`, makes the loader open. Never runs a file, and never asks a loader.
 *
 * Variants in `glibc-hwcaps` subdirectories are looked at for the processor class that `cpu` names. Without one they are not in the closure,
 * hence not in the private root, so every processor loads the same bytes. Keys are the paths as the loader spells them.
 *
 * Does not cover what the library opens itself (dlopen, configuration, plug-ins) unless it is named in `also`: `warnings` says who may do so.
 * Throws {@link AttestError} ERR_CLOSURE_MISSING naming who needs what, or ERR_ELF_*.
 */
export function measureClosure(source: ClosureSource): MeasuredPin {
  return new Loader(source).measure();
}

class Loader {
  readonly #source: ClosureSource;
  readonly #loaded: Loaded[] = [];
  /** Names by which a request finds an object that is loaded already: requested names and sonames. */
  readonly #names = new Map<string, Loaded>();
  readonly #realPaths = new Map<string, string>();
  readonly #cache: LibraryCache | null;
  /** Subdirectories that the loader tries before each directory. */
  readonly #variants: readonly string[];
  #machine: ElfMachine | null = null;

  constructor(source: ClosureSource) {
    this.#source = source;
    this.#machine = source.machine ?? null;
    this.#cache = source.cache === undefined ? null : parseLibraryCache(source.cache);
    const levels = source.cpu === undefined ? [] : CPU_LEVELS.slice(0, CPU_LEVELS.indexOf(source.cpu) + 1);
    this.#variants = levels.map((level) => `glibc-hwcaps/${level}`).reverse();
  }

  measure(): MeasuredPin {
    const { entry, executable } = this.#source;
    const program = executable === undefined ? null : this.#open(executable, null, "the caller");
    const library = this.#parse(entry, "the caller");
    this.#requireMachine(entry, library.elf);
    const interpreter = this.#interpreter(program?.elf ?? null, library.elf);
    // The kernel maps the loader before anything else, so a request for its soname never searches.
    const loader = this.#open(interpreter, null, "the kernel");
    this.#names.set(interpreter, loader);
    if (program !== null) this.#loadNeeded(program);
    const root = this.#add(entry, library, program);
    this.#loadNeeded(root);
    // The caller of dlopen stands where else the one who needs it does.
    for (const name of this.#source.also ?? []) {
      const known = this.#names.get(name);
      if (known === undefined) this.#loadNeeded(this.#find(name, root));
    }
    const others = this.#loaded.filter((object) => object !== root);
    const sorted = others.map((object) => [object.path, object.digest] as const).sort(([a], [b]) => (a < b ? -1 : 1));
    return {
      path: entry,
      sha256: root.digest,
      closure: Object.fromEntries(sorted),
      interpreter,
      warnings: this.#loaded.flatMap(warningsOf).sort((a, b) => (a.path < b.path ? -1 : 1)),
    };
  }

  #interpreter(program: ElfObject | null, library: ElfObject): string {
    const asked = this.#source.interpreter;
    const own = program?.interpreter;
    if (own !== undefined && own !== null) {
      if (asked === undefined || asked === own) return own;
      throw new AttestError("ERR_CLOSURE", "elf PT_INTERP", {
        expected: asked,
        got: own,
      });
    }
    return asked ?? defaultInterpreter[library.machine];
  }

  /** Breadth first, as the loader does: the order decides which object a repeated name finds. */
  #loadNeeded(start: Loaded): void {
    const queue: Loaded[] = [start];
    for (let object = queue.shift(); object !== undefined; object = queue.shift()) {
      for (const name of object.elf.needed) {
        if (this.#names.has(name)) continue;
        const found = this.#find(name, object);
        this.#names.set(name, found);
        queue.push(found);
      }
    }
  }

  #find(name: string, parent: Loaded): Loaded {
    requireLiteral(name, "DT_NEEDED", parent.path);
    if (name.includes("/")) return this.#open(absolute(name, parent.path), parent, parent.path);
    const own = ownDirectories(parent);
    const defaults = this.#source.ldPaths ?? defaultLdPaths(parent.elf.machine);
    const searched = parent.elf.searchesDefaults ? defaults : [];
    const found =
      this.#findIn(own, name, parent) ??
      this.#findCached(name, parent, defaults) ??
      this.#findIn(searched, name, parent);
    if (found !== null) return found;
    throw new AttestError("ERR_CLOSURE_MISSING", `${parent.path} needs ${name}`, {
      expected: "the file in one of its search directories",
      got: [...own, ...searched].join(":"),
      hint: "add it to the module bundle in a directory that the loader searches, or an /etc/ld.so.cache that names it",
    });
  }

  #findIn(directories: readonly string[], name: string, parent: Loaded): Loaded | null {
    for (const directory of directories) {
      for (const variant of [...this.#variants, ""]) {
        const found = this.#openIfOurs(normalise(`${directory}/${variant}/${name}`), parent);
        if (found !== null) return found;
      }
    }
    return null;
  }

  /** DF_1_NODEFLIB keeps what the cache knows of the default directories out as well. */
  #findCached(name: string, parent: Loaded, defaults: readonly string[]): Loaded | null {
    const path = this.#cache?.find(name, parent.elf.machine, this.#source.cpu) ?? null;
    if (path === null) return null;
    const directory = path.slice(0, path.lastIndexOf("/"));
    if (!parent.elf.searchesDefaults && defaults.includes(directory)) return null;
    return this.#openIfOurs(absolute(path, "ld.so.cache"), parent);
  }

  /** The loader passes over a library for another class or machine and goes on searching. */
  #openIfOurs(path: string, parent: Loaded): Loaded | null {
    const known = this.#loaded.find((object) => object.path === path);
    if (known !== undefined) return known;
    const bytes = this.#source.readFile(path);
    return bytes !== null && this.#isOurs(bytes) ? this.#add(path, parsed(path, bytes), parent) : null;
  }

  #open(path: string, parent: Loaded | null, neededBy: string): Loaded {
    return this.#loaded.find((object) => object.path === path) ?? this.#add(path, this.#parse(path, neededBy), parent);
  }

  #parse(path: string, neededBy: string): { readonly elf: ElfObject; readonly digest: string } {
    const bytes = this.#source.readFile(path);
    if (bytes === null) {
      throw new AttestError("ERR_CLOSURE_MISSING", `${neededBy} needs ${path}`, { expected: "the file", got: "none" });
    }
    return parsed(path, bytes);
  }

  #add(path: string, file: { readonly elf: ElfObject; readonly digest: string }, parent: Loaded | null): Loaded {
    const { elf, digest } = file;
    this.#requireMachine(path, elf);
    if (this.#loaded.length >= MAX_OBJECTS) {
      throw new AttestError("ERR_CLOSURE", "closure", {
        expected: `at most ${MAX_OBJECTS} objects`,
        got: "more",
      });
    }
    this.#requireOneFile(path);
    const object = { path, elf, digest, parent };
    this.#loaded.push(object);
    if (elf.soname !== null && !this.#names.has(elf.soname)) this.#names.set(elf.soname, object);
    return object;
  }

  /** All of them are for one machine: the shim's where it is known, else the first one's. */
  #requireMachine(path: string, { machine }: ElfObject): void {
    this.#machine ??= machine;
    if (machine === this.#machine) return;
    throw new AttestError("ERR_CLOSURE", `${path} e_machine`, { expected: this.#machine, got: machine });
  }

  /** Two paths to one file are one object on a system with links, and two in a private root of copies: refuse. */
  #requireOneFile(path: string): void {
    const real = this.#source.realPath?.(path) ?? path;
    const other = this.#realPaths.get(real);
    if (other !== undefined) {
      throw new AttestError("ERR_CLOSURE", `${path}: the same file as ${other}`, {
        expected: "one path for each file",
        got: "two, which would be loaded twice",
      });
    }
    this.#realPaths.set(real, path);
  }

  #isOurs(bytes: Uint8Array): boolean {
    const machine = this.#machine === "aarch64" ? 183 : 62;
    return bytes.length < 20 || (bytes[4] === 2 && bytes[18] === machine && bytes[19] === 0);
  }
}

function parsed(path: string, bytes: Uint8Array): { readonly elf: ElfObject; readonly digest: string } {
  try {
    return { elf: parseElf(bytes), digest: toHex(sha256(bytes)) };
  } catch (error) {
    if (!(error instanceof AttestError)) throw error;
    throw new AttestError(error.code, `${path}: ${error.message}`, {
      cause: error,
    });
  }
}

/** ld.so(8): the RPATHs from the requesting object up to the program, unless it has a RUNPATH: then that. */
function ownDirectories(object: Loaded): string[] {
  if (object.elf.runpath !== null) return expand(object.elf.runpath, object.path);
  const directories: string[] = [];
  for (let at: Loaded | null = object; at !== null; at = at.parent) directories.push(...expand(at.elf.rpath, at.path));
  return directories;
}

function warningsOf({ path, elf: { traits } }: Loaded): PinWarning[] {
  const found: readonly (readonly [boolean, PinWarning["trait"]])[] = [
    [traits.executableStack, "executable-stack"],
    [traits.textRelocations, "text-relocations"],
    [traits.writableCode, "writable-code"],
    [traits.opensLater, "opens-later"],
  ];
  return found.flatMap(([has, trait]) => (has ? [{ path, trait }] : []));
}

/** RPATH elements as directories. `$ORIGIN` is the directory of the object's own path; other tokens are refused. */
function expand(elements: readonly string[], path: string): string[] {
  const origin = path.slice(0, path.lastIndexOf("/")) || "/";
  return elements.map((element) => {
    const directory = element.replace(/^(\$ORIGIN|\$\{ORIGIN\})(?=\/|$)/, origin);
    requireLiteral(directory, "RPATH", path);
    return absolute(directory, path);
  });
}

function requireLiteral(text: string, what: string, path: string): void {
  if (!text.includes("$")) return;
  throw new AttestError("ERR_ELF_UNSUPPORTED", `${path} ${what}`, {
    expected: "no token but a leading $ORIGIN",
    got: text,
  });
}

/** A relative or empty element means the working directory of whoever loads: never measurable. */
function absolute(path: string, who: string): string {
  if (path.startsWith("/")) return normalise(path);
  throw new AttestError("ERR_ELF_UNSUPPORTED", `${who}: search path`, {
    expected: "an absolute path",
    got: JSON.stringify(path),
  });
}

/** Without empty, `.` and `..` components. Exact in the private root, which holds no symbolic links. */
function normalise(path: string): string {
  const parts: string[] = [];
  for (const component of path.split("/")) {
    if (component === "..") parts.pop();
    else if (component !== "" && component !== ".") parts.push(component);
  }
  return `/${parts.join("/")}`;
}
