import { toHex } from "../../policy/index.ts";
import type { Challenge } from "../index.ts";
import { Refusal } from "./errors.ts";

/** A challenge that was given out: for this machine's name and nobody else's. */
export interface OpenChallenge {
  readonly machine: string;
  readonly challenge: Challenge;
  readonly challenged: Date;
  readonly expires: Date;
}

interface Entry extends OpenChallenge {
  readonly peer: string;
  /** When it ends on the monotonic clock: setting the other back brings no nonce back. */
  readonly until: number;
}

export interface ChallengeRules extends Pick<Challenge, "bank" | "pcrs"> {
  readonly ttlSeconds: number;
  /** Open at a time for one machine and one peer: a stranger who asks in a machine's name does not use up the machine's own. */
  readonly perMachine: number;
  readonly perPeer: number;
  /** For everybody together. */
  readonly open: number;
}

export interface ChallengeSources {
  now(): Date;
  /** Milliseconds that never go back. */
  monotonic(): number;
  random(bytes: number): Uint8Array;
}

/**
 * The nonces that are open. They live in this process only: after a restart all of them are invalid, so no copy of a database brings one
 * back, and a stranger's request writes nothing to the disk.
 *
 * A name need not be enrolled: whoever asks learns nothing about which are.
 */
export class ChallengeBook {
  readonly #rules: ChallengeRules;
  readonly #sources: ChallengeSources;
  /** By nonce. Insertion is in the order of time, and all live equally long: the first to expire stand first. */
  readonly #open = new Map<string, Entry>();
  readonly #perMachine = new Map<string, number>();
  /** Each peer's nonces, the oldest first. */
  readonly #perPeer = new Map<string, Set<string>>();

  constructor(rules: ChallengeRules, sources: ChallengeSources) {
    this.#rules = rules;
    this.#sources = sources;
  }

  get size(): number {
    this.#expire();
    return this.#open.size;
  }

  /**
   * Into a full book it goes in place of the oldest challenge of the peer that has most: whoever fills it pays for it himself.
   * @throws Refusal `too-many` for a peer that has as many open as it may, for this machine or in all
   */
  issue(machine: string, peer: string): OpenChallenge {
    this.#expire();
    const { bank, pcrs, ttlSeconds, perMachine, perPeer } = this.#rules;
    const pair = pairOf(machine, peer);
    const own = this.#perPeer.get(peer) ?? new Set();
    if (amount(this.#perMachine, pair) >= perMachine || own.size >= perPeer)
      throw new Refusal("too-many", { hint: "answer a challenge, or wait until one expires" });
    if (this.#open.size >= this.#rules.open) this.#makeRoom();
    const nonce = this.#sources.random(32);
    const challenged = this.#sources.now();
    const expires = new Date(challenged.getTime() + 1000 * ttlSeconds);
    const until = this.#sources.monotonic() + 1000 * ttlSeconds;
    const entry = { machine, peer, challenge: { nonce, bank, pcrs }, challenged, expires, until };
    const key = toHex(nonce);
    this.#open.set(key, entry);
    this.#perMachine.set(pair, amount(this.#perMachine, pair) + 1);
    this.#perPeer.set(peer, (this.#perPeer.get(peer) ?? new Set()).add(key));
    return entry;
  }

  /** Takes the nonce out of the book, whatever becomes of the evidence. `null`: used, expired or never given out. */
  take(nonce: Uint8Array): OpenChallenge | null {
    this.#expire();
    const key = toHex(nonce);
    const entry = this.#open.get(key);
    if (entry === undefined) return null;
    this.#remove(key, entry);
    // Its own end counts, by either clock: the other may have been set, and this one may have slept.
    return entry.until > this.#sources.monotonic() && entry.expires > this.#sources.now() ? entry : null;
  }

  #makeRoom(): void {
    let most: ReadonlySet<string> = new Set();
    for (const keys of this.#perPeer.values()) if (keys.size > most.size) most = keys;
    const [oldest = ""] = most;
    const entry = this.#open.get(oldest);
    if (entry !== undefined) this.#remove(oldest, entry);
  }

  #expire(): void {
    const now = this.#sources.monotonic();
    for (const [key, entry] of this.#open) {
      if (entry.until > now) return;
      this.#remove(key, entry);
    }
  }

  #remove(key: string, { machine, peer }: Entry): void {
    this.#open.delete(key);
    lower(this.#perMachine, pairOf(machine, peer));
    const own = this.#perPeer.get(peer);
    own?.delete(key);
    if (own?.size === 0) this.#perPeer.delete(peer);
  }
}

/** Names have no space in them. */
const pairOf = (machine: string, peer: string) => `${machine} ${peer}`;
const amount = (counts: ReadonlyMap<string, number>, key: string) => counts.get(key) ?? 0;

function lower(counts: Map<string, number>, key: string): void {
  const left = amount(counts, key) - 1;
  if (left > 0) counts.set(key, left);
  else counts.delete(key);
}
