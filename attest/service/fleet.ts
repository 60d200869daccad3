import { performance } from "node:perf_hooks";
import type { SigningKey } from "../../policy/index.ts";
import { type AttestationResult, type Continuity, type Reason, reason, signEar } from "../index.ts";
import type { OpenChallenge } from "./challenges.ts";
import { Refusal } from "./errors.ts";
import { Judging } from "./judging.ts";
import { afterReport, afterSilence, type FlagName, type Outcome, type Verified } from "./machine-state.ts";
import type { Metrics } from "./metrics.ts";
import type { JudgePool } from "./pool.ts";
import type { MachineRecord, StoredReport, VerifierStore } from "./store.ts";
import { Turns } from "./turns.ts";

export interface FleetRules {
  readonly intervalSeconds: number;
  readonly resultSeconds: number;
  readonly retention: { readonly days: number };
}

export interface FleetSources {
  readonly store: VerifierStore;
  readonly pool: JudgePool;
  readonly metrics: Metrics;
  readonly key: SigningKey;
  now(): Date;
}

export interface Judged {
  readonly result: AttestationResult;
  readonly ear: string;
}

type Evaluated = Extract<Outcome, { kind: "refused" }> | (Verified & { readonly ear: string });

/** Reports of one machine that may wait for each other. */
const waitingPerMachine = 8;
/** Codes that a stored report's row has. */
const maxCodes = 64;
/** How often a report is judged anew because an operator changed its machine meanwhile. */
const maxAttempts = 3;
const pruneSeconds = 3600;

/** What reports, time and operators do to the machines. */
export class Fleet {
  readonly #rules: FleetRules;
  readonly #sources: FleetSources;
  readonly #judging: Judging;
  readonly #turns = new Turns(waitingPerMachine);
  /** Reports in a machine's name that its key did not sign, since the last sweep; by the enrolment's id. */
  readonly #rejected = new Map<number, { count: number; code: string }>();
  #prunedAt = Number.NEGATIVE_INFINITY;

  constructor(rules: FleetRules, sources: FleetSources) {
    this.#rules = rules;
    this.#sources = sources;
    this.#judging = new Judging(sources.pool);
  }

  /**
   * Judges a report that answers this challenge. What is not the machine's own is refused before it takes a turn or a place in the queue. The
   * machine's own are judged one after the other; the verdict is signed and on the disk before it is given out.
   * @param forViewer whether the caller may know every reason: then a report that is not the machine's own is read whole, in a viewer's turn
   * @throws Refusal `evidence-refused` with its reasons, `busy`, `not-judged`
   */
  async receive(open: OpenChallenge, evidence: Uint8Array, forViewer: boolean): Promise<Judged> {
    const started = performance.now();
    const told = (outcome: Outcome) => this.#sources.metrics.evaluation(outcome, (performance.now() - started) / 1000);
    const foreign = await this.#foreign(open, evidence);
    if (foreign.length > 0) {
      told({ kind: "refused", reasons: foreign, authentic: false });
      throw refusedFor(forViewer ? await this.#allReasons(open, evidence, foreign) : foreign);
    }
    const turn = this.#turns.take(open.machine, () => this.#evaluate(open, evidence));
    if (turn === null) throw new Refusal("busy");
    const outcome = await turn;
    told(outcome);
    if (outcome.kind === "refused") throw refusedFor(outcome.reasons);
    return { result: outcome.result, ear: outcome.ear };
  }

  /** Why the report is not the machine's own, which is counted then. */
  async #foreign(open: OpenChallenge, evidence: Uint8Array): Promise<readonly Reason[]> {
    const machine = await this.#sources.store.machine(open.machine);
    const reasons = await this.#judging.foreign(machine, open, evidence);
    if (machine !== null && reasons[0] !== undefined) this.#reject(machine.id, reasons[0].code);
    return reasons;
  }

  /** Of a report that is refused already. Where it cannot be read whole, what is known of it has to do. */
  async #allReasons(open: OpenChallenge, evidence: Uint8Array, known: readonly Reason[]): Promise<readonly Reason[]> {
    const machine = await this.#sources.store.machine(open.machine);
    const { now } = this.#sources;
    try {
      const outcome = await this.#judging.forViewers(() => this.#judging.fresh(machine, open, evidence, now()));
      const reasons = outcome.kind === "refused" ? outcome.reasons : known;
      return machine === null ? reasons : [...(await this.#replayed(machine.id, evidence)), ...reasons];
    } catch (error) {
      if (error instanceof Refusal) return known;
      throw error;
    }
  }

  /** The same bytes once more answer the challenge of that time, whatever else is wrong with them. */
  async #replayed(machine: number, evidence: Uint8Array): Promise<readonly Reason[]> {
    const same = await this.#sources.store.sameReport(machine, evidence);
    return same === null
      ? []
      : [reason("replayed", `report ${same.id}`, "an answer to this challenge", `the report of ${same.at}`)];
  }

  async #evaluate(open: OpenChallenge, evidence: Uint8Array): Promise<Evaluated> {
    for (let attempt = 0; attempt < maxAttempts; attempt++) {
      const machine = await this.#sources.store.machine(open.machine);
      const now = this.#sources.now();
      const outcome = await this.#judging.fresh(machine, open, evidence, now);
      if (outcome.kind === "refused" && !outcome.authentic) return outcome; // the name is another's since
      if (machine === null) throw new TypeError("nobody's key signed a report");
      // First: a verdict that is on the disk has to be one that can be given out.
      const evaluated = outcome.kind === "judged" ? await this.#sign(open, outcome) : outcome;
      if (await this.#record(machine, open, evidence, outcome, now)) return evaluated;
    }
    throw new Refusal("busy");
  }

  async #sign({ challenge }: OpenChallenge, outcome: Verified): Promise<Evaluated> {
    const { key, now } = this.#sources;
    const options = { key, now: now(), ttlSeconds: this.#rules.resultSeconds, nonce: challenge.nonce };
    return { ...outcome, ear: await signEar(outcome.result, options) };
  }

  /** @param now when it was judged, so that it is judged again as of the same time */
  async #record(
    machine: MachineRecord,
    open: OpenChallenge,
    evidence: Uint8Array,
    outcome: Outcome,
    now: Date,
  ): Promise<boolean> {
    const at = now.toISOString();
    const { challenge, challenged } = open;
    const transition = afterReport(machine.view, outcome, at);
    const judged = outcome.kind === "judged" ? outcome.result : null;
    const reasons = outcome.kind === "judged" ? [] : outcome.reasons;
    const report = {
      ...{ at, evidence, challenge, challenged: challenged.toISOString(), previous: machine.view.continuity },
      ...{ result: judged, reasons },
      tier: judged === null ? ("refused" as const) : judged.tier,
      codes: [...new Set([...(judged?.findings ?? []), ...reasons].map(({ code }) => code))].slice(0, maxCodes),
    };
    return this.#change(machine, { ...transition, report });
  }

  async #change(machine: MachineRecord, change: Parameters<VerifierStore["change"]>[1]): Promise<boolean> {
    const written = await this.#sources.store.change(machine, change);
    if (written) for (const { kind } of change.events) this.#sources.metrics.event(kind);
    return written;
  }

  /**
   * Judges a stored report by the present policy and releases, as of the time when it came. Changes nothing.
   * @throws Refusal `evidence-refused`, `not-found`, `busy`, `not-judged`
   */
  async judgeAgain(name: string, id: number): Promise<AttestationResult> {
    const { machine, report } = await this.#stored(name, id);
    const outcome = await this.#judging.forViewers(() => this.#judging.stored(machine, report, report.previous));
    if (outcome.kind === "refused") throw refusedFor(outcome.reasons);
    return outcome.result;
  }

  /**
   * Begins the comparison of a machine's reports anew: with nothing, or with a stored report that is true but for what it follows.
   * @throws Refusal `not-found`, `evidence-refused` for a report that does not verify by itself
   */
  async acceptContinuity(name: string, accept: "reset" | number): Promise<void> {
    if (accept === "reset") {
      return this.#update(name, ({ view }, at) => ({
        view: { ...view, continuity: null },
        events: [{ at, kind: "continuity-reset", detail: {} }],
      }));
    }
    for (let attempt = 0; attempt < maxAttempts; attempt++) {
      const { machine, report } = await this.#stored(name, accept);
      const continuity = await this.#continuityOf(machine, report);
      const at = this.#sources.now().toISOString();
      const events = [{ at, kind: "continuity-accepted", detail: { report: accept } }] as const;
      // Only of the machine that was read before judging: another may have the name by now.
      if (await this.#change(machine, { view: { ...machine.view, continuity }, events })) return;
    }
    throw new Refusal("busy");
  }

  /** What a stored report leaves to compare with. A launch that did not serve says nothing of the audit log: the head that was kept stays. */
  async #continuityOf(machine: MachineRecord, report: StoredReport): Promise<Continuity> {
    const outcome = await this.#judging.stored(machine, report, null);
    if (outcome.kind === "refused") throw refusedFor(outcome.reasons);
    return { ...outcome.continuity, audit: outcome.continuity.audit ?? machine.view.continuity?.audit ?? null };
  }

  /** @throws Refusal `not-found` */
  async clearFlags(name: string, flags: readonly FlagName[]): Promise<void> {
    return this.#update(name, ({ view }, at) => ({
      view: { ...view, flags: view.flags.filter((flag) => !flags.includes(flag)) },
      events: [{ at, kind: "flags-cleared", detail: { flags: flags.join(" ") } }],
    }));
  }

  /** @throws Refusal `not-found` */
  async retire(name: string): Promise<void> {
    const { store, metrics, now } = this.#sources;
    if (!(await store.retire(name, now().toISOString()))) throw new Refusal("not-found");
    metrics.event("retired");
  }

  async #update(
    name: string,
    step: (machine: MachineRecord, at: string) => Parameters<VerifierStore["change"]>[1],
  ): Promise<void> {
    let id: number | null = null;
    for (;;) {
      const machine = await this.#sources.store.machine(name);
      // Another machine may have the name by now, and nobody meant that one.
      if (machine === null || (id !== null && machine.id !== id)) throw new Refusal("not-found");
      id = machine.id;
      if (await this.#change(machine, step(machine, this.#sources.now().toISOString()))) return;
    }
  }

  async #stored(name: string, id: number): Promise<{ readonly machine: MachineRecord; readonly report: StoredReport }> {
    const machine = await this.#sources.store.machine(name);
    const report = machine === null ? null : await this.#sources.store.report(machine.id, id);
    if (machine === null || report === null) throw new Refusal("not-found");
    return { machine, report };
  }

  /** What time does: machines fall silent, rejected reports are written down, old rows go. */
  async sweep(): Promise<void> {
    const { store, now } = this.#sources;
    const rejected = [...this.#rejected];
    this.#rejected.clear();
    const at = now().toISOString();
    for (const [machine, note] of rejected)
      if (await store.noteRejected(machine, { at, ...note })) this.#sources.metrics.event("rejected");
    const { intervalSeconds, retention } = this.#rules;
    for (const machine of await store.quietSince(new Date(now().getTime() - 1000 * intervalSeconds).toISOString())) {
      const silence = afterSilence(machine.view, now(), intervalSeconds);
      if (silence !== null) await this.#change(machine, silence); // or it was heard this very moment
    }
    if (now().getTime() - this.#prunedAt < pruneSeconds * 1000) return;
    this.#prunedAt = now().getTime();
    await store.prune(new Date(this.#prunedAt - 86_400_000 * retention.days).toISOString());
  }

  #reject(machine: number, code: string): void {
    const count = (this.#rejected.get(machine)?.count ?? 0) + 1;
    this.#rejected.set(machine, { count, code });
  }
}

function refusedFor(reasons: readonly Reason[]): Refusal {
  return new Refusal("evidence-refused", { reasons });
}
