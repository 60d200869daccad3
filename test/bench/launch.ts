import { spawn } from "node:child_process";
import { once } from "node:events";
import { LAUNCH_PIN } from "../support/launch-token.ts";
import { openServiceBench, type ServiceBench } from "../support/service-fixture.ts";
import { TPM_CC } from "../support/tpm-bus.ts";
import { median, type Row, type Suite, timeRow } from "./bench.ts";
import { compile } from "./sandbox.ts";

const WARM_UP = 2;
/** States of a launch that count: from the first measurement to the cap. Node's own start is before them. */
const COUNTED = ["measuring", "unsealing", "logging-in", "checking-keys", "capping"] as const;
type Phase = (typeof COUNTED)[number];

interface Run {
  readonly ours: number;
  readonly phases: Readonly<Record<Phase, number>>;
  /** The TPM's own time over the commands of the launch. */
  readonly tpm: number;
  /** A bare process that loads the library and logs in. */
  readonly hsm: number;
}

/** `launch-agent`: what the agent adds to the commands that its launch cannot do without. */
export const launchSuite: Suite = {
  ids: ["launch-agent"],
  run: async (wanted, { iterations }) => {
    if (!wanted.has("launch-agent")) return [];
    await using bench = await openServiceBench();
    const bareLogin = compile(bench.bench.directory, "bare-login", []);
    const runs: Run[] = [];
    for (let round = 0; round < WARM_UP + Math.ceil(iterations / 4); round++) {
      const run = await measureLaunch(bench, bareLogin);
      if (round >= WARM_UP) runs.push(run);
    }
    return [rowOf(runs)];
  },
};

function rowOf(runs: readonly Run[]): Row {
  const of = (figure: (run: Run) => number) => median(runs.map(figure));
  const phases = COUNTED.map((phase) => `${phase} ${of((run) => run.phases[phase]).toFixed(0)}`).join(", ");
  const bare = `TPM ${of(({ tpm }) => tpm).toFixed(0)}, HSM ${of(({ hsm }) => hsm).toFixed(0)}`;
  const what = `measure, unseal, log in, check keys, cap (ms: ${phases}), vs its TPM commands alone and a bare log-in (${bare})`;
  return timeRow(
    { id: "launch-agent", what, target: 2 },
    { ours: of(({ ours }) => ours), peer: of(({ tpm, hsm }) => tpm + hsm) },
  );
}

async function measureLaunch(service: ServiceBench, bareLogin: string): Promise<Run> {
  const agent = await service.start();
  const status = await agent.launched();
  if (status["state"] !== "serving") throw new Error(`launch: ${JSON.stringify(status["reasons"])}`);
  const phases = phasesOf(status);
  const ours = COUNTED.reduce((sum, phase) => sum + phases[phase], 0);
  const tpm = timeOfCommands(service);
  await agent.stop();
  return { ours, phases, tpm, hsm: await logIn(service, bareLogin) };
}

function phasesOf(status: Readonly<Record<string, unknown>>): Run["phases"] {
  const entered = status["phases"] as readonly { readonly phase: string; readonly at: number }[]; // the agent's own, just asked
  const lasted = (phase: Phase) => {
    const index = entered.findIndex((entry) => entry.phase === phase);
    return (entered[index + 1]?.at ?? Number.NaN) - (entered[index]?.at ?? Number.NaN);
  };
  return {
    ...{ measuring: lasted("measuring"), unsealing: lasted("unsealing"), "logging-in": lasted("logging-in") },
    ...{ "checking-keys": lasted("checking-keys"), capping: lasted("capping") },
  };
}

/** From the first event to the cap; what the agent asks of its TPM before and after is no part of the launch. */
function timeOfCommands({ bench: { bus } }: ServiceBench): number {
  const extends_ = bus.commands.filter(({ client, code }) => client === "agent" && code === TPM_CC.pcrExtend);
  const [first, cap] = [extends_.at(0)?.index ?? 0, extends_.at(-1)?.index ?? 0];
  return bus.times.slice(first, cap + 1).reduce((sum, ms) => sum + ms, 0);
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
