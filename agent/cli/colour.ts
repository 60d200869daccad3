export interface ColourEnvironment {
  readonly NO_COLOR?: string | undefined;
  readonly TERM?: string | undefined;
}

/** Only on a terminal that knows colours, and where nobody said no (no-color.org: any value but the empty one). */
export function wantsColour(isTerminal: boolean, { NO_COLOR = "", TERM }: ColourEnvironment): boolean {
  return isTerminal && NO_COLOR === "" && TERM !== "dumb";
}

const RED = 31;
const GREEN = 32;
const YELLOW = 33;
const DIM = 2;
/** By the word that is coloured. */
const SHADES: Readonly<Record<string, number>> = {
  ...{ affirming: GREEN, warning: YELLOW, contraindicated: RED },
  ...{ ok: GREEN, warn: YELLOW, fail: RED },
  ...{ "ironclaw:": RED, "warning:": YELLOW, "hint:": DIM, "<- differs": RED },
};
/** A verdict behind its machine's name, a finding's level, the start of a complaint, a value that is not the expected one. */
const COLOURED =
  /(?<=^[^\s:]+: )(?:affirming|warning|contraindicated)(?= \()|^(?:ok|warn|fail)(?= )|^(?:ironclaw|warning|hint):|<- differs$/gm;

/** The same text with colours on a few words. Text from documents has been made printable before: it brings no colour of its own. */
export function colourWords(text: string): string {
  return text.replaceAll(COLOURED, (word) => `\u001b[${SHADES[word] ?? DIM}m${word}\u001b[0m`);
}
