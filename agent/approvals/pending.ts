import { toHex } from "../../policy/index.ts";
import type { Approver } from "./approvers.ts";

/** Requests of one scope that wait at once (APPROVALS.md). */
export const MAX_PENDING = 16;

/** One request, with who has approved it. */
export interface Pending {
  readonly id: string;
  readonly scope: string;
  /** The same for the same request. */
  readonly identity: string;
  /** What is signed. */
  readonly text: Uint8Array;
  /** On the clock that nobody sets, in milliseconds. */
  readonly deadline: number;
  /** Names by the key's 32 bytes in hexadecimal. */
  readonly approvedBy: Map<string, string>;
}

/** Whether this key or this name has approved it. */
export function hasApproved({ approvedBy }: Pending, { name, point }: Approver): boolean {
  return approvedBy.has(toHex(point)) || [...approvedBy.values()].includes(name);
}

export function addApproval({ approvedBy }: Pending, { name, point }: Approver): void {
  approvedBy.set(toHex(point), name);
}

/** Requests that wait for approvals or for their use. Those of one scope have a room of their own; the oldest stay. */
export class PendingRequests {
  readonly #requests = new Map<string, Pending>();
  readonly #now: () => number;

  /** @param now milliseconds of a clock that counts on while the machine sleeps, and that nobody sets */
  constructor(now: () => number) {
    this.#now = now;
  }

  /** The oldest first. */
  list(): readonly Pending[] {
    this.#forgetExpired();
    return [...this.#requests.values()];
  }

  byId(id: string): Pending | null {
    this.#forgetExpired();
    return this.#requests.get(id) ?? null;
  }

  find(scope: string, identity: string): Pending | null {
    return this.list().find((request) => request.scope === scope && request.identity === identity) ?? null;
  }

  hasRoom(scope: string): boolean {
    return this.list().filter((request) => request.scope === scope).length < MAX_PENDING;
  }

  add(request: Pending): void {
    this.#requests.set(request.id, request);
  }

  remove({ id }: Pending): void {
    this.#requests.delete(id);
  }

  clear(): void {
    this.#requests.clear();
  }

  #forgetExpired(): void {
    const now = this.#now();
    for (const [id, { deadline }] of this.#requests) if (!(now < deadline)) this.#requests.delete(id);
  }
}
