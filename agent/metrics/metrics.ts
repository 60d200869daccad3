import { Counter, Gauge, Histogram, Registry } from "prom-client";
import type { Operation } from "../../policy/index.ts";
import { METER_OUTCOMES, type Meter, type MeterOutcome } from "../broker/index.ts";

/** Seconds; a software token answers in a fraction of a millisecond, an HSM over a network in tens of them. */
const BUCKETS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10];

/** How the machine is at the moment it is asked. */
export interface MachineState {
  /** The launch state's kind: `serving`, `refused`, ... */
  readonly state: string;
  readonly policySerial: number;
  readonly tokens: readonly {
    readonly name: string;
    readonly served: boolean;
    /** Requests that wait for it. */
    readonly waiting: number;
    readonly shims: readonly { readonly role: string }[];
  }[];
  /** Operations under way, by scope: every scope of the policy is in it. */
  readonly inFlight: ReadonlyMap<string, number>;
  readonly frozen: { readonly all: boolean; readonly scopes: ReadonlySet<string> };
  /** Attempts at what the sandbox denies, by system call. */
  readonly violations: ReadonlyMap<string, number>;
  readonly audit: {
    readonly seq: number;
    readonly durableSeq: number;
    /** The log takes no records, so nothing is signed: a write failed, or there is no room. */
    readonly failed: boolean;
    /** Less room than the log wants; with none at all, too. */
    readonly spaceLow: boolean;
  };
}

/**
 * What the agent counts, and what it is asked for when somebody looks. Labels are names of the policy, steps of a decision, system calls of
 * the watch list: as many as the policy and the profile have, whatever callers do.
 */
export class Metrics implements Meter {
  readonly #registry = new Registry();
  readonly #machine: () => MachineState;
  readonly #decisions: Counter<"scope" | "outcome">;
  readonly #latency: Histogram<"scope" | "operation">;
  readonly #gauges: ReadonlyMap<string, Gauge<string>>;

  /** Milliseconds of `performance.now()`. */
  #reportedAt = Number.NEGATIVE_INFINITY;

  constructor(machine: () => MachineState) {
    this.#machine = machine;
    const registers = [this.#registry];
    this.#decisions = new Counter({
      ...{ registers, name: "ironclaw_decisions_total", labelNames: ["scope", "outcome"] },
      help: "Operations by scope: allow, the step that refused, or what failed afterwards (token)",
    });
    this.#latency = new Histogram({
      ...{ registers, name: "ironclaw_operation_seconds", labelNames: ["scope", "operation"], buckets: BUCKETS },
      help: "From the decision to the token's answer",
    });
    this.#gauges = new Map(
      GAUGES.map(([name, labelNames, help]) => [
        name,
        new Gauge({ registers, name, labelNames: [...labelNames], help }),
      ]),
    );
  }

  /** Serving begins. A series that were born with its first event would have no increase then, and an alert would miss it. */
  begin(scopes: readonly string[]): void {
    for (const scope of scopes) for (const outcome of METER_OUTCOMES) this.#decisions.inc({ scope, outcome }, 0);
  }

  decided(scope: string, outcome: MeterOutcome): void {
    this.#decisions.inc({ scope, outcome });
  }

  answered(scope: string, operation: Operation, milliseconds: number): void {
    this.#latency.observe({ scope, operation }, milliseconds / 1000);
  }

  /** A report was made. */
  reported(): void {
    this.#reportedAt = performance.now();
  }

  /** Everything, in the Prometheus text format. */
  async text(): Promise<string> {
    this.#look(this.#machine());
    return this.#registry.metrics();
  }

  #look(machine: MachineState): void {
    for (const gauge of this.#gauges.values()) gauge.reset();
    const set = (name: string, labels: Record<string, string>, value: number) =>
      this.#gauges.get(name)?.set(labels, value);
    const { tokens, audit, frozen } = machine;
    set("ironclaw_serving", {}, isServing(machine) ? 1 : 0);
    set("ironclaw_launch_state", { state: machine.state }, 1);
    set("ironclaw_policy_serial", {}, machine.policySerial);
    for (const token of tokens) {
      set("ironclaw_token_served", { token: token.name }, token.served ? 1 : 0);
      set("ironclaw_token_waiting", { token: token.name }, token.waiting);
      for (const role of ["active", "spare", "ended"])
        set("ironclaw_shims", { token: token.name, role }, token.shims.filter((shim) => shim.role === role).length);
    }
    for (const [scope, count] of machine.inFlight) {
      set("ironclaw_operations_in_flight", { scope }, count);
      set("ironclaw_scope_frozen", { scope }, frozen.all || frozen.scopes.has(scope) ? 1 : 0);
    }
    for (const [syscall, count] of machine.violations) set("ironclaw_violations", { syscall }, count);
    set("ironclaw_audit_records", {}, audit.seq);
    set("ironclaw_audit_lag_records", {}, audit.seq - audit.durableSeq);
    set("ironclaw_audit_failed", {}, audit.failed ? 1 : 0);
    set("ironclaw_audit_space_low", {}, audit.spaceLow ? 1 : 0);
    set("ironclaw_report_age_seconds", {}, (performance.now() - this.#reportedAt) / 1000);
    set("ironclaw_resident_bytes", {}, process.memoryUsage.rss());
  }
}

/** The one signal for whoever is on call: everything that the policy promises is served now. */
function isServing({ state, tokens, audit, frozen }: MachineState): boolean {
  return (
    state === "serving" && tokens.length > 0 && tokens.every(({ served }) => served) && !audit.failed && !frozen.all
  );
}

const GAUGES: readonly (readonly [string, readonly string[], string])[] = [
  [
    "ironclaw_serving",
    [],
    "1 when the machine serves every token of its policy; the signal to be called for (docs/run-book.md)",
  ],
  ["ironclaw_launch_state", ["state"], "1 for the state that the launch is in"],
  ["ironclaw_policy_serial", [], "Serial of the policy in force"],
  ["ironclaw_token_served", ["token"], "1 while a logged-in shim serves the token"],
  ["ironclaw_token_waiting", ["token"], "Requests that wait for the token"],
  ["ironclaw_shims", ["token", "role"], "Shims by what they are now: active, spare or ended"],
  ["ironclaw_operations_in_flight", ["scope"], "Operations under way"],
  ["ironclaw_scope_frozen", ["scope"], "1 for a scope that is frozen, by itself or with everything"],
  ["ironclaw_violations", ["syscall"], "Attempts at what the sandbox denies, in this boot"],
  ["ironclaw_audit_records", [], "Number of the last audit record"],
  ["ironclaw_audit_lag_records", [], "Records that are written and not yet on the disk"],
  ["ironclaw_audit_failed", [], "1 while the log takes no records, so nothing is signed: a failed write, or no room"],
  ["ironclaw_audit_space_low", [], "1 while the audit log has less room than it wants: signing stops when it has none"],
  [
    "ironclaw_report_age_seconds",
    [],
    "Seconds since the last report was made; +Inf before the first. Whether a verifier liked it, its own metrics say",
  ],
  ["ironclaw_resident_bytes", [], "Resident memory of the agent"],
];
