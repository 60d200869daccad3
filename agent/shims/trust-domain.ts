import type { Reason } from "../../attest/index.ts";
import { AgentError } from "../errors.ts";
import { failureOf, journal } from "../journal.ts";
import type { Shim } from "../shim-client.ts";
import { type ArrivingKey, letIn } from "./arrivals.ts";
import { libraryAttempt } from "./attempts.ts";
import { blinded, type DomainEnd, failed, lost, stopped, violated } from "./domain-end.ts";
import type { DomainShim, KeyPlace, ShimRole, ShimState } from "./domain-shim.ts";
import type { IncidentLog } from "./incidents.ts";
import { isLoginLost, isOfTheOperation } from "./library-answers.ts";

export interface TrustDomainOptions {
  /** The policy's name of the token. */
  readonly token: string;
  /** Those that serve before the spares, and at least one of them. */
  readonly shims: readonly DomainShim[];
  readonly onViolation: "kill" | "report";
  readonly incidents: IncidentLog;
  /** SIGKILL to the shim's process. Idempotent. */
  readonly stopShim: (id: number) => Promise<void>;
  /** Called once, when nothing of this token is served any more and that is in the log. */
  readonly onEnd: (end: DomainEnd) => Promise<void>;
}

/** Requests that wait for one token: as many as one scope has connections, so that a scope by itself never meets it. */
export const MAX_WAITING = 256;

/**
 * Requests that the first serving shim works on or has waiting before another one is asked: two shims are nearly twice as fast at operations that
 * take milliseconds, and on few processors only get in each other's way at quick ones.
 */
const FIRST_TAKES = { quick: 6, slow: 1 } as const;

/** Idle shims are asked for a sign of life this often, in milliseconds: one that hangs is found before it is needed. */
const HEARTBEAT = 15_000;

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
  /** Requests that it was given and has not answered. */
  inWork: number;
}

/**
 * One token and the shims that are logged in to it: some serve, the others wait to take the place of one. No request is ever given to two of
 * them: what was under way when a shim ended has ended with it.
 */
export class TrustDomain {
  readonly token: string;
  readonly #options: TrustDomainOptions;
  readonly #members: readonly Member[];
  readonly #heartbeat: NodeJS.Timeout;
  /** Those that serve, in their places. One that has ended keeps its place until its end is in the log. */
  readonly #serving: Member[];
  /** Keys that arrived are in this one only: the first of those that serve. */
  #host: Member;
  /** Has its place, and is asked for nothing yet. */
  #entering: Member | null = null;
  /** A spare serves only once it is in the log that it does: requests that no other shim can take wait for it. */
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
    this.#members = shims.map((shim) => ({
      ...shim,
      arrived: new Map<string, KeyPlace>(),
      ...{ role: shim.serves ? "active" : "spare", why: "", seen: shim.probed.total, handed: 0, writing: null },
      inWork: 0,
    }));
    this.#serving = this.#members.filter(({ serves }) => serves);
    const [first] = this.#serving;
    if (first === undefined) throw new TypeError(`trust domain ${token}: no shim that serves`);
    this.#host = first;
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
   * Gives one request to a shim that serves, once. Its result comes only after every attempt that the shim made before it is in the log, and
   * not at all when the token is stopped for one.
   * @throws AgentError ERR_TOKEN_STOPPED; ERR_SHIM_GONE when the shim ended meanwhile, whatever it had done by then; ERR_SHIM_REFUSED;
   *   ERR_KEY_GONE for a key that this token has no longer
   */
  use<T>(key: string, act: (shim: Shim, place: KeyPlace) => Promise<T>): Promise<T> {
    return this.#ask(key, ({ shim }, place) => act(shim, place));
  }

  /** Lets a key in, and uses it once. @throws as `use` does, and what its proof throws */
  async arrive(key: ArrivingKey): Promise<void> {
    await this.#ask(key.by, (member, place) => letIn(member, place, key), "host");
    this.#arrivals.set(key.name, key);
  }

  async #ask<T>(key: string, act: (member: Member, place: KeyPlace) => Promise<T>, by?: "host"): Promise<T> {
    let member = this.#choose(key, by);
    while (member === null) {
      if (this.#end !== null) throw stopped(this.#end);
      await this.#takeover;
      member = this.#choose(key, by);
    }
    if (this.#end !== null) throw stopped(this.#end);
    const place = member.places.get(key) ?? member.arrived.get(key);
    if (place === undefined)
      throw new AgentError("ERR_KEY_GONE", "key", {
        expected: `a key of ${this.token} that the launch checked, or that arrived`,
        got: key,
      });
    let value: T;
    member.inWork += 1;
    try {
      value = await act(member, place);
    } catch (error) {
      throw this.#failure(member, error);
    } finally {
      member.inWork -= 1;
    }
    const writing = this.#noteAttempts(member);
    if (writing !== null) await writing;
    if (this.#end !== null) throw stopped(this.#end);
    return value;
  }

  /**
   * The shim that is to have a request by this key: the first that serves while it has few, else the one with the fewest. Null while each that
   * could take it is being replaced.
   */
  #choose(key: string, by?: "host"): Member | null {
    const known = this.#host.places.get(key);
    if (known === undefined || by === "host") return hasEnded(this.#host) ? null : this.#host;
    const able = this.#serving.filter((member) => !hasEnded(member) && member !== this.#entering);
    const [first] = able;
    if (first === undefined || first.inWork < FIRST_TAKES[known.quick === true ? "quick" : "slow"])
      return first ?? null;
    return able.reduce((least, member) => (member.inWork < least.inWork ? member : least));
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
      journal.warning(`shim ${member.id}: not stopped: ${failureOf(error)}`);
    });
  }

  /** A shim that ended, hangs, breaks the protocol, or lost its login. */
  #retire(member: Member, why: string): void {
    if (member.role === "ended") return;
    this.#endShim(member, why);
    this.#replaceEnded();
  }

  #replaceEnded(): void {
    if (!this.#serving.some(hasEnded) || this.#takeover !== null || this.#end !== null) return;
    this.#takeover = this.#takeOver().finally(() => {
      this.#takeover = null;
      this.#replaceEnded(); // the one that took over may have ended since its takeover was looked at last
    });
  }

  async #takeOver(): Promise<void> {
    for (;;) {
      const ended = this.#serving.find(hasEnded);
      if (ended === undefined || this.#end !== null) return;
      await this.#replace(ended);
    }
  }

  /** By a spare; without one the others go on. */
  async #replace({ id: from, why }: Member): Promise<void> {
    const next = this.#members.find(({ role }) => role === "spare");
    const others = this.#serving.filter((member) => !hasEnded(member)).length;
    const replaced = { token: this.token, from, to: next?.id ?? -1, why, others };
    try {
      await this.#options.incidents.replaced(replaced, () => this.#fill(from, next));
    } catch (error) {
      return this.#stop(failed(this.token, error));
    }
    const [first] = this.#serving;
    if (first === undefined) return this.#stop(lost(this.token, why));
    if (first !== this.#host) {
      await this.#restore(first);
      this.#host = first;
    }
    this.#entering = null;
  }

  /** Gives the place of one that ended to the next, or to nobody. */
  #fill(from: number, next: Member | undefined): void {
    const at = this.#serving.findIndex(({ id }) => id === from);
    this.#serving.splice(at, 1, ...(next === undefined ? [] : [next]));
    this.#entering = next ?? null;
    if (next?.role === "spare") next.role = "active";
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
      journal.warning(`key ${key.name}: gone: ${failureOf(error)}`);
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
    if (rv !== undefined && isLoginLost(rv)) this.#retire(member, `login lost: CKR 0x${rv.toString(16)}`);
    else if (rv !== undefined && !isOfTheOperation(rv)) this.#look();
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
    const listed = await settled(({ shim }, { slotId }) => shim.keys(slotId), member, place);
    if (listed.kind === "done" && listed.value.length > 0) return;
    const rv = listed.kind === "failed" && listed.error instanceof AgentError ? listed.error.rv : 0n;
    // a shim that ended meanwhile says so by itself
    if (rv !== undefined && !isOfTheOperation(rv))
      this.#retire(member, `login lost: the token shows no keys, CKR 0x${rv.toString(16)}`);
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

async function settled<T>(
  act: (member: Member, place: KeyPlace) => Promise<T>,
  member: Member,
  place: KeyPlace,
): Promise<Settled<T>> {
  try {
    return { kind: "done", value: await act(member, place) };
  } catch (error) {
    return { kind: "failed", error };
  }
}
