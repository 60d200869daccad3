// `npm start`: the whole path once, on this machine, and then three attacks on it.
import { parseArgs } from "node:util";
import { IronclawError } from "../policy/index.ts";
import { Progress } from "./story/progress.ts";
import { renderStory } from "./story/render.ts";
import { stay } from "./story/stay.ts";
import { tellStory } from "./story/story.ts";

const USAGE = `npm start [-- OPTION]

  --json   print one JSON document at the end instead of tables
  --stay   keep a dev machine up; prints how to get a shell and a report from it
  --help   this text

Exit code 0 only if everything held: unsealed, verified, signed, a stranger refused, no copy of the PIN,
three tampered boots that stayed sealed, and a clean boot after them.
`;

async function main(args: string[]): Promise<number> {
  const { values } = parseArgs({
    args,
    options: { json: { type: "boolean" }, stay: { type: "boolean" }, help: { type: "boolean" } },
  });
  const print = (text: string) => void process.stdout.write(text.endsWith("\n") ? text : `${text}\n`);
  if (values.help) {
    print(USAGE);
    return 0;
  }
  const progress = new Progress();
  if (values.stay) {
    await stay(progress, print);
    return 0;
  }
  const result = await tellStory(progress);
  print(values.json ? JSON.stringify(result) : renderStory(result));
  return result.ok ? 0 : 1;
}

/** One line and a hint, never a stack trace. */
function explainFailure(error: unknown): number {
  if (error instanceof IronclawError) {
    process.stderr.write(
      `npm start: ${error.message} (${error.code})\n${error.hint === undefined ? "" : `hint: ${error.hint}\n`}`,
    );
    return error.exitCode;
  }
  const usage = error instanceof TypeError && "code" in error && String(error.code).startsWith("ERR_PARSE_ARGS");
  process.stderr.write(
    `npm start: ${error instanceof Error ? error.message : "unknown failure"}\n${usage ? USAGE : ""}`,
  );
  return usage ? 2 : 4;
}

// Machines and software TPMs end with this process; an interrupt must let their exit handlers run.
for (const signal of ["SIGINT", "SIGTERM"] as const)
  process.on(signal, () => setTimeout(() => process.exit(130), 3_000).unref());

process.exitCode = await main(process.argv.slice(2)).catch(explainFailure);
