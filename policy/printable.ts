/** What a terminal acts upon or a reader cannot see: control, format (bidi, zero-width), private and unassigned characters, separators of lines. */
const unprintable = /[\p{C}\p{Zl}\p{Zp}]/gu;
const unprintableButLineFeeds = /(?!\n)[\p{C}\p{Zl}\p{Zp}]/gu;

/** The first character that `printableLine` would replace; `null` where there is none. */
export function firstUnprintable(text: string): string | null {
  return text.match(unprintable)?.[0] ?? null;
}

/** Text from outside on one line of a terminal. */
export function printableLine(text: string): string {
  return text.replaceAll(unprintable, "?");
}

/** The same; line feeds stay. */
export function printableText(text: string): string {
  return text.replaceAll(unprintableButLineFeeds, "?");
}

/** For messages, which repeat what somebody sent: on one line, a line feed as a semicolon, and cut off behind so many characters, which is shown. */
export function boundedLine(text: string, most: number): string {
  const kept = text.length > most ? text.slice(0, most) : text;
  const line = printableLine(kept.replaceAll(/\r?\n/g, "; "));
  return kept === text ? line : `${line}...`;
}

/** JSON text whose strings are the same after parsing, and hold nothing before that a terminal acts upon. */
export function printableJson(json: string): string {
  const escaped = (unit: string) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return json.replaceAll(unprintableButLineFeeds, (character) => character.split("").map(escaped).join(""));
}
