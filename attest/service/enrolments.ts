import { createHash } from "node:crypto";
import { IronclawError } from "../../policy/index.ts";
import {
  beginEnrolment,
  type EkProfileName,
  type Enrolment,
  finishEnrolment,
  type PendingEnrolment,
  type TrustAnchor,
  verifyEndorsement,
} from "../index.ts";
import { Refusal } from "./errors.ts";
import { afterClone } from "./machine-state.ts";
import type { Metrics } from "./metrics.ts";
import type { EnrolOutcome, MachineRecord, VerifierStore } from "./store.ts";

export interface EnrolmentRules {
  readonly ttlSeconds: number;
  /** Enrolments that may be open at a time. */
  readonly open: number;
  readonly maxTokenSeconds: number;
}

export interface EnrolmentSources {
  readonly store: VerifierStore;
  readonly metrics: Metrics;
  readonly anchors: () => readonly TrustAnchor[];
  now(): Date;
  /** Milliseconds that never go back. */
  monotonic(): number;
  random(bytes: number): Uint8Array;
}

export interface BeginOrder {
  readonly token: string;
  readonly name: string;
  readonly ekCertificates: readonly Uint8Array[];
  /** The template that the machine says its EK has. A wrong one makes a credential that opens nowhere. */
  readonly ekProfile: EkProfileName | null;
  readonly akPublic: Uint8Array;
}

export interface Begun {
  readonly id: string;
  readonly credentialBlob: Uint8Array;
  readonly encryptedSecret: Uint8Array;
  readonly expires: Date;
}

export interface OpenEnrolment {
  readonly pending: PendingEnrolment;
  readonly expires: Date;
  /** When it ends on the monotonic clock. */
  readonly until: number;
}

/**
 * Enrolment over the network. An operator's token is for one name and one try; the credential behind it is in this process only, for as long
 * as `ttlSeconds`, and one answer ends it, right or wrong.
 */
export class Enrolments {
  readonly #rules: EnrolmentRules;
  readonly #sources: EnrolmentSources;
  readonly #open = new Map<string, OpenEnrolment>();

  constructor(rules: EnrolmentRules, sources: EnrolmentSources) {
    this.#rules = rules;
    this.#sources = sources;
  }

  /** @throws Refusal `malformed` for a token that would live longer than the configuration allows */
  async makeToken(name: string, ttlSeconds: number): Promise<{ readonly token: string; readonly expires: Date }> {
    const { maxTokenSeconds } = this.#rules;
    if (ttlSeconds > maxTokenSeconds)
      throw new Refusal("malformed", { message: `ttlSeconds: at most ${maxTokenSeconds}` });
    const token = base64url(this.#sources.random(32));
    const expires = new Date(this.#sources.now().getTime() + 1000 * ttlSeconds);
    await this.#sources.store.addToken(digestOf(token), name, expires.toISOString());
    return { token, expires };
  }

  /**
   * Spends the token, whatever comes next, and makes a credential for this EK and AK. Only where too many are open it is not spent.
   * Does not establish that the machine has either: `finish` does.
   * @throws Refusal `token-refused`, `endorsement-refused`, `too-many`
   */
  async begin(order: BeginOrder): Promise<Begun> {
    const now = this.#sources.now();
    this.#expire();
    // First, so that a full house costs nobody his token.
    if (this.#open.size >= this.#rules.open) throw this.#refused("too-many");
    const name = await this.#sources.store.takeToken(digestOf(order.token), now.toISOString());
    if (name === null || name !== order.name) throw this.#refused("token-refused");
    const pending = await this.#begin(order, now);
    const id = base64url(this.#sources.random(32));
    const expires = new Date(now.getTime() + 1000 * this.#rules.ttlSeconds);
    const until = this.#sources.monotonic() + 1000 * this.#rules.ttlSeconds;
    this.#open.set(id, { pending, expires, until });
    this.#sources.metrics.enrolment("begun");
    return { id, ...pending.credential, expires };
  }

  async #begin({ name, ekCertificates, ekProfile, akPublic }: BeginOrder, now: Date): Promise<PendingEnrolment> {
    try {
      const endorsement = verifyEndorsement(ekCertificates, this.#sources.anchors(), now, ekProfile ?? undefined);
      return await beginEnrolment(name, endorsement, akPublic);
    } catch (error) {
      if (!(error instanceof IronclawError)) throw error;
      throw this.#refused("endorsement-refused", error);
    }
  }

  /** Ends an enrolment for whoever answers it next. @throws Refusal `enrolment-over` */
  take(id: string): OpenEnrolment {
    this.#expire();
    const open = this.#open.get(id);
    this.#open.delete(id);
    if (open === undefined) throw this.#refused("enrolment-over");
    // Its own end counts, by either clock: the other may have been set, and this one may have slept.
    if (open.until > this.#sources.monotonic() && open.expires > this.#sources.now()) return open;
    open.pending.secret.fill(0);
    throw this.#refused("enrolment-over");
  }

  /**
   * With the right answer AK and EK are in one TPM, and the name is this EK's from then on.
   * @throws Refusal `credential-refused`, `name-taken`, `clone`, `key-changed`
   */
  async finish({ pending }: OpenEnrolment, secret: Uint8Array): Promise<Enrolment> {
    const now = this.#sources.now();
    const enrolment = this.#prove(pending, secret);
    const outcome = await this.#sources.store.enrol(enrolment, now.toISOString());
    this.#sources.metrics.enrolment(outcome.kind);
    if (outcome.kind === "enrolled") this.#sources.metrics.event("enrolled");
    if (outcome.kind === "enrolled" || outcome.kind === "enrolled-again") return outcome.machine.enrolment;
    if (outcome.kind === "clone") await this.#flagClones(outcome, enrolment.name, now);
    throw new Refusal(outcome.kind);
  }

  #prove(pending: PendingEnrolment, secret: Uint8Array): Enrolment {
    try {
      return finishEnrolment(pending, secret);
    } catch (error) {
      if (!(error instanceof IronclawError)) throw error;
      throw this.#refused("credential-refused", error);
    }
  }

  /** Only after the proof: certificates are public, and nobody may flag a machine by showing its certificate. */
  async #flagClones(outcome: Extract<EnrolOutcome, { kind: "clone" }>, name: string, now: Date): Promise<void> {
    await this.#flag(outcome.machine.name, name, now);
    if (outcome.other !== null) await this.#flag(outcome.other.name, outcome.machine.name, now);
  }

  async #flag(name: string, other: string, now: Date): Promise<void> {
    const { store, metrics } = this.#sources;
    let machine: MachineRecord | null = await store.machine(name);
    // A report may come between reading and writing; the flag must not get lost.
    while (machine !== null && !(await store.change(machine, afterClone(machine.view, other, now.toISOString())))) {
      machine = await store.machine(name);
    }
    if (machine !== null) metrics.event("clone");
  }

  #refused(code: ConstructorParameters<typeof Refusal>[0], cause?: IronclawError): Refusal {
    this.#sources.metrics.enrolment("refused");
    return new Refusal(code, cause === undefined ? {} : { message: cause.message });
  }

  #expire(): void {
    const now = this.#sources.monotonic();
    for (const [id, { pending, until }] of this.#open) {
      if (until > now) return;
      pending.secret.fill(0);
      this.#open.delete(id);
    }
  }
}

function digestOf(token: string): Uint8Array {
  return new Uint8Array(createHash("sha256").update(token).digest());
}

function base64url(bytes: Uint8Array): string {
  return bytes.toBase64({ alphabet: "base64url", omitPadding: true });
}
