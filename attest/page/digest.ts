/// <reference lib="dom" />
import { h } from "./dom.ts";

const group = 8;

/** Hexadecimal in groups of eight digits, so that a person can compare it and a narrow screen can break it; copying gives it whole. */
export function digest(text: string): HTMLElement {
  return h(
    "code",
    { class: "digest" },
    groupsOf(text).map((part) => h("span", { class: "digits" }, part)),
  );
}

/** `text`, with every digit marked that differs from `other`. */
function markedDigest(text: string, other: string): HTMLElement {
  const parts = groupsOf(text).map((part, index) => {
    const start = index * group;
    return h(
      "span",
      { class: "digits" },
      runsOf(part, (at) => other[start + at] !== part[at]),
    );
  });
  return h("code", { class: "digest" }, parts);
}

/** What was expected above what was measured, digit below digit; one line where they agree. */
export function comparison(expected: string | null, got: string | null): HTMLElement {
  if (expected !== null && expected === got) return h("div", { class: "compare" }, line("Same", digest(got)));
  if (expected === null && got !== null) return h("div", { class: "compare" }, line("Measured", digest(got)));
  const expectedValue = expected === null ? none("no reference value") : digestOrText(expected, got);
  const gotValue = got === null ? none("nothing") : digestOrText(got, expected);
  const differs = expected !== null;
  return h(
    "div",
    { class: differs ? "compare compare-differs" : "compare" },
    line("Expected", expectedValue),
    line("Measured", gotValue),
    differs && got !== null ? h("div", { class: "compare-note" }, differenceNote(expected, got)) : null,
  );
}

function differenceNote(expected: string, got: string): string {
  if (got.length !== expected.length) return "These differ.";
  const count = [...got].filter((digit, index) => digit !== expected[index]).length;
  return `${count} of ${got.length} digits differ.`;
}

function digestOrText(text: string, other: string | null): HTMLElement {
  return other === null || other.length !== text.length ? digest(text) : markedDigest(text, other);
}

function line(label: string, value: HTMLElement): HTMLElement {
  return h("div", { class: "compare-line" }, h("span", { class: "compare-label" }, label), value);
}

function none(text: string): HTMLElement {
  return h("span", { class: "quiet" }, text);
}

export function isDigest(text: string): boolean {
  return /^(?:[0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{66,68}|[0-9a-f]{96,100})$/.test(text);
}

function groupsOf(text: string): readonly string[] {
  return Array.from({ length: Math.ceil(text.length / group) }, (_, index) =>
    text.slice(index * group, (index + 1) * group),
  );
}

/** Neighbours that differ share one mark. */
function runsOf(part: string, differs: (index: number) => boolean): readonly (string | HTMLElement)[] {
  const runs: { text: string; marked: boolean }[] = [];
  for (const [index, digit] of [...part].entries()) {
    const marked = differs(index);
    const last = runs.at(-1);
    if (last?.marked === marked) last.text += digit;
    else runs.push({ text: digit, marked });
  }
  return runs.map(({ text, marked }) => (marked ? h("mark", {}, text) : text));
}
