// The workloads of a machine under soak, in a process of their scopes' caller. Started by crew.ts, which says what to do.
import { createPublicKey } from "node:crypto";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fromBase64 } from "../../../policy/index.ts";
import { Findings } from "../crowd/findings.ts";
import { dropConnections } from "../crowd/nuisance.ts";
import { type Open, openWorkload, type Place } from "./acts.ts";
import { openNative, wordOf } from "./doors.ts";
import { Ledger } from "./ledger.ts";
import { monotonic } from "./monotonic.ts";
import type { SoakKeys } from "./scopes.ts";
import { PAUSE, planWorkloads, type Workload } from "./workloads.ts";

/** To the workloads. */
export type Order =
  | {
      readonly kind: "begin";
      readonly directory: string;
      readonly ledger: string;
      readonly keys: SoakKeys;
      /** Kept in memory, for the scan to find. */
      readonly canary: string;
    }
  /** Every one is to have an operation that it begins from now on. */
  | { readonly kind: "prove"; readonly id: number }
  /** They close everything, and go on at `resume`. With `leave` one connection stays open. */
  | { readonly kind: "rest"; readonly leave: boolean }
  | { readonly kind: "resume" };

/** From the workloads. */
export type Word =
  /** An operation that was not done, and when by `monotonic`. */
  | {
      readonly kind: "failed";
      readonly scope: string;
      readonly what: string;
      readonly began: number;
      readonly ended: number;
    }
  | { readonly kind: "wrong"; readonly what: string }
  | { readonly kind: "proved"; readonly id: number }
  | { readonly kind: "resting"; readonly operations: number; readonly dropped: number };

/** Of connections that come and go, one after the other. */
const DROPS_AT_ONCE = 8;
const DROP_PAUSE = 500;
/** After something failed, in milliseconds. */
const RETRY = 150;

const tell = (word: Word) => void process.send?.(word);

class Crew {
  readonly #place: Place;
  readonly canary: string;
  readonly #proofs = new Map<number, { readonly at: number; readonly waiting: Set<string> }>();
  readonly #resting = new Set<string>();
  readonly #drops = new Findings();
  #rests = false;
  #operations = 0;
  #left: Awaited<ReturnType<typeof openNative>> | null = null;

  constructor({ directory, ledger, keys, canary }: Order & { kind: "begin" }) {
    this.canary = canary;
    const publicKeys = Object.entries(keys.publicKeys).map(([name, spki]) => [
      name,
      createPublicKey({ key: Buffer.from(spki, "base64"), format: "der", type: "spki" }),
    ]);
    this.#place = {
      ...{ directory, keys: Object.fromEntries(publicKeys), blob: fromBase64(keys.blob, "blob") },
      ...{ ledger: new Ledger(ledger), wrong: (what) => tell({ kind: "wrong", what }) },
    };
    for (const workload of planWorkloads()) void this.#work(workload);
    void this.#drop();
  }

  prove(id: number): void {
    this.#proofs.set(id, { at: monotonic(), waiting: new Set(planWorkloads().map(({ scope }) => scope)) });
  }

  async rest(leave: boolean): Promise<void> {
    this.#rests = true;
    while (this.#resting.size <= planWorkloads().length) await delay(20); // all of them, and who drops connections
    if (leave) this.#left = await openNative(join(this.#place.directory, `${planWorkloads()[0]?.scope}.sock`));
    tell({ kind: "resting", operations: this.#operations, dropped: this.#drops.faults });
  }

  async resume(): Promise<void> {
    await this.#left?.close();
    this.#left = null;
    this.#rests = false;
    this.#resting.clear();
  }

  async #work(workload: Workload): Promise<void> {
    let open: Open | null = null;
    for (;;) {
      if (this.#rests) {
        await open?.close();
        open = null;
        await this.#restAs(workload.scope);
      }
      const began = monotonic();
      try {
        open ??= await openWorkload(workload, this.#place);
        await open.operate();
        this.#done(workload.scope, began);
        await delay(PAUSE[workload.act]);
      } catch (error) {
        tell({ kind: "failed", scope: workload.scope, what: wordOf(error), began, ended: monotonic() });
        void open?.close().catch(() => undefined);
        open = null;
        await delay(RETRY);
      }
    }
  }

  async #restAs(name: string): Promise<void> {
    this.#resting.add(name);
    while (this.#rests) await delay(50);
  }

  #done(scope: string, began: number): void {
    this.#operations += 1;
    for (const [id, { at, waiting }] of this.#proofs) {
      if (began >= at) waiting.delete(scope);
      if (waiting.size > 0) continue;
      this.#proofs.delete(id);
      tell({ kind: "proved", id });
    }
  }

  /** Connections that say little or nothing and are dropped, over all scopes. */
  async #drop(): Promise<void> {
    const paths = planWorkloads().map(({ scope }) => join(this.#place.directory, `${scope}.sock`));
    for (;;) {
      if (this.#rests) await this.#restAs("");
      await dropConnections(paths, DROPS_AT_ONCE, this.#drops, 0).catch(() => undefined); // nobody is there
      await delay(DROP_PAUSE);
    }
  }
}

let crew: Crew | null = null;
process.on("message", (order: Order) => {
  if (order.kind === "begin") crew = new Crew(order);
  else if (order.kind === "prove") crew?.prove(order.id);
  else if (order.kind === "rest") void crew?.rest(order.leave);
  else void crew?.resume();
});
process.once("disconnect", () => process.exit(0));
