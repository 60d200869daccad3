import { sha256Hex } from "../../policy/index.ts";
import type { CommandInput, CommandIo, CommandOption } from "./command.ts";
import { writeOutput } from "./files.ts";

/** Names, reasons and file names come from outside: a control or direction character must not reach a terminal. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are the characters to take out
const UNPRINTABLE = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g;
const MAX_COMPLAINT = 8_000;

export const JSON_OPTION: CommandOption = { type: "boolean", help: "print one JSON document" };

/** Text for a terminal; line feeds stay. */
export function plainText(text: string): string {
  return text.replaceAll(UNPRINTABLE, "?");
}

/** An error's message on one line of bounded length. */
export function oneLine(text: string): string {
  const line = plainText(text.trim().replaceAll(/\s*\n\s*/g, "; "));
  return line.length > MAX_COMPLAINT ? `${line.slice(0, MAX_COMPLAINT)}...` : line;
}

/** JSON whose strings hold the same characters after parsing, and none that a terminal acts upon before. */
export function renderJson(value: unknown): string {
  return JSON.stringify(value, null, 2).replaceAll(
    UNPRINTABLE,
    (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`,
  );
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
