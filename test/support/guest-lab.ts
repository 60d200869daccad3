import { readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { resolve } from "node:path";
import type { ShimFile } from "../../agent/spawner-client.ts";
import type { Image } from "../../vm-images/build.ts";
import { bundleProgram } from "../../vm-images/bundle.ts";
import type { RecipeName } from "../../vm-images/recipes.ts";
import { type BareRoot, bootBare, buildBareRoot } from "./bare-machine.ts";
import { asker, fromRoot, type LabBuild, type LabShim, MODULE, startShim, TOKENS } from "./hostile-lab.ts";

// The laboratory of hostile-lab.ts inside a virtual machine: the spawner is PID 1, the agent's place is taken by guest-hostile.ts.

const PROGRAMS = "/usr/lib/ironclaw";
const GUEST_MODULE = "/lab/module.so";
const GUEST_EMPTY = "/lab/empty";

/** The loader and libc have the same names in the image and in the shim. */
const LIBRARIES = ["/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6"];

const files: readonly ShimFile[] = [
  fromRoot("/shim", `${PROGRAMS}/shim`, { executable: true }),
  ...LIBRARIES.map((path) => fromRoot(path, path, { executable: true })),
  fromRoot("/profile", `${PROGRAMS}/local.profile`),
  fromRoot(MODULE, GUEST_MODULE, { executable: true }),
  fromRoot(`${TOKENS}/results`, GUEST_EMPTY, { writable: true }),
];

/** A root with the laboratory's agent and module, for every kernel. */
export async function buildGuestLab(image: Image, build: LabBuild, directory: string): Promise<BareRoot> {
  const agent = await bundleProgram(resolve(import.meta.dirname, "guest-hostile.ts"));
  const contents = {
    [`${PROGRAMS}/agent.cjs`]: agent,
    [GUEST_MODULE]: await readFile(build.module),
    [GUEST_EMPTY]: new Uint8Array(),
  };
  return buildBareRoot(image, contents, directory);
}

export interface GuestLab extends AsyncDisposable {
  start(): Promise<LabShim>;
  console(): string;
}

export async function openGuestLab(order: {
  readonly build: LabBuild;
  readonly root: BareRoot;
  readonly recipe: RecipeName;
  readonly directory: string;
}): Promise<GuestLab> {
  const { build, root, recipe, directory } = order;
  const vm = await bootBare({ root, recipe, directory });
  const console = () => readFileSync(vm.consoleLog, "utf8");
  const socket = await vm.port("ironclaw.control");
  let next = 0;
  return {
    console,
    start: () => {
      const machine = { ask: asker(socket, console), pid: -1, directory, log: console, stop: () => vm.stop() };
      return startShim(build, machine, next++, { files });
    },
    [Symbol.asyncDispose]: async () => {
      socket.destroy();
      await vm.stop();
    },
  };
}
