import { join } from "node:path";
import type { Policy } from "../../policy/index.ts";
import type { AuditLog } from "../audit/log.ts";
import {
  type Broker,
  FailureBudgets,
  KeyRing,
  LivePolicy,
  NO_APPROVALS,
  NO_METER,
  type Token,
  Usage,
} from "../broker/index.ts";
import type { AgentConfig } from "../config.ts";
import { createPeerIdentity } from "../identity.ts";
import type { ServedKey } from "../launch/keys.ts";
import type { Native } from "../native/index.ts";
import { openProcesses } from "../processes.ts";
import { arrivingKey } from "../shims/arriving-key.ts";
import type { Domains } from "../shims/domains.ts";
import type { Spawner } from "../spawner-client.ts";
import { type ScopeServer, serveScope } from "./server.ts";

export interface ServeOptions {
  readonly config: AgentConfig;
  readonly policy: Policy;
  readonly keys: readonly ServedKey[];
  readonly domains: Domains;
  readonly audit: AuditLog;
  readonly native: Native;
  readonly spawner: Spawner;
}

/** Open one socket for every scope of the policy. Rejects, and serves none, when one of them cannot be opened. */
export async function serveScopes(options: ServeOptions): Promise<readonly ScopeServer[]> {
  const { config, policy, keys, domains, audit, native, spawner } = options;
  const publicKeys = new Map(keys.map(({ name, spki, id, label }) => [name, { spki, id, label }]));
  const identify = createPeerIdentity({
    executableOf: (pidfd) => spawner.peerExe(pidfd),
    isAlive: (pidfd) => native.isAlive(pidfd),
    processes: openProcesses(),
  });
  const now = () => performance.now();
  const broker: Broker = {
    ...{ live: new LivePolicy(policy), keys: new KeyRing(policy, publicKeys), token: domainToken(domains), audit },
    ...{ failures: new FailureBudgets(now), usage: new Usage(now), now, wallClock: Date.now },
    ...{ approvals: NO_APPROVALS, meter: NO_METER },
  };
  const opening = policy.scopes.map(({ name }) =>
    serveScope({ broker, scope: name, socketPath: join(config.scopes, `${name}.sock`), native, identify }),
  );
  const outcomes = await Promise.allSettled(opening);
  const servers = outcomes.flatMap((outcome) => (outcome.status === "fulfilled" ? [outcome.value] : []));
  const failed = outcomes.find((outcome) => outcome.status === "rejected");
  if (failed === undefined) return servers;
  await Promise.all(servers.map((server) => server.close()));
  throw failed.reason;
}

/** The broker names keys as the policy does; where a key lies, and in which shim, its token's trust domain knows. */
export function domainToken(domains: Pick<Domains, "use" | "reserve" | "arrive">): Token {
  return {
    reserve: (key) => domains.reserve(key),
    sign: ({ key, mechanism, data }) =>
      domains.use(key, (shim, place) => shim.sign({ ...place, mechanism: mechanism.value, pss: mechanism.pss, data })),
    decrypt: ({ key, mechanism, data }) =>
      domains.use(key, (shim, place) =>
        shim.decrypt({ ...place, mechanism: mechanism.value, oaep: mechanism.oaep, ciphertext: data }),
      ),
    unwrap: (request) => domains.arrive(arrivingKey(request)),
  };
}
