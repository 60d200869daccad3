import { readFileSync } from "node:fs";

/** Descriptors that connections leave to everything else: audit log, shims, spawner, TPM, control. */
const OTHER_DESCRIPTORS = 256;
/** Socket and pidfd, and another pidfd while somebody looks. */
const DESCRIPTORS = 3;
/** However many descriptors there may be. */
const MOST = 8192;

/** How many connections a process with so many descriptors may have open. */
export function mostConnections(descriptors: number): number {
  return Math.max(1, Math.min(MOST, Math.floor((descriptors - OTHER_DESCRIPTORS) / DESCRIPTORS)));
}

/** The soft limit in a /proc/PID/limits (proc_pid_limits(5)); null when none can be read there, `unlimited` among them. */
export function parseDescriptorLimit(limits: string): number | null {
  const soft = /^Max open files +(\d{1,10}) /m.exec(limits)?.[1];
  return soft === undefined ? null : Number(soft);
}

/**
 * The connections of all scopes, so that they never take the last descriptor: a log that cannot go on in a new file stops signing. One user
 * has half of them at most.
 */
export class OpenConnections {
  readonly #most: number;
  readonly #ofUser = new Map<number, number>();
  #open = 0;

  constructor(most: number) {
    this.#most = most;
  }

  /** A place, to be disposed of once; null when there is none for this user. */
  open(uid: number): Disposable | null {
    const own = this.#ofUser.get(uid) ?? 0;
    if (this.#open >= this.#most || own >= Math.ceil(this.#most / 2)) return null;
    this.#open += 1;
    this.#ofUser.set(uid, own + 1);
    return { [Symbol.dispose]: () => this.#close(uid) };
  }

  #close(uid: number): void {
    const left = (this.#ofUser.get(uid) ?? 1) - 1;
    this.#open -= 1;
    if (left === 0) this.#ofUser.delete(uid);
    else this.#ofUser.set(uid, left);
  }
}

/** A process has one table of descriptors. */
export const OPEN_CONNECTIONS = new OpenConnections(
  mostConnections(parseDescriptorLimit(readFileSync("/proc/self/limits", "latin1")) ?? Number.POSITIVE_INFINITY),
);
