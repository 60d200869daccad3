import type { AuditLog } from "../../../agent/audit/log.ts";
import type { AuditEntry } from "../../../agent/audit/record.ts";
import type { LivePolicy } from "../../../agent/broker/index.ts";
import { AgentError } from "../../../agent/errors.ts";
import { SIGNER_EXE } from "../../support/policy-document.ts";
import type { Asked, Laws } from "./laws.ts";
import { LIMITS } from "./scopes.ts";
import { Waiting } from "./waiting.ts";

const HEAD = { seq: 0, hash: "0".repeat(64) };

/** Whether the program that connects is the scope's caller, by the policy in force. */
export function isCallerOf(live: LivePolicy, name: string): boolean {
  const scope = live.scope(name);
  const exe = scope === null ? [] : (live.current.callers[scope.caller]?.exe ?? []);
  return exe.some((known) => known === SIGNER_EXE);
}

/** Why a result for this key of this scope may not leave now; null while it may. */
export function takenAway(live: LivePolicy, { scope, key }: Pick<Asked, "scope" | "key">): string | null {
  if (live.isFrozen(scope)) return "of a frozen scope";
  if (!isCallerOf(live, scope)) return "for a caller that was narrowed away";
  return live.scope(scope)?.keys.includes(key) === true ? null : "of a key that was narrowed away";
}

/** An audit log that writes when the run says so, and knows what may be allowed. */
export class Log implements AuditLog {
  readonly writing = new Waiting<"written" | "failed">("written");
  readonly #laws: Laws;
  readonly #live: LivePolicy;
  readonly #now: () => number;
  /** By the digest that its record has. */
  readonly #byDigest = new Map<string, Asked>();
  #signed = 0;

  constructor(laws: Laws, live: LivePolicy, now: () => number) {
    this.#laws = laws;
    this.#live = live;
    this.#now = now;
  }

  expect(digest: string, asked: Asked): void {
    this.#byDigest.set(digest, asked);
  }

  append(entry: AuditEntry): Promise<typeof HEAD> {
    const asked = entry.decision === "allow" ? this.#allowed(entry) : undefined;
    return new Promise((resolve, reject) => {
      this.writing.wait((outcome) => {
        if (outcome === "failed") return reject(new AgentError("ERR_AUDIT_WRITE", "audit log"));
        if (asked !== undefined) asked.isRecorded = true;
        resolve(HEAD);
      });
    });
  }

  head(): typeof HEAD {
    return HEAD;
  }

  durableHead(): typeof HEAD {
    return HEAD;
  }

  latest(): number {
    return 0;
  }

  close(): void {}

  #allowed({ scope, key, inputDigest }: AuditEntry): Asked | undefined {
    const asked = this.#byDigest.get(inputDigest ?? "");
    this.#byDigest.delete(inputDigest ?? "");
    this.#laws.hold(asked !== undefined, "log: allows what nobody asked, or twice what was asked once");
    if (asked === undefined) return undefined;
    this.#laws.hold(asked.scope === scope && asked.key === key, "log: allows another scope or key than was asked");
    this.#laws.hold(takenAway(this.#live, asked) === null, `log: allows an operation ${takenAway(this.#live, asked)}`);
    if (scope !== "signing") return asked;
    this.#signed += 1;
    const { rate, operations } = LIMITS;
    const most = Math.min(operations, rate.burst + (this.#now() * rate.perMinute) / 60_000);
    this.#laws.hold(this.#signed <= most + 1e-6, "log: allows more than rate and budget do");
    return asked;
  }
}
