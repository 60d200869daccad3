import { join } from "node:path";
import { mechanismRow, type Policy } from "../policy/index.ts";
import type { AuditLog } from "./audit.ts";
import { type ScopeServer, type Signer, serveScope } from "./broker/index.ts";
import type { AgentConfig } from "./config.ts";
import { AgentError } from "./errors.ts";
import { createPeerIdentity } from "./identity.ts";
import type { Launched } from "./launch/launch.ts";
import type { Native } from "./native/index.ts";
import type { Shim } from "./shim-client.ts";
import type { Spawner } from "./spawner-client.ts";

export interface ServeOptions {
  readonly config: AgentConfig;
  readonly policy: Policy;
  readonly launched: Launched;
  readonly audit: AuditLog;
  readonly native: Native;
  readonly spawner: Spawner;
}

/** Open one socket for every scope of the policy. Rejects, and serves none, when one of them cannot be opened. */
export async function serveScopes(options: ServeOptions): Promise<readonly ScopeServer[]> {
  const { config, policy, launched, audit, native, spawner } = options;
  const publicKeys = new Map(launched.keys.map(({ name, spki, id, label }) => [name, { spki, id, label }]));
  const identify = createPeerIdentity({
    peerCredentials: (fd) => native.peerCredentials(fd),
    executableOf: (pidfd) => spawner.peerExe(pidfd),
    closeFd: (fd) => native.closeFd(fd),
  });
  const opening = policy.scopes.map(({ name }) =>
    serveScope({
      ...{ policy, audit, identify, publicKeys },
      scope: name,
      socketPath: join(config.scopes, `${name}.sock`),
      signer: shimSigner(launched),
      now: () => performance.now(),
    }),
  );
  const outcomes = await Promise.allSettled(opening);
  const servers = outcomes.flatMap((outcome) => (outcome.status === "fulfilled" ? [outcome.value] : []));
  const failed = outcomes.find((outcome) => outcome.status === "rejected");
  if (failed === undefined) return servers;
  await Promise.all(servers.map((server) => server.close()));
  throw failed.reason;
}

/** The broker names keys as the policy does, the shim by slot and by the handles of its session there. */
export function shimSigner({
  shim,
  keys,
}: {
  readonly shim: Pick<Shim, "sign">;
  readonly keys: Launched["keys"];
}): Signer {
  const places = new Map(keys.map(({ name, slotId, handle }) => [name, { slotId, handle }]));
  return {
    sign: ({ key, mechanism, data }) => {
      const place = places.get(key);
      if (place === undefined)
        throw new AgentError("ERR_LAUNCH", "key", { expected: "a key that the launch checked", got: key });
      return shim.sign({ ...place, mechanism: mechanismRow(mechanism.type).value, pss: mechanism.pss, data });
    },
  };
}
