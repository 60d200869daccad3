import { generateKeyPairSync } from "node:crypto";
import { performance } from "node:perf_hooks";
import { type SigningKey, toBase64, toHex } from "../../policy/index.ts";
import { type AttestationResult, type Enrolment, encodeTpmPublic, signEar, tpmName } from "../index.ts";
import type { OpenChallenge } from "./challenges.ts";
import { Refusal, ServiceError } from "./errors.ts";
import { afterReport, afterSilence, type FlagName, type MachineEvent, type Outcome } from "./machine-state.ts";
import type { Metrics } from "./metrics.ts";
import type { JudgePool } from "./pool.ts";
import type { MachineRecord, StoredReport, VerifierStore } from "./store.ts";
import { Turns } from "./turns.ts";

export interface FleetRules {
  readonly intervalSeconds: number;
  readonly resultSeconds: number;
  readonly retention: { readonly reportsPerMachine: number; readonly eventsPerMachine: number; readonly days: number };
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

/** Reports of one machine that may wait for each other. */
const waitingPerMachine = 8;
/** How often a report is judged anew because an operator changed its machine meanwhile. */
const maxAttempts = 3;
const pruneSeconds = 3600;

/** What reports, time and operators do to the machines. */
export class Fleet {
  readonly #rules: FleetRules;
  readonly #sources: FleetSources;
  readonly #turns = new Turns(waitingPerMachine);
  /** Reports in a machine's name that its key did not sign, since the last sweep. */
  readonly #rejected = new Map<string, { count: number; code: string }>();
  #prunedAt = Number.NEGATIVE_INFINITY;
  /** Evidence in an unknown name is judged against this one, so that it is refused as slowly as any other. */
  readonly #nobody = enrolmentOfNobody();

  constructor(rules: FleetRules, sources: FleetSources) {
    this.#rules = rules;
    this.#sources = sources;
  }

  /**
   * Judges a report that answers this challenge. Reports of one machine are judged one after the other; the verdict is on the disk before it
   * is given out.
   * @throws Refusal `evidence-refused` with all reasons, `busy`, `not-judged`
   */
  async receive(open: OpenChallenge, evidence: Uint8Array): Promise<Judged> {
    const started = performance.now();
    const turn = this.#turns.take(open.machine, () => this.#evaluate(open, evidence));
    if (turn === null) throw new Refusal("busy");
    const outcome = await turn;
    this.#sources.metrics.evaluation(outcome, (performance.now() - started) / 1000);
    if (outcome.kind === "refused") throw new Refusal("evidence-refused", { reasons: outcome.reasons });
    const { key, now } = this.#sources;
    const options = { key, now: now(), ttlSeconds: this.#rules.resultSeconds, nonce: open.challenge.nonce };
    return { result: outcome.result, ear: await signEar(outcome.result, options) };
  }

  async #evaluate(open: OpenChallenge, evidence: Uint8Array): Promise<Outcome> {
    for (let attempt = 0; attempt < maxAttempts; attempt++) {
      const machine = await this.#sources.store.machine(open.machine);
      const now = this.#sources.now();
      const outcome = await this.#judge(machine, open, evidence, now);
      if (outcome.kind === "refused" && !outcome.authentic) {
        if (machine !== null) this.#reject(machine.name, outcome.reasons[0]?.code ?? "none");
        return outcome;
      }
      if (machine === null) throw new TypeError("nobody's key signed a report");
      if (await this.#record(machine, open, evidence, outcome, now)) return outcome;
    }
    throw new Refusal("busy");
  }

  async #judge(machine: MachineRecord | null, open: OpenChallenge, evidence: Uint8Array, now: Date): Promise<Outcome> {
    const { challenge, challenged } = open;
    const enrolment = machine?.enrolment ?? { ...this.#nobody, name: open.machine };
    const previous = machine?.view.continuity ?? null;
    return this.#inPool({ evidence, challenge, challenged, now, enrolment, previous });
  }

  async #inPool(order: Parameters<JudgePool["judge"]>[0]): Promise<Outcome> {
    try {
      return await this.#sources.pool.judge(order);
    } catch (error) {
      if (!(error instanceof ServiceError)) throw error;
      const code =
        error.code === "ERR_WORKER_BUSY" ? "busy" : error.code === "ERR_WORKER_CLOSED" ? "closing" : "not-judged";
      throw new Refusal(code, { message: error.message });
    }
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
      codes: [...new Set([...(judged?.findings ?? []), ...reasons].map(({ code }) => code))],
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
    const { evidence, challenge, previous } = report;
    const times = { challenged: new Date(report.challenged), now: new Date(report.at) };
    const outcome = await this.#inPool({ evidence, challenge, ...times, enrolment: machine.enrolment, previous });
    if (outcome.kind === "refused") throw new Refusal("evidence-refused", { reasons: outcome.reasons });
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
    const { machine, report } = await this.#stored(name, accept);
    const { evidence, challenge } = report;
    const times = { challenged: new Date(report.challenged), now: new Date(report.at) };
    const outcome = await this.#inPool({ evidence, challenge, ...times, enrolment: machine.enrolment, previous: null });
    if (outcome.kind === "refused") throw new Refusal("evidence-refused", { reasons: outcome.reasons });
    const { continuity } = outcome;
    return this.#update(name, ({ view }, at) => ({
      view: { ...view, continuity },
      events: [{ at, kind: "continuity-accepted", detail: { report: accept } }],
    }));
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
    for (;;) {
      const machine = await this.#sources.store.machine(name);
      if (machine === null) throw new Refusal("not-found");
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
    for (const [name, detail] of rejected) await this.#noteRejected(name, detail);
    const { intervalSeconds, retention } = this.#rules;
    for (const machine of await store.quietSince(new Date(now().getTime() - 1000 * intervalSeconds).toISOString())) {
      const silence = afterSilence(machine.view, now(), intervalSeconds);
      if (silence !== null) await this.#change(machine, silence); // or it was heard this very moment
    }
    if (now().getTime() - this.#prunedAt < pruneSeconds * 1000) return;
    this.#prunedAt = now().getTime();
    await store.prune(new Date(this.#prunedAt - 86_400_000 * retention.days).toISOString());
  }

  async #noteRejected(name: string, detail: MachineEvent["detail"]): Promise<void> {
    try {
      await this.#update(name, ({ view }, at) => ({ view, events: [{ at, kind: "rejected", detail }] }));
    } catch (error) {
      if (!(error instanceof Refusal)) throw error; // retired meanwhile
    }
  }

  #reject(name: string, code: string): void {
    const count = (this.#rejected.get(name)?.count ?? 0) + 1;
    this.#rejected.set(name, { count, code });
  }
}

/** A key that was thrown away the moment it was made. */
function enrolmentOfNobody(): Enrolment {
  const { x = "", y = "" } = generateKeyPairSync("ec", { namedCurve: "P-256" }).publicKey.export({ format: "jwk" });
  const coordinate = (text: string) => Uint8Array.fromBase64(text, { alphabet: "base64url" });
  const akPublic = encodeTpmPublic({
    ...{ kind: "ecc", nameAlg: 0x000b, attributes: 0x50472, authPolicy: new Uint8Array(), symmetric: null, curve: 3 },
    ...{ scheme: { scheme: 0x0018, hash: 0x000b }, x: coordinate(x), y: coordinate(y) },
  });
  const akName = toHex(tpmName(akPublic));
  const names = { name: "nobody", ekName: akName, akPublic: toBase64(akPublic), akName };
  return { version: 1, ...names, assurance: "software-tpm", ekCertificateSha256: null };
}
