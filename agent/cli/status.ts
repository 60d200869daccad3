import { setTimeout as sleep } from "node:timers/promises";
import { IronclawError, printableLine } from "../../policy/index.ts";
import { adviceFor } from "../../seal/index.ts";
import type { ControlClient } from "../../vm-images/control-client.ts";
import type { Command, CommandIo } from "./command.ts";
import { openMachine } from "./machine-ports.ts";
import { answer, JSON_OPTION } from "./output.ts";

const POLL_MS = 500;
/** A request that was sent before the guest's agent runs may be lost, and holds up the next. */
const ANSWER_MS = 3000;
const ENDED = ["serving", "refused", "stopped"];

type Fields = Readonly<Record<string, unknown>>;

export const command: Command = {
  summary: "whether a running machine serves, and why not; exit code 0 only where it serves every token",
  positionals: [],
  options: {
    machine: { type: "string", value: "DIR", help: "the running machine's directory of port sockets", required: true },
    wait: { type: "string", value: "SECONDS", help: "first until its launch has ended, with all that follows it" },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw status --machine /tmp/ironclaw-dev-x1/vm",
    "ironclaw status --machine /tmp/ironclaw-dev-x1/vm --wait 120 --json",
  ],
  run: async (input, io) => {
    const seconds = input.integer("wait", 1, 86_400);
    const machine = input.text("machine");
    const status = await (seconds === undefined ? ask(machine) : waitFor(machine, seconds, io));
    answer(input, io, status, renderStatus(status));
    return serves(status) ? 0 : 1;
  },
};

async function ask(machine: string, withinMs?: number): Promise<Fields> {
  const control = await openMachine(machine);
  try {
    return withoutId(await control.status(withinMs));
  } finally {
    control.close();
  }
}

function withoutId({ id: _id, ok: _ok, ...status }: Awaited<ReturnType<ControlClient["status"]>>): Fields {
  return status;
}

/** Asks until the launch has ended, or for so long. A machine that is down, or whose agent does not run yet, is one to wait for. */
async function waitFor(machine: string, seconds: number, io: CommandIo): Promise<Fields> {
  const deadline = performance.now() + seconds * 1000;
  using asking = new Asking(machine);
  for (let told = ""; performance.now() < deadline; await sleep(POLL_MS)) {
    const status = await asking.next();
    if (hasEnded(status)) return status;
    if (status["state"] !== told) io.complain(`${status["state"]}`);
    told = `${status["state"]}`;
  }
  return ask(machine, ANSWER_MS);
}

/** One connection for as long as there is one: of another, the guest might still answer what was asked before it. */
class Asking implements Disposable {
  readonly #machine: string;
  #control: ControlClient | null = null;

  constructor(machine: string) {
    this.#machine = machine;
  }

  async next(): Promise<Fields> {
    try {
      this.#control ??= await openMachine(this.#machine);
      return withoutId(await this.#control.status(ANSWER_MS));
    } catch (error) {
      if (!(error instanceof IronclawError) || error.exitCode !== 4) throw error;
      if (!("code" in error && error.code === "ERR_VM_TIMEOUT")) this.#hangUp();
      return { state: "no answer yet" };
    }
  }

  #hangUp(): void {
    this.#control?.close();
    this.#control = null;
  }

  [Symbol.dispose](): void {
    this.#hangUp();
  }
}

/** A machine that serves raises its epoch and lets earlier generations go after that: a restart before it would keep them. */
function hasEnded({ state, settled }: Fields): boolean {
  return ENDED.includes(`${state}`) && !(state === "serving" && settled === null);
}

/** Everything that the policy promises: the machine, each token, and nothing frozen as a whole. */
function serves({ state, tokens, frozen }: Fields): boolean {
  return state === "serving" && fieldsIn(tokens).every(({ served }) => served === true) && !frozenIn(frozen).all;
}

/** Null while nothing is served, and of an older agent. */
function frozenIn(frozen: unknown): { readonly all: boolean; readonly scopes: readonly string[] } {
  const { all, scopes } = (typeof frozen === "object" && frozen !== null ? frozen : {}) as Fields; // shown as text only
  return { all: all === true, scopes: Array.isArray(scopes) ? scopes.map(String) : [] };
}

/** What the machine says; shown as text only. */
function renderStatus({ state, reasons, tokens, phases, settled, frozen, violations }: Fields): string {
  const { all, scopes } = frozenIn(frozen);
  const attempts = Object.entries((violations ?? {}) as Fields).map(([call, count]) => `${call} ${count}`);
  const lines = [
    `${state}`,
    ...fieldsIn(reasons).flatMap(renderReason),
    ...fieldsIn(settled).flatMap(renderReason),
    ...fieldsIn(tokens).flatMap(({ name, served, shims, reasons: why }) => {
      const roles = fieldsIn(shims).map(({ id, role }) => `${id} ${role}`);
      const line = `token ${name}: ${served === true ? "served" : "not served"}, shims: ${roles.join(", ") || "none"}`;
      return [line, ...fieldsIn(why).flatMap(renderReason)];
    }),
    ...(all || scopes.length > 0 ? [`frozen: ${all ? "everything" : scopes.join(", ")}`] : []),
    ...(attempts.length > 0 ? [`attempts at what the sandbox denies: ${attempts.join(", ")}`] : []),
    ...renderPhases(fieldsIn(phases)),
  ];
  // What a machine says is one line each, whatever is in it.
  return lines.map(printableLine).join("\n");
}

function renderReason({ code, item, expected, got }: Fields): readonly string[] {
  const advice = adviceFor(`${code}`);
  return [`  ${code}: ${item}: expected ${expected}, got ${got}`, ...(advice === undefined ? [] : [`    ${advice}`])];
}

/** The agent says when it entered each state; the last one still lasts. */
function renderPhases(phases: readonly Fields[]): readonly string[] {
  const spans = phases.slice(0, -1).map(({ phase, at }, index) => {
    const ms = Number(phases[index + 1]?.["at"]) - Number(at);
    return `${phase} ${(ms / 1000).toFixed(2)} s`;
  });
  return spans.length === 0 ? [] : [`launch: ${spans.join(", ")}`];
}

function fieldsIn(list: unknown): readonly Fields[] {
  return (Array.isArray(list) ? list : []).filter((entry) => typeof entry === "object" && entry !== null);
}
