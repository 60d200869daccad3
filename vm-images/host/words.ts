import { IronclawError, parseJson, utf8 } from "../../policy/index.ts";
import { ImageError } from "../errors.ts";
import { MAX_TEXT } from "./xml.ts";

const ASSIGNMENT = /^[A-Za-z_]\w*=/;
const PROGRAM = /(?:^|\/)(?:qemu-system-x86_64|qemu-kvm|kvm)$/;
/** What a shell would act on, outside of quotes; inside of double quotes only the first three. */
const SHELL = "$`\\;|&<>()*?[]{}~#!";
const SHELL_IN_QUOTES = "$`!";

/**
 * The arguments of QEMU in a command line as it is typed, or as `/proc/PID/cmdline` has it (a NUL byte behind each word). Pure.
 * @throws ImageError ERR_HOST_MALFORMED for what only a shell could resolve, and where there is no QEMU for x86-64
 */
export function qemuWords(text: string): readonly string[] {
  if (text.length > MAX_TEXT) throw refused(`at most ${MAX_TEXT} characters`, `${text.length}`);
  const words = text.includes("\0") ? text.replace(/\0$/, "").split("\0") : shellWords(text);
  const program = words.findIndex((word) => !ASSIGNMENT.test(word));
  const name = words[program];
  if (name !== undefined && PROGRAM.test(name)) return words.slice(program + 1);
  throw refused("qemu-system-x86_64 or a libvirt domain", name === undefined ? "nothing" : name.slice(0, 40));
}

function shellWords(text: string): readonly string[] {
  const words: string[] = [];
  let word: string | null = null;
  for (let at = 0; at < text.length; ) {
    const character = text[at] ?? "";
    if (/[ \t\r\n]/.test(character)) {
      if (word !== null) words.push(word);
      word = null;
      at += 1;
      continue;
    }
    const piece = readPiece(text, at, word === null);
    if (piece.text !== null) word = (word ?? "") + piece.text;
    at = piece.end;
  }
  return word === null ? words : [...words, word];
}

/** One character, a quoted text, or a line end that a backslash hides (`text` null). */
function readPiece(text: string, at: number, first: boolean): { readonly text: string | null; readonly end: number } {
  const character = text[at] ?? "";
  if (character === "'") return quoted(text, at, "'");
  if (character === '"') return quoted(text, at, '"');
  if (character === "\\") return escaped(text, at);
  // QEMU's JSON is written in quotes; inside a word a shell leaves these as they are.
  const plain = "{}~#".includes(character) && !first;
  if (SHELL.includes(character) && !plain) throw refused("words without what a shell acts on", character);
  return { text: character, end: at + 1 };
}

function escaped(text: string, at: number): { readonly text: string | null; readonly end: number } {
  const [next] = text.slice(at + 1, at + 2);
  if (next === undefined) throw refused("a character behind a backslash", "the end");
  if (next === "\n") return { text: null, end: at + 2 };
  if (next === "\r" && text[at + 2] === "\n") return { text: null, end: at + 3 };
  return { text: next, end: at + 2 };
}

function quoted(text: string, start: number, quote: "'" | '"'): { readonly text: string; readonly end: number } {
  let value = "";
  for (let at = start + 1; at < text.length; at += 1) {
    const character = text[at] ?? "";
    if (character === quote) return { text: value, end: at + 1 };
    if (quote === '"' && SHELL_IN_QUOTES.includes(character))
      throw refused("quotes without what a shell acts on", character);
    if (quote === '"' && character === "\\" && /["\\]/.test(text[at + 1] ?? "")) at += 1;
    value += text[at];
  }
  throw refused("the end of a quoted word", "none");
}

/** `driver,key=value,key=value` of QEMU's options, where a comma in a value is written twice; or one JSON object. */
export interface OptionValue {
  /** The first word, when it has no `=`: a driver or a backend. */
  readonly head: string;
  readonly keys: ReadonlyMap<string, string>;
}

/** @throws ImageError ERR_HOST_MALFORMED for a key that stands twice, or JSON that is no flat object */
export function readOption(value: string): OptionValue {
  if (value.startsWith("{")) return readJsonOption(value);
  const parts = value
    .replaceAll(",,", "\0")
    .split(",")
    .map((part) => part.replaceAll("\0", ","));
  const keys = new Map<string, string>();
  let head = "";
  for (const [index, part] of parts.entries()) {
    const equals = part.indexOf("=");
    if (equals < 0 && index === 0) head = part;
    else if (equals < 0) set(keys, part.replace(/^no(?=[a-z])/, ""), part.startsWith("no") ? "off" : "on");
    else set(keys, part.slice(0, equals), part.slice(equals + 1));
  }
  return { head, keys };
}

function readJsonOption(text: string): OptionValue {
  const keys = new Map<string, string>();
  try {
    flatten("", parseJson(utf8(text), "option", { maxBytes: MAX_TEXT, maxDepth: 8 }), keys);
  } catch (cause) {
    throw cause instanceof IronclawError ? refused("an option in JSON", "something else") : cause;
  }
  return { head: keys.get("driver") ?? keys.get("qom-type") ?? "", keys };
}

function flatten(prefix: string, value: unknown, keys: Map<string, string>): void {
  const inner = typeof value === "object" && value !== null ? Object.entries(value) : null;
  if (inner === null) set(keys, prefix, jsonWord(value));
  for (const [key, part] of inner ?? []) flatten(prefix === "" ? key : `${prefix}.${key}`, part, keys);
}

function jsonWord(value: unknown): string {
  if (typeof value === "boolean") return value ? "on" : "off";
  return String(value);
}

/** Of two values QEMU would take one, and this reader perhaps the other. */
function set(keys: Map<string, string>, key: string, value: string): void {
  if (keys.has(key)) throw refused(`one ${key.slice(0, 40)}`, "two");
  keys.set(key, value);
}

function refused(expected: string, got: string): ImageError {
  return new ImageError("ERR_HOST_MALFORMED", "qemu command line", {
    ...{ expected, got },
    hint: "/proc/PID/cmdline of the running QEMU has the words as they are",
  });
}
