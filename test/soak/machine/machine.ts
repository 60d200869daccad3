import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { withMachine } from "../../../agent/cli/machine-ports.ts";
import { createTurns } from "../../../agent/turns.ts";
import type { ControlClient } from "../../../vm-images/control-client.ts";
import { cli } from "../../support/cli.ts";
import { type DrillDesk, enrolMachine, openDrillDesk, pushReport } from "../../support/drill-desk.ts";
import { isRoot } from "../../support/socket-workload.ts";
import { type TestSshKey, testSshKey } from "../../support/ssh-keys.ts";
import { startVerifier, type VerifierProcess } from "../../support/verifier-process.ts";
import { type Clock, makeClock } from "./clock.ts";
import { type LogVolume, mountLogVolume } from "./disk.ts";
import { SOAK_KEYS, type SoakKeys, writeScopes } from "./scopes.ts";
import { STUCK } from "./waiting.ts";

/** Shims that are logged in and wait: as many as there may be. */
const SPARES = 3;

interface Status {
  readonly state: string;
  readonly reasons: readonly { readonly code: string }[];
  readonly tokens: readonly { readonly shims: readonly { readonly id: number; readonly role: string }[] }[];
}

interface Judged {
  readonly result: { readonly findings: readonly { readonly tier: string; readonly item: string }[] };
}

/** Everything on this machine is one user's, which is a fault of this machine and of nobody's else. */
function isAgainst({ tier, item }: Judged["result"]["findings"][number]): boolean {
  return tier === "contraindicated" && !/^shim \d+ uid$/.test(item);
}

export interface LivingShim {
  readonly id: number;
  readonly role: string;
  readonly pid: number;
}

/** A machine with its verifier, and what the soak does to them. */
export interface SoakMachine extends AsyncDisposable {
  readonly desk: DrillDesk;
  readonly verifier: VerifierProcess;
  readonly clock: Clock;
  readonly log: LogVolume;
  readonly keys: SoakKeys;
  readonly approver: TestSshKey;
  /** The soak's own files. */
  readonly directory: string;
  /** Whether it has been seen to serve since it was last started. */
  readonly serves: boolean;
  /** Resolves when every workload has had an operation that it began after this was called. */
  worksOn: () => Promise<void>;
  /** A power cycle, until it serves. */
  boot(): Promise<void>;
  /** Waits until the spawner has ended by itself with this code, then boots as a hypervisor does. */
  rebootsItself(code: number, before?: () => Promise<void>): Promise<void>;
  startVerifier(): Promise<void>;
  /** At the control port, which one may use at a time. */
  ask<T>(act: (control: ControlClient) => Promise<T>): Promise<T>;
  status(): Promise<Status>;
  shims(): Promise<readonly LivingShim[]>;
  /** A report to the verifier: null when it found nothing against it, else what. */
  push(): Promise<string | null>;
}

/** @param mebibytes of the file system that the log lies on */
export async function openSoakMachine(mebibytes: number): Promise<SoakMachine> {
  if (!isRoot) throw new Error("this has to be run as root: the scopes' callers are of another user");
  const directory = mkdtempSync(join(tmpdir(), "soak-"));
  chmodSync(directory, 0o777);
  const clock = makeClock(directory);
  const approver = testSshKey();
  let keys: SoakKeys = { publicKeys: {}, blob: "" };
  const desk = await openDrillDesk({
    ...{ spares: SPARES, keys: SOAK_KEYS, through: clock.through },
    policy: (draft, token) => {
      keys = writeScopes(draft, token, approver);
    },
  });
  const log = mountLogVolume(join(desk.machine.directory, "inside/audit"), mebibytes);
  const machine = new Machine({ desk, clock, log, keys, approver, directory });
  try {
    await machine.startVerifier();
    await machine.boot();
    await enrolMachine(desk);
    return machine;
  } catch (error) {
    await machine[Symbol.asyncDispose]();
    throw error;
  }
}

type Parts = Pick<SoakMachine, "desk" | "clock" | "log" | "keys" | "approver" | "directory">;

class Machine implements SoakMachine {
  readonly desk: DrillDesk;
  readonly clock: Clock;
  readonly log: LogVolume;
  readonly keys: SoakKeys;
  readonly approver: TestSshKey;
  readonly directory: string;
  serves = false;
  worksOn = async () => {};
  readonly #turns = createTurns();
  #verifier: VerifierProcess | null = null;

  constructor({ desk, clock, log, keys, approver, directory }: Parts) {
    this.desk = desk;
    this.clock = clock;
    this.log = log;
    this.keys = keys;
    this.approver = approver;
    this.directory = directory;
  }

  get verifier(): VerifierProcess {
    if (this.#verifier === null) throw new Error("no verifier");
    return this.#verifier;
  }
  get #ports(): string {
    return this.desk.machine.directory;
  }

  async startVerifier(): Promise<void> {
    this.#verifier = await startVerifier(this.desk.verifier);
  }

  async boot(): Promise<void> {
    const { desk } = this;
    this.serves = false;
    await desk.machine.stop();
    desk.machine.forgetLosses();
    await desk.machine.start(desk.at("image-1"));
    const { out } = await cli(["status", "--machine", this.#ports, "--wait", `${STUCK / 1000}`, "--json"]);
    const { state } = JSON.parse(out) as Status;
    if (state !== "serving") throw new Error(`the launch ended as ${state}: ${desk.machine.console()}`);
    this.serves = true;
  }

  async rebootsItself(code: number, before: () => Promise<void> = async () => {}): Promise<void> {
    this.serves = false;
    const ended = await Promise.race([this.desk.machine.ended(), delay(STUCK, "not at all", { ref: false })]);
    if (ended !== code) throw new Error(`the spawner ended with ${ended}, not ${code}: ${this.desk.machine.console()}`);
    await before();
    await this.boot();
  }

  ask<T>(act: (control: ControlClient) => Promise<T>): Promise<T> {
    return this.#turns(() => withMachine(this.#ports, act));
  }
  async status(): Promise<Status> {
    // what the agent says, which is no stranger here
    return (await this.ask((control) => control.status())) as unknown as Status;
  }
  async shims(): Promise<readonly LivingShim[]> {
    const { tokens } = await this.status();
    const living = tokens.flatMap(({ shims }) => shims).filter(({ role }) => role !== "ended");
    const pids = this.desk.machine.shimPids(); // in the order in which they were started, which is that of their ids
    return living.map((shim, index) => ({ ...shim, pid: pids[index] ?? -1 }));
  }
  async push(): Promise<string | null> {
    const { code, out, err } = await this.#turns(() => pushReport(this.desk));
    if (code === 0) return null;
    if (out !== "contraindicated\n") return `${out}${err}`;
    const judged = await this.verifier.get("/v1/machines/vm-1").catch(() => null);
    const against = (judged as Judged | null)?.result.findings.filter(isAgainst) ?? ["no answer"];
    return against.length === 0 ? null : JSON.stringify(against);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#verifier?.stop();
    await this.desk.machine.stop();
    this.log[Symbol.dispose]();
    await this.desk[Symbol.asyncDispose]();
    rmSync(this.directory, { recursive: true, force: true });
  }
}
