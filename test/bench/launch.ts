import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { bundleProgram } from "../../vm-images/bundle.ts";
import { LAUNCH_PIN } from "../support/launch-token.ts";
import { type AgentOptions, openServiceBench, type ServiceBench } from "../support/service-fixture.ts";
import { TPM_CC } from "../support/tpm-bus.ts";
import { median, type Row, type Suite, timeRow } from "./bench.ts";
import { compile } from "./sandbox.ts";

const WARM_UP = 2;
/** What a launch does, from the first measurement to the cap. */
const COUNTED = ["measuring", "unsealing", "logging-in", "checking-keys", "capping"] as const;
/** From the start of the process on: Node and the program, then what the launch needs. */
const PHASES = ["loading", "booted", ...COUNTED] as const;
type Phase = (typeof PHASES)[number];

interface Run {
  readonly phases: Readonly<Record<Phase, number>>;
  /** The TPM's own time over the commands of the launch, and how many they are. */
  readonly tpm: number;
  readonly commands: number;
  /** A bare process that loads the library and logs in. */
  readonly hsm: number;
}

/** `launch-agent`: what the agent adds to the commands that its launch cannot do without. */
export const launchSuite: Suite = {
  ids: ["launch-agent"],
  run: async (wanted, { iterations }) => {
    if (!wanted.has("launch-agent")) return [];
    await using bench = await openServiceBench();
    const { directory } = bench.bench;
    const programs = { bareLogin: compile(directory, "bare-login", []), agent: join(directory, "agent.cjs") };
    writeFileSync(programs.agent, await bundleProgram(resolve(import.meta.dirname, "../../agent/main.ts")));
    const runs: Run[] = [];
    for (let round = 0; round < WARM_UP + Math.ceil(iterations / 4); round++) {
      const run = await measureLaunch(bench, programs);
      if (round >= WARM_UP) runs.push(run);
    }
    return [rowOf(runs)];
  },
};

function rowOf(runs: readonly Run[]): Row {
  const of = (figure: (run: Run) => number) => median(runs.map(figure));
  const sum = (phases: readonly Phase[]) => (run: Run) => phases.reduce((total, phase) => total + run.phases[phase], 0);
  const phases = PHASES.map((phase) => `${phase} ${of((run) => run.phases[phase]).toFixed(0)}`).join(", ");
  const bare = `TPM ${of(({ tpm }) => tpm).toFixed(0)} for ${of(({ commands }) => commands)} commands, HSM ${of(({ hsm }) => hsm).toFixed(0)}`;
  const what = `measure, unseal, log in, check keys, cap, vs its TPM commands alone and a bare log-in (${bare}); from start to serving ${of(sum(PHASES)).toFixed(0)} ms: ${phases}`;
  return timeRow(
    { id: "launch-agent", what, target: 2 },
    { ours: of(sum(COUNTED)), peer: of(({ tpm, hsm }) => tpm + hsm) },
  );
}

interface Programs {
  readonly bareLogin: string;
  readonly agent: string;
}

/** One launch straight at the TPM, which counts; one over the bus, which shows what the TPM did. */
async function measureLaunch(service: ServiceBench, { bareLogin, agent }: Programs): Promise<Run> {
  const phases = await launchOnce(service, { program: agent, withoutBus: true });
  await launchOnce(service, { program: agent });
  return { phases, ...timeOfCommands(service), hsm: await logIn(service, bareLogin) };
}

async function launchOnce(service: ServiceBench, options: AgentOptions): Promise<Run["phases"]> {
  const agent = await service.start(options);
  // A question would be answered in the middle of the launch, by the thread that makes it.
  while (!/ agent: (?:serving|refused)/.test(agent.console())) await delay(5);
  const status = await agent.launched();
  if (status["state"] !== "serving") throw new Error(`launch: ${JSON.stringify(status["reasons"])}`);
  await agent.stop();
  return phasesOf(status);
}

function phasesOf(status: Readonly<Record<string, unknown>>): Run["phases"] {
  const entered = status["phases"] as readonly { readonly phase: string; readonly at: number }[]; // the agent's own, just asked
  const lasted = (phase: Phase) => {
    const index = entered.findIndex((entry) => entry.phase === phase);
    return (entered[index + 1]?.at ?? Number.NaN) - (entered[index]?.at ?? Number.NaN);
  };
  return Object.fromEntries(PHASES.map((phase) => [phase, lasted(phase)])) as Run["phases"]; // one for each of them
}

/** From the first event to the cap; what the agent asks of its TPM before and after is no part of the launch. */
function timeOfCommands({ bench: { bus } }: ServiceBench): Pick<Run, "tpm" | "commands"> {
  const extends_ = bus.commands.filter(({ client, code }) => client === "agent" && code === TPM_CC.pcrExtend);
  const [first, cap] = [extends_.at(0)?.index ?? 0, extends_.at(-1)?.index ?? 0];
  const times = bus.times.slice(first, cap + 1);
  return { tpm: times.reduce((sum, ms) => sum + ms, 0), commands: times.length };
}

async function logIn({ bench: { token } }: ServiceBench, program: string): Promise<number> {
  const began = performance.now();
  const child = spawn(program, [token.library, token.label], {
    env: token.environment,
    stdio: ["pipe", "ignore", "inherit"],
  });
  child.stdin.end(`${LAUNCH_PIN}\n`);
  const [code] = await once(child, "close");
  if (code !== 0) throw new Error("bare-login failed");
  return performance.now() - began;
}
