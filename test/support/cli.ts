import { execFile } from "node:child_process";
import { resolve } from "node:path";
import { runIronclaw } from "../../agent/cli/ironclaw.ts";

const PROGRAM = resolve(import.meta.dirname, "../../agent/cli/ironclaw.ts");

export interface CliResult {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** Runs a command in this process. */
export async function cli(args: readonly string[], input: Uint8Array | string = ""): Promise<CliResult> {
  let [out, err] = ["", ""];
  const code = await runIronclaw(args, {
    input: pieces(input),
    print: (text) => {
      out += `${text}\n`;
    },
    complain: (text) => {
      err += `${text}\n`;
    },
  });
  return { code, out, err };
}

/** A few bytes at a time, as a pipe may give them. */
async function* pieces(input: Uint8Array | string): AsyncGenerator<Uint8Array> {
  const bytes = Buffer.from(input);
  for (let at = 0; at < bytes.length; at += 7) yield Uint8Array.from(bytes.subarray(at, at + 7));
}

/** Runs the program itself, as a person's shell does. */
export function program(args: readonly string[], input: Uint8Array | string = ""): Promise<CliResult> {
  return new Promise((settle) => {
    const child = execFile(process.execPath, [PROGRAM, ...args], (error, out, err) => {
      settle({ code: typeof error?.code === "number" ? error.code : error === null ? 0 : -1, out, err });
    });
    child.stdin?.on("error", () => {}).end(input);
  });
}
