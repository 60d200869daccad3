const LINE_FEED = 0x0a;
const SPACE = 0x20;
const QUOTE = 0x22;
const STAR = 0x2a;
const SLASH = 0x2f;
const BACKSLASH = 0x5c;

/**
 * The same bytes with each comment outside a string blanked: from two slashes to the end of the line, or between slash-star and star-slash. Offsets stay, so
 * that an error of the JSON reader still points into the file. A comment without an end is left for the JSON reader to refuse.
 */
export function blankComments(bytes: Uint8Array): Uint8Array {
  const blanked = bytes.slice();
  let offset = 0;
  while (offset < bytes.length) {
    if (bytes[offset] === QUOTE) offset = endOfString(bytes, offset + 1);
    else if (bytes[offset] === SLASH) offset = blankComment(bytes, blanked, offset);
    else offset += 1;
  }
  return blanked;
}

function endOfString(bytes: Uint8Array, start: number): number {
  let offset = start;
  while (offset < bytes.length && bytes[offset] !== QUOTE) offset += bytes[offset] === BACKSLASH ? 2 : 1;
  return offset + 1;
}

function blankComment(bytes: Uint8Array, blanked: Uint8Array, start: number): number {
  const end = endOfComment(bytes, start);
  // Not looked for again: the reader refuses at this character.
  if (end === null) return bytes.length;
  for (let offset = start; offset < end; offset += 1) if (bytes[offset] !== LINE_FEED) blanked[offset] = SPACE;
  return end;
}

/** `null` where no comment begins, or where one does not end. */
function endOfComment(bytes: Uint8Array, start: number): number | null {
  const second = bytes[start + 1];
  if (second === SLASH) {
    const end = bytes.indexOf(LINE_FEED, start);
    return end < 0 ? bytes.length : end;
  }
  if (second !== STAR) return null;
  for (let offset = start + 2; offset + 1 < bytes.length; offset += 1) {
    if (bytes[offset] === STAR && bytes[offset + 1] === SLASH) return offset + 2;
  }
  return null;
}
