import { readFileSync } from "node:fs";
import { resolve } from "node:path";

const DOCUMENT = resolve(import.meta.dirname, "../../agent/docs/lab.md");

/** What `agent/docs/lab.md` has for a step: the walkthrough prints it, and has no second version. */
export interface Section {
  readonly number: number;
  readonly title: string;
  /** Who stands between the caller and the key, and who of them enforces. */
  readonly picture: readonly string[];
  readonly unseen: readonly string[];
}

/** @throws Error for a section without a picture or without anything that cannot be seen */
export function readSections(text = readFileSync(DOCUMENT, "utf8")): readonly Section[] {
  return text
    .split(/^## (?=\d+\. )/m)
    .slice(1)
    .map(parseSection);
}

function parseSection(text: string): Section {
  const [, number = "", title = ""] = /^(\d+)\. (.+)$/m.exec(text) ?? [];
  const [, picture = ""] = /^```\n([\s\S]*?)\n```$/m.exec(text) ?? [];
  const [, list = ""] = /^Cannot be seen:\n\n((?:- .+\n)+)/m.exec(text) ?? [];
  const unseen = list.split("\n").flatMap((line) => (line.startsWith("- ") ? [line.slice(2)] : []));
  if (picture === "" || unseen.length === 0)
    throw new Error(`lab.md, section ${number}: no picture, or nothing unseen`);
  return { number: Number(number), title, picture: picture.split("\n"), unseen };
}
