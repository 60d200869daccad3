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
  // Inside a word a shell leaves these as they are.
  const plain = "~#".includes(character) && !first;
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
    const escapes = quote === '"' && character === "\\";
    if (escapes && /["\\\n]/.test(text[at + 1] ?? "")) at += 1;
    if (!escapes || text[at] !== "\n") value += text[at];
  }
  throw refused("the end of a quoted word", "none");
}

/** An option's keys and their values. */
export type OptionKeys = ReadonlyMap<string, string>;

const KEY = /^[A-Za-z_][\w.-]*$/;

/**
 * `word,key=value,key` of QEMU's options, where a comma in a value is written twice; or one JSON object. Pure.
 * @param implied the key that a first word without `=` is the value of, as `driver` of `-device`; null where it is a switch
 * @throws ImageError ERR_HOST_MALFORMED for a key that stands twice, in whatever form, or JSON that is no object
 */
export function readOption(value: string, implied: string | null): OptionKeys {
  if (value.startsWith("{")) return readJsonOption(value);
  const keys = new Map<string, string>();
  // A comma at the end is one that nothing follows.
  const parts = value.replaceAll(",,", "\0").replace(/,$/, "").split(",");
  for (const [index, part] of value === "" ? [] : parts.entries()) {
    const [, key, text = ""] = /^([^=\0]*)=(.*)$/s.exec(part) ?? [];
    if (key !== undefined) set(keys, key, plain(text));
    else if (index === 0 && implied !== null) set(keys, implied, plain(part));
    else if (part.startsWith("no")) set(keys, part.slice(2), "off");
    else set(keys, part, "on");
  }
  return keys;
}

function plain(text: string): string {
  return text.replaceAll("\0", ",");
}

function readJsonOption(text: string): OptionKeys {
  const keys = new Map<string, string>();
  try {
    flatten("", parseJson(utf8(text), "option", { maxBytes: MAX_TEXT, maxDepth: 8 }), keys);
  } catch (cause) {
    throw cause instanceof IronclawError ? refused("an option in JSON", "something else") : cause;
  }
  return keys;
}

function flatten(prefix: string, value: unknown, keys: Map<string, string>): void {
  const inner = typeof value === "object" && value !== null ? Object.entries(value) : [];
  if (inner.length === 0) set(keys, prefix, jsonWord(value));
  for (const [key, part] of inner) {
    if (key === "") throw refused("a key", "none");
    flatten(prefix === "" ? key : `${prefix}.${key}`, part, keys);
  }
}

function jsonWord(value: unknown): string {
  if (typeof value === "boolean") return value ? "on" : "off";
  return String(value);
}

/** Of two values QEMU would take one, and this reader perhaps the other. */
function set(keys: Map<string, string>, key: string, value: string): void {
  if (!KEY.test(key)) throw refused("a key", key.slice(0, 40));
  if (keys.has(key)) throw refused(`one ${key.slice(0, 40)}`, "two");
  keys.set(key, value);
}

const ON: ReadonlySet<string> = new Set(["on", "yes", "true", "y"]);
const OFF: ReadonlySet<string> = new Set(["off", "no", "false", "n"]);

/** As QEMU reads a switch; null for what it would not start with. */
export function readSwitch(value: string): boolean | null {
  if (ON.has(value)) return true;
  return OFF.has(value) ? false : null;
}

/** As QEMU reads a number, octal behind a zero; null for what is none. */
export function readNumber(text: string): number | null {
  if (/^0[0-7]{1,10}$/.test(text)) return Number.parseInt(text, 8);
  return /^(?:0x[\da-f]{1,8}|0|[1-9]\d{0,9})$/i.test(text) ? Number(text) : null;
}

function refused(expected: string, got: string): ImageError {
  return new ImageError("ERR_HOST_MALFORMED", "qemu command line", {
    ...{ expected, got },
    hint: "/proc/PID/cmdline of the running QEMU has the words as they are",
  });
}
