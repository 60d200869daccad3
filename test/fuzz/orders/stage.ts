import { FailureBudgets, KeyRing, LivePolicy, NO_METER, Usage } from "../../../agent/broker/index.ts";
import { openScope, type ScopeState } from "../../../agent/broker/scope-state.ts";
import type { Peer } from "../../../agent/identity.ts";
import { ReceiveMemory } from "../../../agent/p11kit/frame.ts";
import { openRpcDoor } from "../../../agent/rpc/index.ts";
import { LoopTurns } from "../../../agent/scopes/loop-turns.ts";
import { SIGNER_EXE, SIGNER_UID } from "../../support/policy-document.ts";
import { Client } from "./client.ts";
import { Laws } from "./laws.ts";
import { isCallerOf, Log, takenAway } from "./log.ts";
import { NARROWER, POLICY, PUBLIC_KEYS, SCOPE_NAMES, type ScopeName } from "./scopes.ts";
import { StagedToken } from "./token.ts";

/** What the connections of one scope may hold: less than the agent's own, so that it is reached. */
const MEMORY = 16_384;
/** Turns of the event loop after which nothing happens that nobody causes. */
const QUIET = 12;
const MOST_TURNS = 2000;

const caller: Peer = { pid: 77, uid: SIGNER_UID, gid: 2001, exe: SIGNER_EXE as Peer["exe"], unit: null };
const stranger: Peer = { ...caller, pid: 78, uid: 2002 };

/** Counts what is held, and whether there ever was too little. */
class CountedMemory extends ReceiveMemory {
  held = 0;
  wasFull = false;

  override take(bytes: number): void {
    try {
      super.take(bytes);
    } catch (error) {
      this.wasFull = true;
      throw error;
    }
    this.held += bytes;
  }

  override give(bytes: number): void {
    super.give(bytes);
    this.held -= bytes;
  }
}

interface OpenScope {
  readonly state: ScopeState;
  readonly memory: CountedMemory;
}

/** Made once: reading public keys takes longer than a run. */
const RING = new KeyRing(POLICY, PUBLIC_KEYS);

/** As it is before any key has arrived. */
function emptyRing(): KeyRing {
  const arrived = RING.arrival("intake", "restored");
  if (arrived !== null) RING.leave(arrived.key);
  return RING;
}

/** The native doors of five scopes of one broker, clients at them, and clocks, log and token that do what the run says. */
export class Stage {
  readonly laws = new Laws();
  readonly live = new LivePolicy(POLICY);
  readonly log = new Log(this.laws, this.live, () => this.time);
  readonly token = new StagedToken(
    this.laws,
    (asked) => takenAway(this.live, asked),
    () => this.time,
  );
  readonly usage = new Usage(() => this.time);
  readonly clients: Client[] = [];
  readonly #scopes: ReadonlyMap<ScopeName, OpenScope>;
  readonly #served: Promise<void>[] = [];
  readonly #hurry = new LoopTurns(() => this.#begun++);
  #begun = 0;
  #narrowed = 0;
  /** Milliseconds. */
  time = 0;
  isApproved = true;

  constructor() {
    const now = () => this.time;
    const use = () => this.isApproved;
    const broker = {
      ...{ live: this.live, keys: emptyRing(), token: this.token, audit: this.log },
      ...{ failures: new FailureBudgets(now), usage: this.usage, now, wallClock: now, meter: NO_METER },
      approvals: { approvedBy: () => ({ id: "a1", approvers: this.isApproved ? ["alice"] : [] }), use },
    };
    this.#scopes = new Map(
      SCOPE_NAMES.map((name) => [name, { state: openScope(broker, name), memory: new CountedMemory(MEMORY) }]),
    );
  }

  /** @param isCaller a process that the scope serves; else another user's */
  connect(name: ScopeName, isCaller: boolean): Client {
    const isServed = isCaller && isCallerOf(this.live, name);
    const client = new Client(this.laws, name, { isCaller: isServed, now: () => this.time });
    const { state, memory } = this.#scopes.get(name) as OpenScope;
    const peer = isCaller ? caller : stranger;
    const look = async () => (client.isAnother || client.line.destroyed ? null : peer);
    const visit = { channel: client.line, caller: { peer, look, fresh: look }, memory, turn: this.#hurry.of(name) };
    this.#served.push(openRpcDoor(state)(visit));
    this.clients.push(client);
    return client;
  }

  narrow(): void {
    const next = NARROWER[this.#narrowed++];
    if (next !== undefined) this.live.narrow(next);
  }

  async turns(count: number): Promise<void> {
    for (let left = count; left > 0; left -= 1) await new Promise(setImmediate);
    this.laws.verify();
  }

  /** Everything that waits is done, and everybody goes. */
  async finish(): Promise<void> {
    this.log.writing.always("written");
    this.token.answering.always("good");
    for (const { line } of this.clients) line.reads = true;
    for (const client of this.clients) client.flush();
    await this.#quiet();
    for (const client of this.clients) {
      if (!this.#scopes.get(client.scope)?.memory.wasFull) client.verifyOver();
      client.hangUp();
    }
    let isOver = false;
    void Promise.all(this.#served).then(() => {
      isOver = true;
    });
    await this.#quiet();
    this.laws.hold(isOver, "a connection is served although its client is gone");
    for (const scope of this.#scopes.values()) await this.#verifyEmpty(scope);
    this.laws.hold(this.token.reserved === 0, "token: a place is not given back");
    const secrets = [...this.token.plaintexts, ...this.clients.flatMap(({ line }) => line.written)];
    this.laws.hold(
      secrets.every((bytes) => bytes.every((byte) => byte === 0)),
      "a plaintext or reply is not wiped",
    );
    this.laws.verify();
  }

  async #verifyEmpty({ state, memory }: OpenScope): Promise<void> {
    this.laws.hold(memory.held === 0, `${state.name}: memory for requests is not given back`);
    this.laws.hold(this.usage.inFlight(state.name) === 0, `${state.name}: an operation stays under way`);
    // Its timer would keep all of this for a minute.
    await state.refusals.flush();
  }

  /** Until nothing has been written, recorded or asked for some turns. */
  async #quiet(): Promise<void> {
    const done = () => this.clients.reduce((sum, { line }) => sum + line.written.length + line.taken, this.token.asked);
    let [last, still] = [-1, 0];
    for (let turn = 0; turn < MOST_TURNS && still < QUIET; turn += 1) {
      await this.turns(1);
      const now = done();
      still = now === last ? still + 1 : 0;
      last = now;
    }
    this.laws.hold(still === QUIET, "the doors do not come to rest");
  }
}
