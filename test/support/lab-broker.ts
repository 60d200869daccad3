import { mkdirSync } from "node:fs";
import { Session } from "node:inspector/promises";
import { join } from "node:path";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { openAudit } from "../../agent/audit/open.ts";
import {
  FailureBudgets,
  KeyRing,
  LivePolicy,
  NO_APPROVALS,
  NO_METER,
  type PublicKeySource,
  Usage,
} from "../../agent/broker/index.ts";
import { createPeerIdentity } from "../../agent/identity.ts";
import { MeasurementLog } from "../../agent/launch/measurement-log.ts";
import { lookInTurns } from "../../agent/looks.ts";
import type { Native } from "../../agent/native/index.ts";
import { openProcesses } from "../../agent/processes.ts";
import { domainToken } from "../../agent/scopes/all-scopes.ts";
import { serveScope } from "../../agent/scopes/one-scope.ts";
import type { Shim } from "../../agent/shim-client.ts";
import type { KeyPlace } from "../../agent/shims/domain-shim.ts";
import { Domains } from "../../agent/shims/domains.ts";
import { IncidentLog } from "../../agent/shims/incidents.ts";
import type { Spawner } from "../../agent/spawner-client.ts";
import type { Tpm } from "../../attest/index.ts";
import { AGENT_PCR, parsePolicy } from "../../policy/index.ts";

/** What a lab's agent is to serve, with shims that are logged in, know their keys' uses and are armed. */
export interface LabServing {
  readonly shims: readonly LabMember[];
  readonly policy: Uint8Array;
  readonly keys: readonly LabKey[];
  /** Is there, and the agent may write to it: `<scope>.sock` for every scope, and the audit log, are made in it. */
  readonly directory: string;
}

export interface LabMember {
  readonly id: number;
  /** By the policy's name of the key. */
  readonly places: ReadonlyMap<string, KeyPlace>;
}

export interface LabKey extends PublicKeySource {
  /** The policy's. */
  readonly name: string;
}

/** What an agent holds, after a collection of garbage. */
export interface LabHeld {
  readonly heapBytes: number;
  readonly externalBytes: number;
  readonly residentBytes: number;
}

/** Functions by their own share of the samples, in percent, the greatest first. */
export type LabProfile = readonly { readonly name: string; readonly percent: number }[];

interface LabMachine {
  readonly native: Native;
  readonly spawner: Spawner;
  readonly shimOf: (id: number) => Shim;
}

/**
 * Serves every scope of a policy as `after-launch.ts` does: live policy, peers identified by the spawner, usage, audit log, trust domain, both
 * doors. No TPM: an incident would have nowhere to be measured, and ends the token as it does on a machine. No approvals, no metrics.
 */
export async function serveLab({ native, spawner, shimOf }: LabMachine, serving: LabServing): Promise<void> {
  const policy = parsePolicy(serving.policy);
  const audit = openAudit({ directory: join(serving.directory, "audit"), now: Date.now, anchor: null });
  const shims = serving.shims.map(({ id, places }) => {
    const shim = shimOf(id);
    return { id, shim, places, serves: true, probed: { total: shim.watch.total(), counts: shim.attempts() } };
  });
  const domains = new Domains({
    tokens: [{ name: "bench", shims }],
    keys: new Map(serving.keys.map(({ name }) => [name, "bench"])),
    ...{ onViolation: "kill", onLoginLost: "stop", store: null },
    incidents: new IncidentLog({ log: new MeasurementLog(NO_TPM, AGENT_PCR), audit, record: { incidents: [] } }),
    stopShim: (id) => spawner.stopShim(id),
    ...{ capAndReboot: async () => undefined, onStopped: async () => undefined, onReasons: async () => undefined },
  });
  const now = () => performance.now();
  const keys = new KeyRing(policy, new Map(serving.keys.map((key) => [key.name, key])));
  const broker = {
    ...{ live: new LivePolicy(policy), keys, token: domainToken(domains), audit },
    ...{ failures: new FailureBudgets(now), usage: new Usage(now), now, wallClock: Date.now },
    ...{ approvals: NO_APPROVALS, meter: NO_METER },
  };
  const identify = createPeerIdentity({
    executableOf: lookInTurns((pidfd) => spawner.peerExe(pidfd)),
    isAlive: (pidfd) => native.isAlive(pidfd),
    processes: openProcesses(),
  });
  mkdirSync(join(serving.directory, "scopes"));
  for (const { name } of policy.scopes) {
    const socketPath = join(serving.directory, "scopes", `${name}.sock`);
    await serveScope({ broker, scope: name, socketPath, native, identify });
  }
}

// Its one use here is the extend of an incident, which then fails.
const NO_TPM = {
  pcrExtend: () => Promise.reject(new Error("the lab has no TPM")),
} as unknown as Tpm;

/** Collects garbage first. */
export function heldNow(): LabHeld {
  setFlagsFromString("--expose-gc");
  const collect: () => void = runInNewContext("gc");
  collect();
  collect();
  const { heapUsed, external, rss } = process.memoryUsage();
  return { heapBytes: heapUsed, externalBytes: external, residentBytes: rss };
}

/** Samples this process for so many milliseconds. */
export async function profileFor(milliseconds: number): Promise<LabProfile> {
  const session = new Session();
  session.connect();
  try {
    await session.post("Profiler.enable");
    await session.post("Profiler.setSamplingInterval", { interval: 200 });
    await session.post("Profiler.start");
    await new Promise((resolve) => setTimeout(resolve, milliseconds));
    const { profile } = await session.post("Profiler.stop");
    const total = profile.samples?.length ?? 1;
    const shares = new Map<string, number>();
    for (const { callFrame, hitCount = 0 } of profile.nodes) {
      const place = `${callFrame.functionName || "(anonymous)"} ${callFrame.url.split("/").slice(-2).join("/")}`;
      shares.set(place, (shares.get(place) ?? 0) + hitCount);
    }
    return [...shares]
      .map(([name, hits]) => ({ name, percent: Math.round((1000 * hits) / total) / 10 }))
      .sort((a, b) => b.percent - a.percent)
      .slice(0, 40);
  } finally {
    session.disconnect();
  }
}
