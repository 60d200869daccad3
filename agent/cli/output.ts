import { printableJson, printableText, sha256Hex } from "../../policy/index.ts";
import type { CommandInput, CommandIo, CommandOption } from "./command.ts";
import { writeOutput } from "./files.ts";

const MAX_COMPLAINT = 8_000;

export const JSON_OPTION: CommandOption = { type: "boolean", help: "print one JSON document" };

/** An error's message on one line of bounded length. */
export function oneLine(text: string): string {
  const line = printableText(text.trim().replaceAll(/\s*\n\s*/g, "; "));
  return line.length > MAX_COMPLAINT ? `${line.slice(0, MAX_COMPLAINT)}...` : line;
}

export function renderJson(value: unknown): string {
  return printableJson(JSON.stringify(value, null, 2));
}

/** With `--json` the facts, else the sentence made of them. */
export function answer(input: CommandInput, io: CommandIo, facts: object, sentence: string): void {
  io.print(input.flag("json") ? renderJson(facts) : sentence);
}

/** Writes a document to `--out` and says where it is, how long, and its digest. */
export async function deliver(
  input: CommandInput,
  io: CommandIo,
  bytes: Uint8Array,
  facts: Readonly<Record<string, unknown>>,
  sentence: string,
): Promise<void> {
  const file = input.text("out");
  await writeOutput(file, bytes);
  const written = { file, bytes: bytes.length, sha256: sha256Hex(bytes) };
  answer(input, io, { ...written, ...facts }, `${sentence}: ${file}, sha256 ${written.sha256}`);
}
