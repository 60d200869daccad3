import type { Policy, PolicyModule } from "../../policy/index.ts";
import type { AgentConfig } from "../config.ts";
import type { ShimFile } from "../spawner-client.ts";
import type { CabinetFile, LaunchInputs } from "./inputs.ts";

/** Where the shim program and its compiled profile stand in every private root. */
export const SHIM_PATH = "/shim";
export const PROFILE_PATH = "/profile";

export type ShimFileRole = "library" | "closure" | "file" | "profile" | "token";

export interface PlannedFile extends ShimFile {
  readonly role: ShimFileRole;
}

/**
 * Every file of the private root of a shim with this module, in the order in which they are measured. A path that the module bundle holds
 * comes from the cabinet, any other from the measured root: nothing else exists in the shim to load.
 */
export function planShimFiles(
  config: AgentConfig,
  module: PolicyModule,
  inputs: Pick<LaunchInputs, "policy" | "module" | "token">,
): PlannedFile[] {
  const bundle = new Map(inputs.module.map((file) => [file.path, file]));
  const measured = (role: ShimFileRole, path: string, executable: boolean): PlannedFile => ({
    role,
    path,
    source: source(bundle.get(path), path),
    executable,
    writable: false,
  });
  return [
    {
      role: "profile",
      path: PROFILE_PATH,
      source: { kind: "root", path: profileFile(config, module) },
      executable: false,
      writable: false,
    },
    measured("library", module.path, true),
    ...[SHIM_PATH, ...Object.keys(module.closure)]
      .sort()
      .map((path) => (path === SHIM_PATH ? shimProgram(config) : measured("closure", path, true))),
    ...Object.keys(module.config)
      .sort()
      .map((path) => measured("file", path, false)),
    ...inputs.token
      .filter(({ path }) => isWritable(module, path) || isNobodys(inputs.policy, path))
      .map((file) => ({
        role: "token" as const,
        path: file.path,
        source: source(file, file.path),
        executable: false,
        writable: true,
      })),
  ];
}

/** The program that loads the library stands in its closure: it shares the process. */
function shimProgram(config: AgentConfig): PlannedFile {
  return {
    role: "closure",
    path: SHIM_PATH,
    source: { kind: "root", path: `${config.programs}/shim` },
    executable: true,
    writable: false,
  };
}

export function profileFile(config: AgentConfig, { profile }: Pick<PolicyModule, "profile">): string {
  return `${config.programs}/${profile.name}.profile`;
}

/** Whether a shim with this module may write to that path: the token directory's files go to the shims of such modules. */
function isWritable({ writable }: Pick<PolicyModule, "writable">, path: string): boolean {
  return writable.some((directory) => path.startsWith(`${directory}/`));
}

/** A token file in no directory that is writable stays in every plan: the spawner refuses it, and so it is not left out unseen. */
function isNobodys({ modules }: Policy, path: string): boolean {
  return !Object.values(modules).some((module) => isWritable(module, path));
}

function source(file: CabinetFile | undefined, path: string): ShimFile["source"] {
  return file === undefined ? { kind: "root", path } : { kind: "cabinet", offset: file.offset, length: file.length };
}
