import { setTimeout as delay } from "node:timers/promises";
import { utf8 } from "../../../policy/index.ts";
import type { Judge } from "./judge.ts";
import type { SoakMachine } from "./machine.ts";
import { monotonic } from "./monotonic.ts";

const PUSH_MS = 2000;
const APPROVE_MS = 400;

/** Who carries reports to the verifier, and who approves what waits for it. */
export class Operator {
  readonly #machine: SoakMachine;
  readonly #judge: Judge;
  #ends = false;
  #reports = 0;
  readonly #work: Promise<unknown>;

  constructor(machine: SoakMachine, judge: Judge) {
    this.#machine = machine;
    this.#judge = judge;
    this.#work = Promise.all([
      this.#every(PUSH_MS, () => this.#push()),
      this.#every(APPROVE_MS, () => this.#approve()),
    ]);
  }

  /** Reports that got through. */
  get reports(): number {
    return this.#reports;
  }

  async end(): Promise<void> {
    this.#ends = true;
    await this.#work;
  }

  async #every(milliseconds: number, act: () => Promise<void>): Promise<void> {
    for (; !this.#ends; await delay(milliseconds)) if (this.#machine.serves) await act();
  }

  async #push(): Promise<void> {
    const began = monotonic();
    const against = await this.#machine.push();
    if (against === null) this.#reports += 1;
    else this.#judge.failed({ who: `a report (${against.trim()})`, what: "report", began, ended: monotonic() });
  }

  /** Whether it succeeds, the workload that waits will see. */
  async #approve(): Promise<void> {
    await this.#machine
      .ask(async (control) => {
        const { requests } = (await control.approving("pending")) as {
          requests: readonly { request: string; text: string; approvers: readonly string[] }[];
        };
        for (const { request, text, approvers } of requests) {
          if (approvers.length > 0) continue;
          const signature = this.#machine.approver.armored(utf8(text));
          await control.approving("approve", { request, signature });
        }
      })
      .catch(() => undefined);
  }
}
