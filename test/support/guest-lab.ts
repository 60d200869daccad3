import { mkdirSync, readFileSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import type { ShimFile } from "../../agent/spawner-client.ts";
import type { Image } from "../../vm-images/build.ts";
import { bundleProgram } from "../../vm-images/bundle.ts";
import { PROFILE_NAMES, type ProfileName } from "../../vm-images/profiles.ts";
import { type BareRoot, bootBare, buildBareRoot } from "./bare-machine.ts";
import { asker, buildLab, fromRoot, type LabBuild, type LabShim, MODULE, startShim } from "./hostile-lab.ts";

// The laboratory of hostile-lab.ts inside a virtual machine: the spawner is PID 1, and guest-hostile.ts has the agent's place.

const PROGRAMS = "/usr/lib/ironclaw";
const EMPTY = "/lab/empty";
const moduleOf = (profile: ProfileName) => `/lab/${profile}.so`;

/** The loader and libc have the same names in the image and in the shim. */
const LIBRARIES = ["/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/libc.so.6"];

function filesOf(profile: ProfileName, { writable }: LabBuild): readonly ShimFile[] {
  return [
    fromRoot("/shim", `${PROGRAMS}/shim`, { executable: true }),
    ...LIBRARIES.map((path) => fromRoot(path, path, { executable: true })),
    fromRoot("/profile", `${PROGRAMS}/${profile}.profile`),
    fromRoot(MODULE, moduleOf(profile), { executable: true }),
    fromRoot(`${writable}/results`, EMPTY, { writable: true }),
  ];
}

export interface GuestLabBuild {
  readonly directory: string;
  readonly builds: Readonly<Record<ProfileName, LabBuild>>;
  /** With the laboratory's agent and modules, for every kernel. */
  readonly root: BareRoot;
}

export async function buildGuestLab(image: Image, directory: string): Promise<GuestLabBuild> {
  const build = (profile: ProfileName): LabBuild => {
    const own = join(directory, profile);
    mkdirSync(own);
    return buildLab({ directory: own }, profile);
  };
  const builds = { local: build("local"), relay: build("relay"), usb: build("usb") };
  const modules = PROFILE_NAMES.map(async (name) => [moduleOf(name), await readFile(builds[name].module)] as const);
  const agent = await bundleProgram(resolve(import.meta.dirname, "guest-hostile.ts"));
  const files = { [`${PROGRAMS}/agent.cjs`]: agent, [EMPTY]: new Uint8Array() };
  const contents = { ...files, ...Object.fromEntries(await Promise.all(modules)) };
  return { directory, builds, root: await buildBareRoot(image, contents, directory) };
}

export interface GuestLab extends AsyncDisposable {
  /** With the profile that its library is built for. */
  start(profile: ProfileName): Promise<LabShim>;
}

/** Nobody is behind this endpoint. */
const RELAYED = [{ listen: "127.0.0.1:1500", to: "192.0.2.7:1500" }];

export async function openGuestLab({ directory, builds, root }: GuestLabBuild, recipe: string): Promise<GuestLab> {
  const place = join(directory, recipe);
  const vm = await bootBare({ root, recipe, directory: place });
  const log = () => readFileSync(vm.consoleLog, "utf8");
  const socket = await vm.port("ironclaw.control");
  const machine = { ask: asker(socket, log), pid: -1, directory: place, log, stop: () => vm.stop() };
  let next = 0;
  return {
    start: (profile) =>
      startShim(builds[profile], machine, next++, {
        files: filesOf(profile, builds[profile]),
        environment: { LAB_PORT: "9" },
        connect: profile === "relay" ? RELAYED : [],
      }),
    [Symbol.asyncDispose]: async () => {
      socket.destroy();
      await vm.stop();
    },
  };
}
