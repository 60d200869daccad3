import { AgentError } from "../errors.ts";

/** What the agent's starter says of the descriptors that it left open (sd_listen_fds(3)). */
export interface ListenEnvironment {
  readonly LISTEN_PID?: string | undefined;
  readonly LISTEN_FDS?: string | undefined;
  readonly LISTEN_FDNAMES?: string | undefined;
}

/** One socket a scope, and no more scopes than a policy may have. */
const MAX_SOCKETS = 64;
const SOCKET_NAME = /^([a-z0-9][a-z0-9-]{0,47})\.sock$/;

/**
 * The listening descriptors by the name of their scope: `FileDescriptorName=<scope>.sock` in a socket unit. Empty without LISTEN_FDS.
 * Does not establish that a descriptor is open, or a socket: whoever takes it over looks.
 *
 * @param first number of the first one
 * @throws AgentError `ERR_ENVIRONMENT` for variables that contradict each other, a name twice, or one of another form
 */
export function parseListenFds(
  { LISTEN_PID: pid, LISTEN_FDS: count, LISTEN_FDNAMES: names }: ListenEnvironment,
  own: { readonly pid: number; readonly first: number },
): ReadonlyMap<string, number> {
  if (count === undefined) return new Map();
  if (pid !== `${own.pid}`) throw refused("LISTEN_PID", `${own.pid}`, pid);
  if (!/^[1-9][0-9]?$/.test(count) || Number(count) > MAX_SOCKETS)
    throw refused("LISTEN_FDS", `1 to ${MAX_SOCKETS}`, count);
  const list = names?.split(":") ?? [];
  if (list.length !== Number(count)) throw refused("LISTEN_FDNAMES", `${count} names`, `${list.length}`);
  const sockets = new Map<string, number>();
  for (const [index, name] of list.entries()) {
    const scope = SOCKET_NAME.exec(name)?.[1];
    if (scope === undefined) throw refused("LISTEN_FDNAMES", "<scope>.sock", name);
    if (sockets.has(scope)) throw refused("LISTEN_FDNAMES", "each name once", name);
    sockets.set(scope, own.first + index);
  }
  return sockets;
}

/** @throws AgentError `ERR_ENVIRONMENT` for a socket that no scope serves: its clients would wait for ever */
export function verifyClaimed(sockets: ReadonlyMap<string, number>, scopes: readonly string[]): void {
  for (const name of sockets.keys()) {
    if (!scopes.includes(name)) throw refused("inherited socket", "a scope of the policy", name);
  }
}

function refused(what: string, expected: string, got: string | undefined): AgentError {
  return new AgentError("ERR_ENVIRONMENT", what, { expected, got: JSON.stringify(got ?? "nothing").slice(0, 80) });
}
