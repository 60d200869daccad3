import { type Reason, reason } from "../../attest/index.ts";
import { AgentError } from "../errors.ts";
import type { Shim } from "../shim-client.ts";
import { type ArrivingKey, letIn } from "./arrivals.ts";
import { libraryAttempt, type ProbedAttempts } from "./attempts.ts";
import type { IncidentLog } from "./incidents.ts";

/** Where a key of the policy is in one shim: handles are of that shim's own session. */
export interface KeyPlace {
  readonly slotId: bigint;
  readonly handle: bigint;
}

/** A shim that is logged in to its token and whose keys were checked. */
export interface DomainShim {
  readonly id: number;
  readonly shim: Shim;
  /** By the policy's name of the key. */
  readonly places: ReadonlyMap<string, KeyPlace>;
  /** Attempts that are not the library's. */
  readonly probed: ProbedAttempts;
}

export type ShimRole = "active" | "spare" | "ended";

/** A shim as reports and `status` show it. */
export interface ShimState {
  readonly token: string;
  readonly id: number;
  readonly role: ShimRole;
}

export interface TrustDomainOptions {
  /** The policy's name of the token. */
  readonly token: string;
  /** The first one serves, the others wait. At least one. */
  readonly shims: readonly DomainShim[];
  readonly onViolation: "kill" | "report";
  readonly incidents: IncidentLog;
  /** SIGKILL to the shim's process. Idempotent. */
  readonly stopShim: (id: number) => Promise<void>;
  /** Called once, when nothing of this token is served any more and that is in the log. */
  readonly onEnd: (end: DomainEnd) => Promise<void>;
}

/** Why a token is no longer served. `lost`: no shim is left that is logged in to it. */
export interface DomainEnd {
  readonly token: string;
  readonly kind: "violation" | "lost" | "failed";
  readonly reasons: readonly Reason[];
}

/** Requests that wait for one token: as many as one scope has connections, so that a scope by itself never meets it. */
export const MAX_WAITING = 256;

/** Idle shims are asked for a sign of life this often, in milliseconds: one that hangs is found before it is needed. */
const HEARTBEAT = 15_000;

/**
 * Codes by which a library says that its login is gone: CKR_DEVICE_REMOVED, CKR_SESSION_CLOSED, CKR_SESSION_HANDLE_INVALID,
 * CKR_TOKEN_NOT_PRESENT, CKR_USER_NOT_LOGGED_IN.
 */
const LOGIN_LOST: ReadonlySet<bigint> = new Set([0x32n, 0xb0n, 0xb3n, 0xe0n, 0x101n]);
/**
 * Codes that say something about the operation itself: its arguments, data, ciphertext, key, mechanism, template or wrapped key, and the shim's
 * own. Any other (CKR_DEVICE_ERROR, CKR_GENERAL_ERROR, one of the library's own making) may also be what a library says when its HSM is
 * gone: then it is looked whether the token still shows its keys.
 */
const OF_THE_OPERATION: ReadonlySet<bigint> = new Set([
  ...[0x7n, 0x13n, 0x20n, 0x21n, 0x40n, 0x41n, 0x62n, 0x63n, 0x68n, 0x70n, 0x71n, 0xc0n, 0xc1n, 0xd0n, 0xd1n],
  ...[0xf0n, 0xf1n, 0xf2n, 0x110n, 0x112n, 0x150n, 0x80494302n, 0x80494303n],
]);
/** Callers can bring about such an answer as often as they like, a look no oftener than this, in milliseconds. */
const LOOK_AGAIN = 1000;
const SHIM_ENDED: ReadonlySet<string> = new Set(["ERR_SHIM_GONE", "ERR_SHIM_TIMEOUT", "ERR_SHIM_PROTOCOL"]);

interface Member extends DomainShim {
  /** Of keys that came in by unwrap. */
  readonly arrived: Map<string, KeyPlace>;
  role: ShimRole;
  why: string;
  /** Of `shim.watch.total()`: attempts that were dealt with. */
  seen: number;
  /** Of `shim.watch.recorded()`: those that went to the incident log. */
  handed: number;
  /** Until the attempts seen so far are in the log. */
  writing: Promise<void> | null;
}

/**
 * One token and the shims that are logged in to it: one serves, the others wait to take its place. No request is ever given to two of
 * them: what was under way when a shim ended has ended with it.
 */
export class TrustDomain {
  readonly token: string;
  readonly #options: TrustDomainOptions;
  readonly #members: readonly Member[];
  readonly #heartbeat: NodeJS.Timeout;
  #active: Member;
  /** Requests wait for it: a spare serves only once it is in the log that it does. */
  #takeover: Promise<void> | null = null;
  #end: DomainEnd | null = null;
  readonly #arrivals = new Map<string, ArrivingKey>();
  #waiting = 0;
  #ending: Promise<void> | null = null;
  #lookedAt = Number.NEGATIVE_INFINITY;

  constructor(options: TrustDomainOptions) {
    const { token, shims } = options;
    this.token = token;
    this.#options = options;
    this.#members = shims.map((shim, index) => ({
      ...shim,
      arrived: new Map<string, KeyPlace>(),
      ...{ role: index === 0 ? "active" : "spare", why: "", seen: shim.probed.total, handed: 0, writing: null },
    }));
    const [first] = this.#members;
    if (first === undefined) throw new TypeError(`trust domain ${token}: no shim`);
    this.#active = first;
    for (const member of this.#members) {
      void member.shim.closed.then(({ code, message }) => this.#retire(member, `${code} ${message}`));
    }
    this.#heartbeat = setInterval(() => this.#beat(), HEARTBEAT);
    this.#heartbeat.unref();
    this.checkAttempts();
  }

  get shims(): readonly ShimState[] {
    return this.#members.map(({ id, role }) => ({ token: this.token, id, role }));
  }

  /** Null while the token is served. */
  get end(): DomainEnd | null {
    return this.#end;
  }

  /** Requests that wait for this token. */
  get waiting(): number {
    return this.#waiting;
  }

  /** A place among the requests that wait for this token, until it is disposed of; null when all are taken. */
  reserve(): Disposable | null {
    if (this.#waiting >= MAX_WAITING) return null;
    this.#waiting += 1;
    let held = true;
    return {
      [Symbol.dispose]: () => {
        if (held) this.#waiting -= 1;
        held = false;
      },
    };
  }

  /**
   * Gives one request to the active shim, once. Its result comes only after every attempt that the shim made before it is in the log, and
   * not at all when the token is stopped for one.
   * @throws AgentError ERR_TOKEN_STOPPED; ERR_SHIM_GONE when the shim ended meanwhile, whatever it had done by then; ERR_SHIM_REFUSED;
   *   ERR_KEY_GONE for a key that this token has no longer
   */
  use<T>(key: string, act: (shim: Shim, place: KeyPlace) => Promise<T>): Promise<T> {
    return this.#ask(key, ({ shim }, place) => act(shim, place));
  }

  /** Lets a key in, and uses it once. @throws as `use` does, and what its proof throws */
  async arrive(key: ArrivingKey): Promise<void> {
    await this.#ask(key.by, (member, place) => letIn(member, place, key));
    this.#arrivals.set(key.name, key);
  }

  async #ask<T>(key: string, act: (member: Member, place: KeyPlace) => Promise<T>): Promise<T> {
    while (this.#takeover !== null) await this.#takeover;
    if (this.#end !== null) throw stopped(this.#end);
    const member = this.#active;
    const place = member.places.get(key) ?? member.arrived.get(key);
    if (place === undefined)
      throw new AgentError("ERR_KEY_GONE", "key", {
        expected: `a key of ${this.token} that the launch checked, or that arrived`,
        got: key,
      });
    const outcome = await settled(act(member, place));
    if (outcome.kind === "failed") throw this.#failure(member, outcome.error);
    const writing = this.#noteAttempts(member);
    if (writing !== null) await writing;
    if (this.#end !== null) throw stopped(this.#end);
    return outcome.value;
  }

  /** Looks at every shim's attempts. Called whenever the kernel shows one. */
  checkAttempts(): void {
    for (const member of this.#members) void this.#noteAttempts(member);
  }

  /**
   * Ends the token for a violation that is none of its own shims'.
   * @param logged resolves when it is in the log
   */
  stopForViolation(reasons: readonly Reason[], logged: Promise<void>): void {
    this.#stop({ token: this.token, kind: "violation", reasons }, logged);
  }

  /** Closes every connection: the machine goes on without these shims, and nothing follows from their end. */
  close(): void {
    clearInterval(this.#heartbeat);
    this.#end ??= { token: this.token, kind: "failed", reasons: [] };
    for (const { shim } of this.#members) shim.close();
  }

  /** Resolves when neither a takeover nor a record is under way. */
  async settled(): Promise<void> {
    while (this.#takeover !== null) await this.#takeover;
    await Promise.all(this.#members.map(({ writing }) => writing));
    await this.#ending;
  }

  /** Ends all shims of the token at once; their last words are not waited for. */
  #stop(end: DomainEnd, logged: Promise<void> = Promise.resolve()): void {
    if (this.#end !== null) return;
    this.#end = end;
    clearInterval(this.#heartbeat);
    for (const member of this.#members) this.#endShim(member, "the token was stopped");
    this.#ending = logged.then(() => this.#options.onEnd(end));
  }

  #endShim(member: Member, why: string): void {
    if (member.role === "ended") return;
    member.role = "ended";
    member.why = why;
    member.shim.close();
    // A shim that does not end is none that serves: its connection is closed. It costs memory until the reboot.
    void this.#options.stopShim(member.id).catch((error: unknown) => {
      console.error(`agent: shim ${member.id}: ${error instanceof Error ? error.message : "not stopped"}`);
    });
  }

  /** A shim that ended, hangs, breaks the protocol, or lost its login. */
  #retire(member: Member, why: string): void {
    if (member.role === "ended") return;
    this.#endShim(member, why);
    this.#replaceActive();
  }

  #replaceActive(): void {
    if (this.#active.role !== "ended" || this.#takeover !== null || this.#end !== null) return;
    this.#takeover = this.#takeOver().finally(() => {
      this.#takeover = null;
      this.#replaceActive(); // the one that took over may have ended since its takeover was looked at last
    });
  }

  async #takeOver(): Promise<void> {
    while (this.#active.role === "ended" && this.#end === null) {
      const { id: from, why } = this.#active;
      const next = this.#members.find(({ role }) => role === "spare");
      const replaced = { token: this.token, from, to: next?.id ?? -1, why };
      try {
        await this.#options.incidents.replaced(replaced, () => {
          if (next === undefined) return;
          this.#active = next;
          if (next.role === "spare") next.role = "active";
        });
      } catch (error) {
        return this.#stop(failed(this.token, error));
      }
      if (next === undefined) return this.#stop(lost(this.token, why));
      await this.#restore(next);
    }
  }

  /**
   * Keys that were objects of the ended shim's session are unwrapped again. What the policy in force would not let in, cannot be recorded or does not come back is gone; so are
   * the token's own objects, of which this shim knows no handle until the next launch.
   */
  async #restore(member: Member): Promise<void> {
    for (const key of [...this.#arrivals.values()]) {
      const place = member.places.get(key.by);
      if (hasEnded(member)) return; // the next spare has its turn
      if (key.where === "session" && place !== undefined && (await this.#unwrapAgain(member, place, key))) continue;
      if (!hasEnded(member)) this.#arrivals.delete(key.name);
    }
  }

  async #unwrapAgain(member: Member, place: KeyPlace, key: ArrivingKey): Promise<boolean> {
    try {
      if (!key.stillAllowed()) return false;
      await this.#options.incidents.unwrapping(member.id, key);
      await letIn(member, place, key);
      return true;
    } catch (error) {
      console.error(`agent: key ${key.name}: gone: ${error instanceof Error ? error.message : "unknown failure"}`);
      return false;
    }
  }

  #failure(member: Member, error: unknown): unknown {
    void this.#noteAttempts(member);
    if (this.#end !== null) return stopped(this.#end);
    if (!(error instanceof AgentError)) return error;
    if (SHIM_ENDED.has(error.code))
      return new AgentError("ERR_SHIM_GONE", `token ${this.token}: its shim ended before it answered`, {
        cause: error,
      });
    const { rv } = error;
    if (rv !== undefined && LOGIN_LOST.has(rv)) this.#retire(member, `login lost: CKR 0x${rv.toString(16)}`);
    else if (rv !== undefined && !OF_THE_OPERATION.has(rv)) this.#look();
    return error;
  }

  /** At every shim: what took the HSM from one of them took it from the spares as well. */
  #look(): void {
    const now = performance.now();
    if (now - this.#lookedAt < LOOK_AGAIN) return;
    this.#lookedAt = now;
    for (const member of this.#members) if (member.role !== "ended") void this.#lookAt(member);
  }

  async #lookAt(member: Member): Promise<void> {
    const [place] = member.places.values();
    if (place === undefined) return;
    const listed = await settled(member.shim.keys(place.slotId));
    if (listed.kind === "done" && listed.value.length > 0) return;
    const rv = listed.kind === "failed" && listed.error instanceof AgentError ? listed.error.rv : 0n;
    // a shim that ended meanwhile says so by itself
    if (rv !== undefined) this.#retire(member, `login lost: the token shows no keys, CKR 0x${rv.toString(16)}`);
  }

  /** Null when there is nothing to wait for. The usual case is one comparison. */
  #noteAttempts(member: Member): Promise<void> | null {
    const { watch } = member.shim;
    if (watch.blind() && member.role !== "ended") this.#stop(blinded(this.token, member.id));
    const total = watch.total();
    if (total === member.seen) return member.writing;
    member.seen = total;
    const fresh = watch.recorded().slice(member.handed);
    member.handed += fresh.length;
    const { incidents, onViolation } = this.#options;
    // Each takes its place in the log now, in the order in which they were made.
    const written = Promise.all([
      member.writing,
      ...fresh.map((attempt) => incidents.violation(this.token, member.id, libraryAttempt(attempt, member.probed))),
    ])
      .then(() => undefined)
      .catch((error: unknown) => this.#stop(failed(this.token, error)))
      .finally(() => {
        if (member.writing === written) member.writing = null;
      });
    member.writing = written;
    if (onViolation === "kill") this.#stop(violated(this.token, member.id, total - member.probed.total), written);
    return written;
  }

  #beat(): void {
    for (const { role, shim } of this.#members) {
      // Whatever a shim answers is an answer; one that does not is closed by its connection.
      if (role !== "ended") void shim.status().catch(() => undefined);
    }
  }
}

/** Asked anew each time: it ends whenever it likes. */
function hasEnded({ role }: Member): boolean {
  return role === "ended";
}

type Settled<T> = { readonly kind: "done"; readonly value: T } | { readonly kind: "failed"; readonly error: unknown };

async function settled<T>(work: Promise<T>): Promise<Settled<T>> {
  try {
    return { kind: "done", value: await work };
  } catch (error) {
    return { kind: "failed", error };
  }
}

function stopped({ token, reasons }: DomainEnd): AgentError {
  const [first] = reasons;
  return new AgentError("ERR_TOKEN_STOPPED", `token ${token}`, {
    expected: "a token that is served",
    got: first === undefined ? "stopped" : `${first.code} ${first.got}`,
  });
}

function violated(token: string, shim: number, total: number): DomainEnd {
  return {
    ...{ token, kind: "violation" },
    reasons: [reason("sandbox-violation", token, "no attempts at what is denied", `shim ${shim}: ${total}`)],
  };
}

/** Whatever policy says of violations: nobody could see one any more. */
function blinded(token: string, shim: number): DomainEnd {
  const reasons = [reason("notifier-blind", token, "a notifier that receives attempts", `none for shim ${shim}`)];
  return { token, kind: "failed", reasons };
}

function lost(token: string, why: string): DomainEnd {
  return { token, kind: "lost", reasons: [reason("login-lost", token, "a shim that is logged in", why)] };
}

function failed(token: string, error: unknown): DomainEnd {
  const got = error instanceof Error ? error.message : "unknown failure";
  return { token, kind: "failed", reasons: [reason("incident-not-measured", token, "an event in the agent PCR", got)] };
}
