import { join } from "node:path";
import type { Policy } from "../policy/index.ts";
import type { AuditLog } from "./audit.ts";
import { type DecryptMechanism, FailureBudgets, type ScopeServer, serveScope, type Token } from "./broker/index.ts";
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
  const failures = new FailureBudgets(() => performance.now());
  const opening = policy.scopes.map(({ name }) =>
    serveScope({
      ...{ policy, audit, identify, publicKeys, failures },
      scope: name,
      socketPath: join(config.scopes, `${name}.sock`),
      token: shimSigner(launched),
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

/** What a shim of protocol version 4 can besides (SHIM.md). */
interface ShimDecryption {
  decrypt(request: {
    readonly slotId: bigint;
    readonly handle: bigint;
    readonly mechanism: bigint;
    readonly oaep: DecryptMechanism["oaep"];
    readonly ciphertext: Uint8Array;
  }): Promise<Uint8Array>;
}

/** The broker names keys as the policy does, the shim by slot and by the handles of its session there. */
export function shimSigner({
  shim,
  keys,
}: {
  readonly shim: Pick<Shim, "sign"> & Partial<ShimDecryption>;
  readonly keys: Launched["keys"];
}): Token {
  const places = new Map(keys.map(({ name, slotId, handle }) => [name, { slotId, handle }]));
  const placeOf = (key: string) => {
    const place = places.get(key);
    if (place !== undefined) return place;
    throw new AgentError("ERR_LAUNCH", "key", { expected: "a key that the launch checked", got: key });
  };
  return {
    sign: async ({ key, mechanism, data }) =>
      shim.sign({ ...placeOf(key), mechanism: mechanism.value, pss: mechanism.pss, data }),
    decrypt: async ({ key, mechanism, data }) => {
      if (shim.decrypt === undefined)
        throw new AgentError("ERR_LAUNCH", "shim", { expected: "one that decrypts", got: "one that does not" });
      return shim.decrypt({ ...placeOf(key), mechanism: mechanism.value, oaep: mechanism.oaep, ciphertext: data });
    },
  };
}
