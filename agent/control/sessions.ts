import * as z from "zod";
import type { Scope } from "../../policy/index.ts";
import type { Serving } from "../after-launch.ts";
import type { AuditLog } from "../audit/log.ts";
import { callerOf } from "../broker/operation.ts";
import { AgentError } from "../errors.ts";
import type { ConnectionFacts } from "../scopes/index.ts";

const id = z.number().int().nonnegative();
/** A policy's connections at their most would make an answer of megabytes. */
const MAX_SESSIONS = 1000;

/** Requests about who is connected: the list, and the end of one. */
export const sessionRequests = [
  z.strictObject({ id, op: z.literal("sessions"), scope: z.string().max(64).optional() }),
  z.strictObject({ id, op: z.literal("end-session"), session: z.number().int().min(1) }),
] as const;

export type SessionRequest = z.infer<(typeof sessionRequests)[number]>;

/** One connection to a scope, as an operator sees it. */
export interface SessionFacts {
  readonly session: number;
  readonly scope: string;
  readonly door: ConnectionFacts["door"];
  readonly standing: ConnectionFacts["standing"];
  readonly caller: { readonly uid: number; readonly pid: number; readonly unit: string | null };
  /** ISO 8601. */
  readonly since: string;
  readonly idleSeconds: number;
  readonly operations: number;
  readonly refused: number;
  /** Of its scope, which all its connections share; null for one without a rate, or that is there no more. */
  readonly rate: { readonly left: number; readonly perMinute: number; readonly burst: number } | null;
  /** Null: for nothing but its own next request. */
  readonly waitsFor: "identification" | "token" | "approval" | "rate" | "unfreeze" | null;
}

export interface SessionList {
  readonly sessions: readonly SessionFacts[];
  /** How many there are beyond these. */
  readonly more: number;
}

export interface SessionService {
  list(scope?: string): SessionList;
  /**
   * Closes one connection at once. An operation of it that is at the token goes on to its end, and its result is dropped.
   * @throws AgentError ERR_ENVIRONMENT when there is none of that number; ERR_AUDIT_WRITE: it is closed, and not recorded
   */
  end(session: number): Promise<SessionFacts>;
}

export interface SessionSources {
  readonly serving: () => Pick<Serving, "connections" | "live" | "usage"> | null;
  readonly audit: Pick<AuditLog, "append">;
}

export function createSessions({ serving, audit }: SessionSources): SessionService {
  const open = () => serving()?.connections.list() ?? [];
  const describe = (facts: ConnectionFacts) => sessionFacts(facts, serving());
  return {
    list: (scope) => {
      const found = open().filter(({ facts }) => scope === undefined || facts.scope === scope);
      const sessions = found.slice(0, MAX_SESSIONS).map(({ facts }) => describe(facts));
      return { sessions, more: found.length - sessions.length };
    },
    end: async (session) => {
      const connection = serving()?.connections.find(session) ?? null;
      if (connection === null)
        throw new AgentError("ERR_ENVIRONMENT", `session ${session}`, { expected: "one that is open", got: "none" });
      const facts = describe(connection.facts);
      // Of one that is not identified, or cannot be, the kernel's word at its connect(2) is known.
      const { uid, pid } = facts.caller;
      const caller = callerOf(connection.peer) ?? { uid, pid, exe: "unknown" };
      connection.end();
      const reason = `session ${session}, ${facts.operations} operations: ended by whoever reached the control port`;
      const nothing = { key: null, mechanism: null, inputDigest: null, step: null, approvals: [] } as const;
      await audit.append(
        { ...nothing, caller, operation: "end", scope: facts.scope, decision: "deny", reason },
        "written",
      );
      return facts;
    },
  };
}

export async function serveSessions(
  sessions: SessionService,
  parsed: SessionRequest,
): Promise<Readonly<Record<string, unknown>>> {
  return parsed.op === "sessions" ? { ...sessions.list(parsed.scope) } : { ...(await sessions.end(parsed.session)) };
}

function sessionFacts(facts: ConnectionFacts, serving: Pick<Serving, "live" | "usage"> | null): SessionFacts {
  const { id: session, scope: name, door, standing, uid, pid, unit, age, idle, operations, refused } = facts;
  const scope = serving?.live.scope(name) ?? null;
  return {
    ...{ session, scope: name, door, standing, caller: { uid, pid, unit } },
    since: new Date(Date.now() - age).toISOString(),
    idleSeconds: Math.floor(idle / 1000),
    ...{ operations, refused },
    rate: scope === null || serving === null ? null : rateOf(scope, serving),
    waitsFor: waitsFor(facts, serving),
  };
}

function rateOf(scope: Scope, { usage }: Pick<Serving, "usage">): SessionFacts["rate"] {
  if (scope.rate === undefined) return null;
  const { perMinute, burst } = scope.rate;
  return { left: Math.floor(usage.left(scope, null, undefined).tokens), perMinute, burst };
}

/** As far as it is known: what its last request met, where that still holds. */
function waitsFor(
  { standing, met, scope }: ConnectionFacts,
  serving: Pick<Serving, "live" | "usage"> | null,
): SessionFacts["waitsFor"] {
  if (standing === "identifying") return "identification";
  if (met === "allow") return (serving?.usage.inFlight(scope) ?? 0) > 0 ? "token" : null;
  if (met === "approvals") return "approval";
  if (met === "rate") return "rate";
  return met === "frozen" ? "unfreeze" : null;
}
