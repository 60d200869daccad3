import { keepPushing, type PushOutcome, pushOnce } from "../../attest/service/index.ts";
import type { Command, CommandInput, CommandIo } from "./command.ts";
import { openMachine } from "./machine-ports.ts";
import { answer, JSON_OPTION } from "./output.ts";
import { MACHINE_OPTION, machineName, openService, SERVICE_OPTIONS } from "./verifier-options.ts";

const DEFAULT_INTERVAL = 60;

export const command: Command = {
  summary:
    "carry a running machine's reports to a verifier service, again and again; exit code 1 when --once is refused",
  positionals: [],
  options: {
    machine: MACHINE_OPTION,
    name: { type: "string", value: "NAME", help: "the name that it is enrolled under", required: true },
    ...SERVICE_OPTIONS,
    interval: {
      type: "string",
      value: "SECONDS",
      help: `between reports (default ${DEFAULT_INTERVAL}); keep it below the service's intervalSeconds`,
    },
    once: { type: "boolean", help: "one report, then end" },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw verifier push --machine machine --name vm-1 --to https://verifier:8443 --ca verifier-ca.pem",
    "ironclaw verifier push --machine machine --name vm-1 --to unix:/run/verifier.sock --once --json",
  ],
  talks: true,
  run: async (input, io) => {
    const name = machineName(input.text("name"));
    const intervalSeconds = input.integer("interval", 1, 86_400) ?? DEFAULT_INTERVAL;
    const order = { name, client: await openService(input), openMachine: () => openMachine(input.text("machine")) };
    if (input.flag("once")) return concluded(await pushOnce(order), input, io);
    const stop = new AbortController();
    for (const signal of ["SIGTERM", "SIGINT"] as const) process.once(signal, () => stop.abort());
    const told = (outcome: PushOutcome, waitSeconds: number) => say({ ...factsOf(outcome), waitSeconds }, input, io);
    await keepPushing(order, { intervalSeconds, signal: stop.signal, random: Math.random, told });
    return 0;
  },
};

function concluded(outcome: PushOutcome, input: CommandInput, io: CommandIo): 0 | 1 {
  if (outcome.kind === "failed") throw outcome.error;
  say(factsOf(outcome), input, io);
  return outcome.kind === "judged" && outcome.tier !== "contraindicated" ? 0 : 1;
}

type Facts = Readonly<Record<string, string | number>>;

function factsOf(outcome: PushOutcome): Facts {
  if (outcome.kind === "judged") return { outcome: outcome.tier, ear: outcome.ear };
  return { outcome: outcome.kind, reason: outcome.kind === "refused" ? outcome.code : outcome.error.message };
}

function say(facts: Facts, input: CommandInput, io: CommandIo): void {
  const { outcome, reason, waitSeconds } = facts;
  const why = reason === undefined ? "" : `: ${reason}`;
  const next = waitSeconds === undefined ? "" : `; next in ${Math.round(Number(waitSeconds))} s`;
  answer(input, io, facts, `${outcome}${why}${next}`);
}
