import { type LaunchEvent, measureDevices, measureEnvironment } from "../../attest/index.ts";
import { fromHex, type Policy, sha256 } from "../../policy/index.ts";
import type { AgentConfig } from "../config.ts";
import { type PlannedFile, PROFILE_PATH, planShimFiles, SHIM_PATH } from "./files.ts";

export interface LaunchDocuments {
  readonly config: AgentConfig;
  readonly configBytes: Uint8Array;
  readonly anchorsBytes: Uint8Array;
  readonly policy: Policy;
  readonly policyBytes: Uint8Array;
}

/**
 * The events of a launch up to the unseal, given the digest of each file of the shim's private root. The running agent
 * passes what the spawner copied, the predictor what the policy pins: one function, so that the two cannot differ in form.
 */
export function launchEvents(
  documents: LaunchDocuments,
  plan: readonly PlannedFile[],
  digestOf: (path: string) => Uint8Array,
  devices: readonly string[],
): readonly LaunchEvent[] {
  const { policy } = documents;
  const files = plan.flatMap((file): LaunchEvent[] => {
    if (file.role === "token") return [];
    const name = file.path === PROFILE_PATH ? policy.profile.name : file.path;
    return [{ kind: file.role, name, sha256: digestOf(file.path) }];
  });
  return [
    ...documentEvents(documents),
    ...files,
    { kind: "environment", name: "environment", sha256: measureEnvironment(policy.module.environment) },
    { kind: "devices", name: "pci", sha256: measureDevices(devices) },
  ];
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
  const plan = planShimFiles(config, { policy, module: [], token: [] });
  return launchEvents(
    documents,
    plan,
    (path) => (path === SHIM_PATH ? shimSha256 : fromHex(pinnedDigest(policy, path))),
    policy.devices,
  );
}

/** The digest that the policy pins for a file of the private root, 64 hexadecimal digits. */
export function pinnedDigest(policy: Policy, path: string): string {
  const pinned =
    path === PROFILE_PATH ? policy.profile.sha256 : path === policy.module.path ? policy.module.sha256 : undefined;
  return pinned ?? policy.module.closure[path] ?? policy.module.config[path] ?? "";
}
