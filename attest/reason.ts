import { IronclawError } from "../policy/index.ts";

/** Why something was refused or doubted: a stable code, the item it is about, what was asked for and what was found. */
export interface Reason {
  readonly code: string;
  readonly item: string;
  readonly expected: string;
  readonly got: string;
}

/** UTF-16 code units of one text of a reason: a report can name things of any length, and reasons are kept, sent and shown. */
const maxReasonText = 4096;

export function reason(code: string, item: string, expected: string, got: string): Reason {
  const cut = (text: string) => cutText(text, maxReasonText);
  return { code: cut(code), item: cut(item), expected: cut(expected), got: cut(got) };
}

/** The text, or its beginning and an ellipsis: at most `max` UTF-16 code units, and no code point is cut in two. */
export function cutText(text: string, max: number): string {
  if (text.length <= max) return text;
  const end = isHighSurrogate(text.charCodeAt(max - 2)) ? max - 2 : max - 1;
  return `${text.slice(0, end)}\u2026`;
}

function isHighSurrogate(unit: number): boolean {
  return unit >= 0xd800 && unit <= 0xdbff;
}

/** Names that one reason spells out: a hostile report could have thousands. */
const maxListed = 8;

/** The names, or how many they are and the first of them; "none" for none. */
export function listNames(names: readonly string[], separator: string): string {
  const shown = names.slice(0, maxListed).join(separator);
  return names.length > maxListed ? `${names.length}, the first: ${shown}` : shown || "none";
}

/** The reason a typed error gives. Errors that are not ours keep their message only. */
export function reasonFrom(error: unknown, item: string): Reason {
  if (error instanceof IronclawError) {
    return reason(error.code, item, error.expected ?? "well-formed input", error.got ?? error.message);
  }
  return reason("ERR_UNEXPECTED", item, "no failure", error instanceof Error ? error.message : "unknown failure");
}
