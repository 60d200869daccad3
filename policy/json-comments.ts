import { type Json, type JsonLimits, jsonText, scanJson } from "./json.ts";
import { endOfString, JsonSyntaxError, type JsonVisitor } from "./json-scanner.ts";

/** Controls but tab and line ends, formats (bidirectional, zero-width), separators of lines, and a carriage return alone. */
const UNSEEN = /(?![\t\n])(?!\r\n)[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u;

/**
 * Reads what `parseJson` does, and comments where white space may stand: from two slashes to the end of the line, or between slash-star and
 * star-slash. A document with comments is read by people before it is trusted, so it must be what they see: characters that are not seen, that turn
 * the order of a line around, or that end a line for an editor and not for this reader are refused, wherever they stand.
 * @param what names the document in errors
 * @throws PolicyError `ERR_POLICY_MALFORMED`; a `JsonSyntaxError` where the text itself is wrong
 */
export function parseCommentedJson(
  bytes: Uint8Array,
  what: string,
  limits: JsonLimits,
  visitor: JsonVisitor | null = null,
): Json {
  const text = jsonText(bytes, what, limits);
  const unseen = UNSEEN.exec(text);
  if (unseen !== null) throw new JsonSyntaxError(what, "visible characters", text, unseen.index);
  return scanJson(blankComments(text), what, limits, visitor);
}

/**
 * The same text with each comment outside a string blanked. Offsets and line feeds stay, so that an error of the JSON reader still points into the
 * file. A comment without an end is left for the JSON reader to refuse.
 */
export function blankComments(text: string): string {
  const parts: string[] = [];
  let [kept, offset] = [0, 0];
  while (offset < text.length) {
    if (text[offset] === '"') {
      offset = endOfString(text, offset + 1);
      continue;
    }
    const end = text[offset] === "/" ? endOfComment(text, offset) : offset;
    // Not looked for again: the reader refuses at this character.
    if (end === null) break;
    if (end > offset) {
      parts.push(text.slice(kept, offset), text.slice(offset, end).replaceAll(/[^\n]/g, " "));
      kept = end;
    }
    offset = Math.max(end, offset + 1);
  }
  parts.push(text.slice(kept));
  return parts.join("");
}

/** `null` where no comment begins, or where one does not end. */
function endOfComment(text: string, start: number): number | null {
  const second = text[start + 1];
  if (second === "/") {
    const end = text.indexOf("\n", start);
    return end < 0 ? text.length : end;
  }
  if (second !== "*") return null;
  const end = text.indexOf("*/", start + 2);
  return end < 0 ? null : end + 2;
}
