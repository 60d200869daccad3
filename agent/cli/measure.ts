import { readFileSync, realpathSync } from "node:fs";
import { join, resolve } from "node:path";
import { type ModulePolicy, measureClosure, modulePolicy } from "../../attest/index.ts";
import { GuestTree } from "../../vm-images/guest-tree.ts";
import { pinModule } from "../../vm-images/pin-module.ts";
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
    json: { type: "boolean", help: "print the policy's `module` fragment as JSON" },
  },
  examples: [
    "ironclaw measure /usr/lib/softhsm/libsofthsm2.so",
    "ironclaw measure /usr/lib/softhsm/libsofthsm2.so --image build/image/demo --module module --json",
  ],
  run: async (input, io) => {
    const pin = input.optional("image") === undefined ? await measureHere(input) : await measureForImage(input);
    const files = Object.entries({ [pin.path]: pin.sha256, ...pin.closure, ...pin.config });
    answer(input, io, pin, files.map(([path, digest]) => `${digest}  ${path}`).join("\n"));
    return 0;
  },
};

/** With the libraries of the machine that this runs on. */
async function measureHere(input: CommandInput): Promise<ModulePolicy> {
  if (input.optional("module") !== undefined)
    throw new UsageError("--module", { expected: "--image too", got: "none" });
  const entry = resolve(input.positional(0));
  await readInput(entry, "library");
  const readFile = (path: string): Uint8Array | null => {
    try {
      return new Uint8Array(readFileSync(path));
    } catch {
      return null; // the resolver says which name was looked for and by whom
    }
  };
  return modulePolicy(measureClosure({ entry, readFile, realPath: (path) => realpathSync(path) }), {}, {});
}

/** With the files that the shim will have: the module's over the measured root's. */
async function measureForImage(input: CommandInput): Promise<ModulePolicy> {
  const module = await readTree(input.text("module"), "module");
  const files = module.map(([path, bytes]) => ({ path, bytes }));
  const tree = new GuestTree(join(input.text("image"), "tree"), files);
  return pinModule(tree, { library: input.positional(0), files, environment: {} });
}
