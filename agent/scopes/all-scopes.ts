// All scopes of the policy: one broker over the machine's tokens, and a socket for each of them.

import { join } from "node:path";
import type { AuditLog } from "../audit/log.ts";
import { wallClockOf } from "../audit/wall-clock.ts";
import {
  type ApprovalGate,
  type Asked,
  type Broker,
  FailureBudgets,
  KeyRing,
  type LivePolicy,
  type Meter,
  type Token,
  type Usage,
} from "../broker/index.ts";
import type { AgentConfig } from "../config.ts";
import { AgentError } from "../errors.ts";
import { createPeerIdentity } from "../identity.ts";
import type { ServedKey } from "../launch/keys.ts";
import { lookInTurns } from "../looks.ts";
import type { Native } from "../native/index.ts";
import { openProcesses } from "../processes.ts";
import { arrivingKey } from "../shims/arriving-key.ts";
import type { Domains } from "../shims/domains.ts";
import type { Spawner } from "../spawner-client.ts";
import type { Connections } from "./connections.ts";
import { verifyClaimed } from "./listen-fds.ts";
import { type ScopeServer, serveScope } from "./one-scope.ts";

export interface ServeOptions {
  readonly config: AgentConfig;
  readonly usage: Usage;
  readonly approvals: ApprovalGate;
  readonly meter: Meter;
  readonly connections: Connections;
  /** The policy, and what of it is frozen: shared with what changes it while the machine serves. */
  readonly live: LivePolicy;
  readonly keys: readonly ServedKey[];
  readonly domains: Domains;
  readonly audit: AuditLog;
  readonly native: Native;
  readonly spawner: Spawner;
  /** Listening descriptors by scope, taken over: a scope that has one makes no socket of its own. */
  readonly inherited: ReadonlyMap<string, number>;
}

/** Open one socket for every scope of the policy. Rejects, and serves none, when one of them cannot be opened. */
export async function serveScopes(options: ServeOptions): Promise<readonly ScopeServer[]> {
  const { config, live, usage, approvals, meter, connections, keys, domains, audit, native, spawner, inherited } =
    options;
  const names = live.current.scopes.map(({ name }) => name);
  verifyClaimed(inherited, names);
  const publicKeys = new Map(keys.map(({ name, spki, id, label }) => [name, { spki, id, label }]));
  const identify = createPeerIdentity({
    executableOf: lookInTurns((pidfd) => spawner.peerExe(pidfd)),
    isAlive: (pidfd) => native.isAlive(pidfd),
    processes: openProcesses(),
  });
  const now = () => native.bootTime();
  const broker: Broker = {
    ...{ live, keys: new KeyRing(live.current, publicKeys), token: domainToken(domains), audit },
    ...{ failures: new FailureBudgets(now), usage, now, wallClock: wallClockOf(audit) },
    ...{ approvals, meter },
  };
  const opening = names.map((name) =>
    serveScope({
      ...{ broker, native, identify, connections, scope: name },
      ...{ socketPath: join(config.scopes, `${name}.sock`), inherited: inherited.get(name) },
    }),
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
    sign: ({ key, mechanism, data }, asked) =>
      domains.use(key, (shim, { slotId, handle }) => {
        requireAllowed(asked);
        return shim.sign({ slotId, handle, mechanism: mechanism.value, pss: mechanism.pss, data });
      }),
    decrypt: ({ key, mechanism, data }, asked) =>
      domains.use(key, (shim, place) => {
        requireAllowed(asked);
        return shim.decrypt({ ...place, mechanism: mechanism.value, oaep: mechanism.oaep, ciphertext: data });
      }),
    unwrap: (request) => domains.arrive(arrivingKey(request)),
  };
}

/** A shim that had to be replaced was waited for: the policy may have been narrowed meanwhile, or the scope frozen. */
function requireAllowed(asked: Asked): void {
  if (asked.stillAllowed()) return;
  throw new AgentError("ERR_WITHHELD", "request", { expected: "one that the policy allows", got: "taken away" });
}
