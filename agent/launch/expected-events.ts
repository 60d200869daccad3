import { type LaunchEvent, measureDevices, measureEnvironment } from "../../attest/index.ts";
import {
  fromHex,
  type NamedModule,
  type Policy,
  type PolicyModule,
  sha256,
  sortedModules,
  toHex,
} from "../../policy/index.ts";
import type { AgentConfig } from "../config.ts";
import { type PlannedFile, PROFILE_PATH, planShimFiles, SHIM_PATH } from "./files.ts";

export interface LaunchDocuments {
  readonly config: AgentConfig;
  readonly configBytes: Uint8Array;
  readonly anchorsBytes: Uint8Array;
  readonly policy: Policy;
  readonly policyBytes: Uint8Array;
}

/** One module's files as they lie in the private root of a shim, with the digest of each. */
export interface ModuleFiles {
  readonly module: NamedModule;
  readonly plan: readonly PlannedFile[];
  readonly digestOf: (path: string) => Uint8Array;
}

/**
 * The events of a launch up to the unseal. The running agent passes what the spawner copied, the predictor what the policy
 * pins: one function, so that the two cannot differ in form.
 * @param modules in the order of their names
 */
export function launchEvents(
  documents: Parameters<typeof documentEvents>[0],
  modules: readonly ModuleFiles[],
  devices: readonly string[],
): readonly LaunchEvent[] {
  return [
    ...documentEvents(documents),
    ...withoutRepetition(modules.flatMap(moduleEvents)),
    { kind: "devices", name: "devices", sha256: measureDevices(devices) },
  ];
}

function moduleEvents({ module, plan, digestOf }: ModuleFiles): readonly LaunchEvent[] {
  const files = plan.flatMap((file): LaunchEvent[] => {
    if (file.role === "token") return [];
    const name = file.path === PROFILE_PATH ? module.profile.name : file.path;
    return [{ kind: file.role, name, sha256: digestOf(file.path) }];
  });
  return [...files, { kind: "environment", name: module.name, sha256: measureEnvironment(module.environment) }];
}

/** What two modules share is measured once. Other bytes under the same name are another event, and so never go unseen. */
function withoutRepetition(events: readonly LaunchEvent[]): readonly LaunchEvent[] {
  const seen = new Set<string>();
  return events.filter(({ kind, name, sha256 }) => {
    const key = `${kind} ${toHex(sha256)} ${name}`;
    return !seen.has(key) && seen.add(key);
  });
}

/** The events of the documents alone, which are measured before anything in them is acted on. */
export function documentEvents(documents: {
  readonly configBytes: Uint8Array;
  readonly anchorsBytes?: Uint8Array | undefined;
  readonly policyBytes?: Uint8Array | undefined;
}): readonly LaunchEvent[] {
  const { configBytes, anchorsBytes, policyBytes } = documents;
  const event = (kind: "config" | "anchors" | "policy", name: string, bytes: Uint8Array | undefined): LaunchEvent[] =>
    bytes === undefined ? [] : [{ kind, name, sha256: sha256(bytes) }];
  return [
    ...event("config", "agent.json", configBytes),
    ...event("anchors", "anchors", anchorsBytes),
    ...event("policy", "policy", policyBytes),
  ];
}

/** What a launch with these documents measures when every file and device is as the policy says. */
export function expectedLaunchEvents(documents: LaunchDocuments, shimSha256: Uint8Array): readonly LaunchEvent[] {
  const { policy, config } = documents;
  const modules = sortedModules(policy).map(
    (module): ModuleFiles => ({
      module,
      plan: planShimFiles(config, module, { policy, module: [], token: [] }),
      digestOf: (path) => (path === SHIM_PATH ? shimSha256 : fromHex(pinnedDigest(module, path))),
    }),
  );
  return launchEvents(documents, modules, policy.devices);
}

/** The digest that the policy pins for a file of a module's private root, 64 hexadecimal digits. */
export function pinnedDigest({ path, sha256, profile, closure, config }: PolicyModule, file: string): string {
  const pinned = file === PROFILE_PATH ? profile.sha256 : file === path ? sha256 : undefined;
  return pinned ?? closure[file] ?? config[file] ?? "";
}
