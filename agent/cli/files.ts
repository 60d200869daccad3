import { readFile, writeFile } from "node:fs/promises";
import { AgentError } from "../errors.ts";

/** @throws AgentError ERR_ENVIRONMENT (exit code 4) when the file cannot be read */
export async function readInput(path: string, what: string): Promise<Uint8Array> {
  try {
    return new Uint8Array(await readFile(path));
  } catch (cause) {
    throw new AgentError("ERR_ENVIRONMENT", `${what} ${path}`, {
      expected: "a readable file",
      got: codeOf(cause),
      cause,
    });
  }
}

export async function readText(path: string, what: string): Promise<string> {
  return new TextDecoder().decode(await readInput(path, what));
}

/** @throws AgentError ERR_ENVIRONMENT */
export async function writeOutput(path: string, bytes: Uint8Array | string): Promise<void> {
  try {
    await writeFile(path, bytes);
  } catch (cause) {
    throw new AgentError("ERR_ENVIRONMENT", `output ${path}`, {
      expected: "a writable file",
      got: codeOf(cause),
      cause,
    });
  }
}

/** A secret from standard input, one line without its end. Never echoed, never an argument. */
export async function readSecret(stream: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  for await (const chunk of stream) chunks.push(chunk);
  const whole = Buffer.concat(chunks);
  for (const chunk of chunks) chunk.fill(0);
  const end = whole.at(-1) === 10 ? whole.length - 1 : whole.length;
  const secret = Uint8Array.from(whole.subarray(0, end));
  whole.fill(0);
  return secret;
}

function codeOf(cause: unknown): string {
  return cause instanceof Error && "code" in cause ? String(cause.code) : "a failure";
}
