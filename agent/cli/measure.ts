import { readFileSync, realpathSync } from "node:fs";
import { join, resolve } from "node:path";
import {
  CPU_LEVELS,
  type CpuLevel,
  environmentDigest,
  type MeasuredPin,
  measureClosure,
  modulePolicy,
  type PinWarning,
} from "../../attest/index.ts";
import { sha256Hex } from "../../policy/index.ts";
import { GuestTree } from "../../vm-images/guest-tree.ts";
import { LIBRARY_CACHE, measureModule, type PinnedModule } from "../../vm-images/pin-module.ts";
import { readTree } from "./cabinet-slots.ts";
import { type Command, type CommandInput, UsageError } from "./command.ts";
import { readInput } from "./files.ts";
import { answer } from "./output.ts";

export const command: Command = {
  summary: "pin a PKCS#11 library: the digests of it and of everything the loader opens for it; runs nothing",
  positionals: ["LIBRARY"],
  options: {
    image: { type: "string", value: "DIR", help: "pin it for this image: what `image build --out` filled" },
    module: { type: "string", value: "DIR", help: "with --image: the library and its files, under their guest paths" },
    also: {
      type: "string",
      value: "PATH",
      multiple: true,
      help: "an object that it opens later, with what that needs",
    },
    config: { type: "string", value: "PATH", multiple: true, help: "a file that it reads: configuration, tables" },
    environment: { type: "string", value: "NAME=VALUE", multiple: true, help: "a variable that it gets" },
    cpu: { type: "string", value: "LEVEL", help: `variants for this class of processor: ${CPU_LEVELS.join(", ")}` },
    json: { type: "boolean", help: "print the policy's `module` fragment as JSON" },
  },
  examples: [
    "ironclaw measure /usr/lib/softhsm/libsofthsm2.so",
    "ironclaw measure /usr/lib/softhsm/libsofthsm2.so --image build/image/demo --module module --json",
    "ironclaw measure /usr/lib/softhsm/libsofthsm2.so --config /etc/softhsm2.conf --environment SOFTHSM2_CONF=/etc/softhsm2.conf",
    "ironclaw measure /usr/lib/x86_64-linux-gnu/opensc-pkcs11.so --also libpcsclite.so.1 --cpu x86-64-v3",
  ],
  run: async (input, io) => {
    io.phase("hashing the library and what it needs");
    const measured = input.optional("image") === undefined ? await measureHere(input) : await measureForImage(input);
    const { pin, module } = measured;
    const files = Object.entries({ [module.path]: module.sha256, ...module.closure, ...module.config });
    const lines = files.map(([path, digest]) => `${digest}  ${path}`);
    for (const warning of pin.warnings) {
      if (warning.trait !== "opens-later") io.complain(`warning: ${warning.path}: ${WARNINGS[warning.trait]}`);
    }
    answer(input, io, module, [...lines, ...openers(pin)].join("\n"));
    return 0;
  },
};

const WARNINGS: Readonly<Record<Exclude<PinWarning["trait"], "opens-later">, string>> = {
  "executable-stack": "wants an executable stack: no profile lets it load",
  "text-relocations": "has text relocations: no profile lets it load",
  "writable-code": "has a segment that is writable and executable: no profile lets it load",
};

/** What no closure can show, for people. */
function openers({ warnings }: MeasuredPin): string[] {
  const later = warnings.filter(({ trait }) => trait === "opens-later").map(({ path }) => path);
  return later.length === 0 ? [] : [`# can open more at run time (see --also, --config): ${later.join(" ")}`];
}

function environmentOf(input: CommandInput): Readonly<Record<string, string>> {
  const entries = input.list("environment").map((entry) => {
    const [, name = "", value = ""] = /^([A-Za-z_][A-Za-z0-9_]*)=(.*)$/.exec(entry) ?? [];
    if (name === "") throw new UsageError("--environment", { expected: "NAME=VALUE", got: "something else" });
    return [name, value] as const;
  });
  const environment = Object.fromEntries(entries);
  if (Object.keys(environment).length !== entries.length) {
    throw new UsageError("--environment", { expected: "each name once", got: "one twice" });
  }
  environmentDigest(environment); // refuses what cannot be measured
  return environment;
}

function cpuOf(input: CommandInput): { readonly cpu?: CpuLevel } {
  if (input.optional("cpu") === undefined) return {};
  const [lowest, ...others] = CPU_LEVELS;
  return { cpu: input.choice("cpu", [lowest, ...others]) };
}

/** With the libraries of the machine that this runs on. */
async function measureHere(input: CommandInput): Promise<PinnedModule> {
  if (input.optional("module") !== undefined)
    throw new UsageError("--module", { expected: "--image too", got: "none" });
  const entry = resolve(input.positional(0));
  await readInput(entry, "library");
  const config = new Map<string, Uint8Array>();
  for (const path of input.list("config").map((name) => resolve(name))) {
    config.set(path, await readInput(path, "configuration"));
  }
  const cache = config.get(LIBRARY_CACHE);
  const readFile = (path: string): Uint8Array | null => {
    try {
      return new Uint8Array(readFileSync(path));
    } catch {
      return null; // the resolver says which name was looked for and by whom
    }
  };
  const pin = measureClosure({
    ...{ entry, readFile, realPath: (path) => realpathSync(path), machine: "x86_64" },
    also: input.list("also").map((name) => (name.includes("/") ? resolve(name) : name)),
    ...cpuOf(input),
    ...(cache === undefined ? {} : { cache }),
  });
  const digests = [...config].map(([path, bytes]) => [path, sha256Hex(bytes)]);
  return { pin, module: modulePolicy(pin, Object.fromEntries(digests), environmentOf(input)) };
}

/** With the files that the shim will have: the module's over the measured root's. */
async function measureForImage(input: CommandInput): Promise<PinnedModule> {
  const module = await readTree(input.text("module"), "module");
  const files = module.map(([path, bytes]) => ({ path, bytes }));
  const tree = new GuestTree(join(input.text("image"), "tree"), files);
  return measureModule(tree, {
    ...{ library: input.positional(0), files, environment: environmentOf(input) },
    ...{ also: input.list("also"), config: input.list("config"), ...cpuOf(input) },
  });
}
