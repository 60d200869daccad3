// The program in the guest: `agent --config FILE`. Bundled into one file; it contains the agent and nothing else.
import "./no-eval.ts";
import { AgentError } from "./errors.ts";
import { failureOf, journal } from "./journal.ts";
import { runAgent } from "./run-agent.ts";

function configPath(args: readonly string[]): string {
  const [word, option, path] = args;
  if (word !== "agent" || option !== "--config" || path === undefined || args.length !== 3) {
    throw new AgentError("ERR_CONFIG_INVALID", "arguments", {
      expected: "agent --config FILE",
      got: `${args.length} arguments`,
    });
  }
  return path;
}

async function main(): Promise<void> {
  journal.begin(process.env);
  await runAgent(configPath(process.argv.slice(2)), process.env);
}

main().catch((error: unknown) => {
  // Leaving is enough: the spawner caps the agent PCR and reboots when the agent is gone (I3).
  journal.error(failureOf(error));
  process.exit(4);
});
