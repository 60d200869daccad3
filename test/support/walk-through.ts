import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { LAYOUT_FILE, LAYOUT_PIN, type LayOut, layOut, layOutEndorsement, openStandIn } from "./cli-layout.ts";
import { type SoftwareTpm, startSwtpm } from "./swtpm.ts";

const run = promisify(execFile);
const project = resolve(import.meta.dirname, "../..");
export const CLI_README = join(project, "agent/cli/README.md");

export interface WalkThrough extends AsyncDisposable {
  /** Where it ran: every file that the README names is there. */
  readonly directory: string;
  /** Standard output of each block, in order. */
  readonly outputs: readonly string[];
  /** Standard output of the block that verifies the machine's report. */
  readonly verdict: string;
  /** All that was written to standard output and standard error. */
  readonly everything: string;
}

/** Runs the walk-through of agent/cli/README.md as it stands there; the machine it talks to is a stand-in on a real swtpm. */
export async function runWalkThrough(): Promise<WalkThrough> {
  const directory = await mkdtemp(join(tmpdir(), "cli-"));
  const tpm = await startSwtpm();
  const started: AsyncDisposable[] = [tpm];
  const dispose = async () => {
    for (const each of started.reverse()) await each[Symbol.asyncDispose]();
    await rm(directory, { recursive: true, force: true });
  };
  try {
    const image = await layOutAll(directory, tpm);
    const outputs: string[] = [];
    let everything = "";
    const runBlocks = async (heading: string) => {
      for (const block of await blocksUnder(CLI_README, heading)) {
        const { stdout, stderr } = await runBlock(directory, block);
        outputs.push(stdout);
        everything += `${stdout}${stderr}`;
      }
    };
    await runBlocks("## EK certificates and trust anchors");
    await runBlocks("### Before the first boot");
    started.push(await openStandIn(directory, tpm, image));
    await runBlocks("### With the machine running");
    const verdict = outputs.at(-1) ?? "";
    await runBlocks("### The report for other tools");
    await runBlocks("### For a relying party");
    await runBlocks("### Later: the next release");
    return { directory, outputs, verdict, everything, [Symbol.asyncDispose]: dispose };
  } catch (error) {
    await dispose();
    throw error;
  }
}

/** All that somebody has who begins with agent/cli/README.md, and the program. */
export async function layOutAll(directory: string, tpm: SoftwareTpm): Promise<LayOut> {
  const image = await layOut(directory);
  await layOutEndorsement(directory, tpm);
  await putProgram(directory);
  await writeFile(join(directory, "pin"), `${LAYOUT_PIN}\n`, { mode: 0o600 });
  await writeFile(join(directory, "client.key"), LAYOUT_FILE, { mode: 0o600 });
  return image;
}

/** `ironclaw` on the path of the blocks. */
export async function putProgram(directory: string): Promise<void> {
  const program = `#!/bin/sh\nexec ${process.execPath} ${project}/agent/cli/ironclaw.ts "$@"\n`;
  await mkdir(join(directory, "bin"));
  await writeFile(join(directory, "bin/ironclaw"), program, { mode: 0o755 });
}

/** The shell blocks of a document between a heading and the next. */
export async function blocksUnder(document: string, heading: string): Promise<readonly string[]> {
  const text = await readFile(document, "utf8");
  const start = text.indexOf(`\n${heading}\n`);
  if (start < 0) throw new Error(`${document}: no heading ${heading}`);
  const section = text.slice(start + 1).split(/\n#+ /)[0] ?? "";
  const blocks = [...section.matchAll(/```sh\n([\s\S]*?)```/g)].map(([, block = ""]) => block);
  if (blocks.length === 0) throw new Error(`${document}: no blocks under ${heading}`);
  return blocks;
}

/** Runs a block as it stands, in `directory`, ended by its first failing command. */
export function runBlock(directory: string, block: string): Promise<{ stdout: string; stderr: string }> {
  return run("sh", ["-eu", "-c", block], placeOf(directory));
}

/** Starts a command of a block that does not end by itself; resolves with the first that it prints, and the way to end it. */
export async function startCommand(directory: string, command: string): Promise<{ first: string } & AsyncDisposable> {
  const child = spawn("sh", ["-eu", "-c", `exec ${command}`], {
    ...placeOf(directory),
    stdio: ["ignore", "pipe", "pipe"],
  });
  let complained = "";
  child.stderr.on("data", (text) => {
    complained += text;
  });
  const ended = once(child, "exit");
  const [first] = await Promise.race([once(child.stdout, "data"), ended]);
  if (!(first instanceof Buffer)) throw new Error(`${command}: ended with ${first}: ${complained}`);
  return {
    first: `${first}`,
    [Symbol.asyncDispose]: async () => {
      child.kill("SIGTERM");
      await ended;
    },
  };
}

function placeOf(directory: string) {
  const PATH = `${join(directory, "bin")}:${process.env["PATH"] ?? ""}`;
  return { cwd: directory, env: { ...process.env, PATH } };
}
