import { Counter, Gauge, Histogram, Registry } from "prom-client";
import { type RefusalCode, refusalCodes } from "./errors.ts";
import { type EventKind, eventKinds, flagNames, machineStates, type Outcome } from "./machine-state.ts";
import type { Census, MachineRecord } from "./store.ts";

export interface Gauges {
  queueDepth(): number;
  openChallenges(): number;
  workers(): number;
}

/**
 * Codes that may be a label. A report can carry codes of its machine's own choosing (`launch-…`): these are counted as one, and what is not
 * listed here as `other`, so that nobody can make time series.
 */
const codes: ReadonlySet<string> = new Set([
  ...[
    "ak-not-enrolled",
    "ak-unsuitable",
    "assurance",
    "audit-forked",
    "audit-rolled-back",
    "boot-forked",
    "cap",
    "claim",
    "claim-measured",
  ],
  ...[
    "clock-lags",
    "clock-unsafe",
    "clock-went-back",
    "debug-status",
    "epoch-went-back",
    "event-mismatch",
    "event-missing",
    "event-order",
  ],
  ...["event-unknown", "extra-data", "firmware-log-agent-pcr", "firmware-separator", "firmware-unpinned", "image-id"],
  ...[
    "image-variant",
    "key-attributes",
    "key-certificate",
    "library-not-accepted",
    "pcr-digest",
    "pcr-mismatch",
    "pcr-no-reference",
  ],
  ...[
    "pcr-not-quoted",
    "pcr-replay",
    "pcr-section",
    "pcr-selection",
    "pcr-unextended",
    "probe-missing",
    "probe-succeeded",
  ],
  ...[
    "probe-unwitnessed",
    "profile-not-accepted",
    "qualified-signer",
    "rebooted",
    "release-dates",
    "release-not-accepted",
  ],
  ...[
    "installed-system",
    "profile-exception",
    "sandbox-weaker",
    "shim-process",
    "shim-replaced",
    "signature",
    "stale",
    "token",
    "tpm-firmware",
    "tpm-rolled-back",
    "violations",
  ],
  ...["ERR_EVIDENCE_MALFORMED", "ERR_CLAIMS_MALFORMED", "ERR_TPM_STRUCTURE", "ERR_CEL_MALFORMED", "ERR_LAUNCH_EVENT"],
  ...["ERR_FIRMWARE_LOG", "ERR_CBOR_MALFORMED", "ERR_BYTES_TRUNCATED", "ERR_BYTES_TRAILING", "ERR_BYTES_VALUE"],
]);

export function codeLabel(code: string | undefined): string {
  if (code === undefined) return "none";
  if (codes.has(code)) return code;
  return code.startsWith("launch-") ? "launch" : "other";
}

export const enrolmentOutcomes = [
  ...(["begun", "enrolled", "enrolled-again", "name-taken", "key-changed", "clone", "refused"] as const),
] as const;
export type EnrolmentOutcome = (typeof enrolmentOutcomes)[number];

/** Prometheus metrics. Every label's values are a closed list of this program's own, but for `machine`: the machines that are enrolled now. */
export class Metrics {
  readonly registry = new Registry();
  readonly #machines: Gauge<"state">;
  readonly #flags: Gauge<"flag">;
  readonly #affirming: Gauge<"machine">;
  readonly #evaluations: Counter<"tier" | "code">;
  readonly #seconds: Histogram;
  readonly #challenges: Counter<"outcome">;
  readonly #refusals: Counter<"code">;
  readonly #requests: Counter<"operation" | "status">;
  readonly #enrolments: Counter<"outcome">;
  readonly #workers: Counter<"kind">;
  readonly #reloads: Counter<"outcome">;
  readonly #events: Counter<"kind">;

  constructor(gauges: Gauges) {
    const registers = [this.registry];
    const counter = <L extends string>(name: string, help: string, ...labelNames: readonly L[]) =>
      new Counter<L>({ name: `ironclaw_verifier_${name}`, help, labelNames: [...labelNames], registers });
    const gauge = <L extends string>(name: string, help: string, ...labelNames: readonly L[]) =>
      new Gauge<L>({ name: `ironclaw_verifier_${name}`, help, labelNames: [...labelNames], registers });
    this.#machines = gauge("machines", "Enrolled machines by state", "state");
    this.#flags = gauge("machine_flags", "Machines with a flag that no operator has taken away", "flag");
    const sinceAffirming = "Seconds since a machine's last affirming report came; +Inf when none is known";
    this.#affirming = gauge("affirming_age_seconds", sinceAffirming, "machine");
    this.#evaluations = counter("evaluations_total", "Judged reports by tier and worst code", "tier", "code");
    this.#challenges = counter("challenges_total", "Challenges by what became of them", "outcome");
    this.#refusals = counter("refusals_total", "Requests that were answered with a code", "code");
    this.#requests = counter("requests_total", "Requests by operation and status", "operation", "status");
    this.#enrolments = counter("enrolments_total", "Enrolments by their end", "outcome");
    this.#workers = counter("worker_failures_total", "Judging threads that were replaced", "kind");
    this.#reloads = counter("reloads_total", "Reloads of policy, releases and anchors", "outcome");
    this.#events = counter("machine_events_total", "Events in machines' histories", "kind");
    this.#seconds = new Histogram({
      ...{
        name: "ironclaw_verifier_evaluation_seconds",
        help: "Time from a report's arrival to its verdict",
        registers,
      },
      buckets: [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30],
    });
    this.#begin();
    this.#measured("queue_depth", "Reports that wait or are judged", gauges.queueDepth);
    this.#measured("open_challenges", "Challenges that are open", gauges.openChallenges);
    this.#measured("workers", "Judging threads", gauges.workers);
  }

  /** A series that were born with its first event would have no increase then, and an alert would miss it. */
  #begin(): void {
    for (const kind of eventKinds) this.#events.inc({ kind }, 0);
    for (const code of refusalCodes) this.#refusals.inc({ code }, 0);
    for (const outcome of enrolmentOutcomes) this.#enrolments.inc({ outcome }, 0);
    for (const outcome of ["done", "kept"]) this.#reloads.inc({ outcome }, 0);
    for (const kind of ["timeout", "crash"]) this.#workers.inc({ kind }, 0);
    for (const outcome of ["issued", "answered", "refused"]) this.#challenges.inc({ outcome }, 0);
  }

  #measured(name: string, help: string, read: () => number): void {
    new Gauge({
      ...{ name: `ironclaw_verifier_${name}`, help, registers: [this.registry] },
      collect() {
        this.set(read());
      },
    });
  }

  evaluation(outcome: Outcome, seconds: number): void {
    const worst =
      outcome.kind === "refused"
        ? outcome.reasons[0]?.code
        : (outcome.result.findings.find(({ tier }) => tier === outcome.result.tier)?.code ?? undefined);
    const tier = outcome.kind === "refused" ? "refused" : outcome.result.tier;
    this.#evaluations.inc({ tier, code: codeLabel(worst) });
    this.#seconds.observe(seconds);
  }

  fleet({ states, flags }: Census): void {
    for (const state of machineStates) this.#machines.set({ state }, states.get(state) ?? 0);
    for (const flag of flagNames) this.#flags.set({ flag }, flags.get(flag) ?? 0);
  }

  /** @param machines all that are enrolled: of one that is retired no series stays */
  ages(machines: readonly Pick<MachineRecord, "name" | "view">[], now: Date): void {
    this.#affirming.reset();
    for (const { name, view } of machines) {
      const last = view.lastAffirming ?? null;
      const age = last === null ? Number.POSITIVE_INFINITY : (now.getTime() - Date.parse(last)) / 1000;
      this.#affirming.set({ machine: name }, Math.max(0, age));
    }
  }

  challenge(outcome: "issued" | "answered" | "refused"): void {
    this.#challenges.inc({ outcome });
  }
  refusal(code: RefusalCode): void {
    this.#refusals.inc({ code });
  }
  /** @param operation an operation's id, never a path */
  request(operation: string, status: number): void {
    this.#requests.inc({ operation, status: `${status}` });
  }
  enrolment(outcome: EnrolmentOutcome): void {
    this.#enrolments.inc({ outcome });
  }
  workerFailed(kind: "timeout" | "crash"): void {
    this.#workers.inc({ kind });
  }
  reload(outcome: "done" | "kept"): void {
    this.#reloads.inc({ outcome });
  }
  /** @param kind of an event of `machine-state.ts` */
  event(kind: EventKind): void {
    this.#events.inc({ kind });
  }
}
