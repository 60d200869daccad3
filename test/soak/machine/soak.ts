import { randomInt } from "node:crypto";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { LAUNCH_PIN } from "../../support/launch-token.ts";
import { newCanary } from "../../support/pin-needles.ts";
import { auditDirectory, logFindings, reportedHeads } from "./checks.ts";
import { type Crew, startCrew } from "./crew.ts";
import { FAULTS } from "./faults.ts";
import { heldFindings, heldIn, type Look, lookAt, type MachineHeld } from "./held.ts";
import { Judge } from "./judge.ts";
import { openSoakMachine, type SoakMachine } from "./machine.ts";
import { monotonic } from "./monotonic.ts";
import { Operator } from "./operator.ts";
import { pinFindings } from "./pin-scan.ts";
import { ENDING, type FaultKind, PASSING, type PlannedFault, planFaults } from "./plan.ts";
import { cutLog, type Plant, startHolder } from "./plants.ts";
import { inTime, until } from "./waiting.ts";

export interface MachineSoakOptions {
  /** It takes as long as it needs for each kind of fault to come, whatever stands here. */
  readonly milliseconds: number;
  readonly seed: number;
  /** With one of these there are no faults. */
  readonly plants: readonly Plant[];
  /** Told what is being done. */
  readonly say: (line: string) => void;
}

export interface MachineSoaked {
  /** Of workloads, and reports that got through. */
  readonly operations: number;
  readonly faultsByKind: Readonly<Partial<Record<FaultKind | "drop", number>>>;
  readonly violations: readonly string[];
  readonly held: MachineHeld;
}

/** The log has room for what a machine does in so long; what it keeps of it is not deleted in less than a week. */
const MEBIBYTES = { least: 48, perMinute: 4 };
const LOOK_MS = 1000;
/** In which the agent hears that its last caller has gone. */
const LEAVING_MS = 10_000;
/** From which a half's memory is judged. */
const LONG = 60_000;

export async function soakMachine(options: MachineSoakOptions): Promise<MachineSoaked> {
  const mebibytes = MEBIBYTES.least + Math.ceil((MEBIBYTES.perMinute * options.milliseconds) / 60_000);
  await using machine = await openSoakMachine(mebibytes);
  const judge = new Judge();
  const ledger = join(machine.directory, "ledger");
  const canary = newCanary(LAUNCH_PIN.length);
  const place = {
    directory: join(machine.desk.machine.directory, "inside/scopes"),
    ledger,
    keys: machine.keys,
    canary,
  };
  await using crew = await startCrew(place, (word) => {
    if (word.kind === "wrong") judge.violated(word.what);
    else judge.failed({ who: word.scope, ...word });
  });
  machine.worksOn = () => inTime("an operation of every workload", crew.prove());
  const operator = new Operator(machine, judge);
  const run = new Run(machine, crew, operator, judge, options);
  try {
    return await run.whole(ledger, canary);
  } finally {
    await operator.end();
  }
}

/** Of one soak. */
class Run {
  readonly #machine: SoakMachine;
  readonly #crew: Crew;
  readonly #operator: Operator;
  readonly #judge: Judge;
  readonly #options: MachineSoakOptions;
  readonly #counts: Partial<Record<FaultKind | "drop", number>> = {};

  constructor(machine: SoakMachine, crew: Crew, operator: Operator, judge: Judge, options: MachineSoakOptions) {
    this.#machine = machine;
    this.#crew = crew;
    this.#operator = operator;
    this.#judge = judge;
    this.#options = options;
  }

  async whole(ledger: string, canary: string): Promise<MachineSoaked> {
    const { seed, milliseconds } = this.#options;
    const plan = planFaults(seed);
    const began = performance.now();
    const looks: Look[] = [];
    let operations = 0;
    try {
      await this.#machine.worksOn();
      await this.#faults(plan.first, ENDING, began + milliseconds / 2);
      await this.#restAndLook(looks);
      this.#crew.resume();
      await this.#machine.worksOn();
      const looking = this.#lookOften(looks);
      await this.#faults(plan.second, PASSING, began + milliseconds);
      await looking.end();
      const { operations: done, dropped } = await this.#restAndLook(looks);
      operations = done;
      this.#counts.drop = dropped;
      await this.#atTheEnd(ledger, canary);
    } catch (error) {
      this.#judge.violated(error instanceof Error ? error.message : String(error));
    }
    const held = looks.length < 2 ? { resident: {}, descriptors: {} } : heldIn(looks);
    this.#violated(heldFindings(held, milliseconds >= 2 * LONG));
    return {
      ...{ operations: operations + this.#operator.reports, faultsByKind: this.#counts },
      ...{ violations: this.#judge.violations, held },
    };
  }

  /** Until the time has come, and each of these kinds has come once. */
  async #faults(plan: Iterator<PlannedFault, never>, kinds: readonly FaultKind[], until: number): Promise<void> {
    if (this.#options.plants.length > 0) return;
    const due = () => performance.now() < until || kinds.some((kind) => this.#counts[kind] === undefined);
    while (due()) {
      const { kind, pause, dice } = plan.next().value;
      await delay(pause);
      await this.#strike(kind, dice);
    }
  }

  async #strike(kind: FaultKind, dice: number): Promise<void> {
    const { say } = this.#options;
    const began = performance.now();
    const { may, strike } = FAULTS[kind];
    const window = this.#judge.open(kind, may, monotonic());
    try {
      await strike(this.#machine, dice);
      await this.#worksAgain();
    } catch (cause) {
      throw new Error(`${kind}: ${cause instanceof Error ? cause.message : String(cause)}`);
    }
    window.to = monotonic();
    this.#counts[kind] = (this.#counts[kind] ?? 0) + 1;
    say(`${kind}: ${((performance.now() - began) / 1000).toFixed(1)} s`);
  }

  async #worksAgain(): Promise<void> {
    const ended = this.#machine.desk.machine.ended().then((code) => {
      throw new Error(`the spawner ended with ${code}: ${this.#machine.desk.machine.console()}`);
    });
    ended.catch(() => undefined); // every boot ends some day
    await Promise.race([this.#machine.worksOn(), ended]);
    await Promise.race([this.#reports(), ended]);
  }

  async #reports(): Promise<void> {
    let against: string | null = "";
    const got = async () => {
      against = await this.#machine.push();
      return against === null;
    };
    await until("report that gets through", got).catch((cause: Error) => {
      throw new Error(`${cause.message}: ${against}`);
    });
  }

  /** @param looks gets one more, with nobody connected */
  async #restAndLook(looks: Look[]) {
    const { plants } = this.#options;
    const isEnd = looks.length > 0;
    const rest = await inTime("end of what is under way", this.#crew.rest(isEnd && plants.includes("session")));
    let left: readonly unknown[] = [];
    const nobody = async () => {
      const { sessions } = await this.#machine.ask((control) => control.operating("sessions"));
      left = sessions as readonly unknown[];
      return left.length === 0;
    };
    await until("machine that nobody is connected to", nobody, LEAVING_MS).catch((error: Error) =>
      this.#judge.violated(`${error.message}: ${JSON.stringify(left)}`),
    );
    looks.push(...lookAt(this.#machine));
    return rest;
  }

  #lookOften(looks: Look[]) {
    let ends = false;
    const looking = (async () => {
      for (; !ends; await delay(LOOK_MS)) looks.push(...lookAt(this.#machine));
    })();
    return {
      end: () => {
        ends = true;
        return looking;
      },
    };
  }

  async #atTheEnd(ledger: string, canary: string): Promise<void> {
    const { plants } = this.#options;
    const machine = this.#machine;
    {
      await using _holder = plants.includes("pin") ? await startHolder() : null;
      this.#violated(pinFindings(machine, canary));
    }
    await this.#operator.end();
    await this.#reports();
    const heads = await reportedHeads(machine);
    await machine.desk.machine.stop();
    if (plants.includes("record")) cutLog(auditDirectory(machine));
    this.#violated(await logFindings(machine, heads, ledger));
  }

  #violated(findings: readonly string[]): void {
    for (const finding of findings) this.#judge.violated(finding);
  }
}

/** For whoever names none. */
export function newSeed(): number {
  return randomInt(2 ** 31);
}
