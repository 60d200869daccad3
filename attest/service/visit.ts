import type { FastifyRequest } from "fastify";
import type { Spent } from "./handlers.ts";
import { anonymous, type Principal } from "./roles.ts";

/** What the service knows of one request while it is answered. */
export interface Visit {
  readonly peer: string;
  readonly startedAt: number;
  principal: Principal;
  operation: string;
  spent: Spent[keyof Spent] | null;
  /** Gives back what the request holds until it is answered. */
  release(): void;
}
const release = () => undefined;
const visits = new WeakMap<FastifyRequest, Visit>();

export function beginVisit(request: FastifyRequest, peer: string): void {
  visits.set(request, {
    peer,
    startedAt: performance.now(),
    principal: anonymous,
    operation: "none",
    spent: null,
    release,
  });
}

/** `null` for what failed before any hook ran. */
export function visitOf(request: FastifyRequest): Visit | null {
  return visits.get(request) ?? null;
}
