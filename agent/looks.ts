import type { PeerExe } from "./spawner-client.ts";

/** Whose program it is, as the kernel said with the pidfd. */
export interface LookedAt {
  readonly pid: number;
  readonly uid: number;
}

/** Looks at the program of a process. The pidfd stays the caller's, and open until then. */
export type Look = (pidfd: number, who: LookedAt) => Promise<PeerExe>;

interface Waiting extends PromiseWithResolvers<PeerExe> {
  readonly pidfd: number;
}

/**
 * Whoever has many connections, or many processes, has the spawner look at one of them at a time: nobody waits for more of another user's
 * looks than that one. Who asks for a process that is waiting to be looked at gets that look, so a look never began before it was asked for.
 *
 * A number that another process has by now is no danger: whoever asks looks at his own pidfd afterwards, and where the first one's process
 * has ended the look fails, for its user only.
 */
export function lookInTurns(peerExe: (pidfd: number) => Promise<PeerExe>): Look {
  /** By user, while one of his is under way: those that wait, by process. */
  const users = new Map<number, Map<number, Waiting>>();
  const serve = async (uid: number, waiting: Map<number, Waiting>): Promise<void> => {
    // What is added meanwhile comes too.
    for (const [pid, { pidfd, resolve, reject }] of waiting) {
      waiting.delete(pid);
      await peerExe(pidfd).then(resolve, reject);
    }
    users.delete(uid);
  };
  return (pidfd, { pid, uid }) => {
    const waiting = users.get(uid) ?? new Map<number, Waiting>();
    const look = waiting.get(pid) ?? { ...Promise.withResolvers<PeerExe>(), pidfd };
    waiting.set(pid, look);
    if (!users.has(uid)) {
      users.set(uid, waiting);
      void serve(uid, waiting);
    }
    return look.promise;
  };
}
