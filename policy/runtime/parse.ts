import type { LandlockRule, Limit, Opening, Profile, SyscallRule } from "./profile.ts";
import { callsOf, invalid, type LandlockLine, landlockOf, limitOf, nameOf, openingsOf, rulesOf } from "./statements.ts";

const MAX_TEXT = 65_536;
const MAX_LINES = 1_000;

/** The text of the profile that `include NAME` names; undefined when there is none. */
export type ProfileTexts = (name: string) => string | undefined;

/** The parts of a text in the order in which they may stand; `both` is the rules of both stages. */
const SECTIONS = ["head", "both", "load", "serve"] as const;
type Section = (typeof SECTIONS)[number];

/** What a text itself states, without what it includes. */
interface Draft {
  included: Profile | null;
  name: string | null;
  arch: "x86_64" | null;
  opens: readonly Opening[] | null;
  section: Section;
  readonly limits: Limit[];
  readonly landlock: LandlockLine[];
  readonly watch: SyscallRule[];
  readonly unwatch: SyscallRule[];
  readonly absent: SyscallRule[];
  readonly load: SyscallRule[];
  readonly serve: SyscallRule[];
}

/**
 * Reads a profile's text (README.md lists the statements), at most 64 KiB and 1000 lines, together with the one that it
 * includes: the result is the whole of it, and so is what `compileProfile` makes and the agent measures.
 *
 * Does not judge: a profile that allows execve parses. `lintProfile` refuses it, and `compileProfile` calls that.
 *
 * @throws PolicyError ERR_PROFILE_INVALID with the line's number
 */
export function parseProfile(text: string, texts: ProfileTexts = () => undefined): Profile {
  if (text.length > MAX_TEXT) throw invalid("profile", `at most ${MAX_TEXT} characters`, `${text.length}`);
  const lines = text.split("\n");
  if (lines.length > MAX_LINES) throw invalid("profile", `at most ${MAX_LINES} lines`, `${lines.length}`);
  const draft = emptyDraft();
  let first = true;
  for (const [index, line] of lines.entries()) {
    const words = withoutComment(line)
      .split(/[ \t]+/)
      .filter((word) => word !== "");
    if (words.length === 0) continue;
    const where = `profile line ${index + 1}`;
    if (words[0] === "include") draft.included = includedProfile(words.slice(1), first, texts, where);
    else statement(draft, words, where);
    first = false;
  }
  return finish(draft);
}

function emptyDraft(): Draft {
  return {
    included: null,
    name: null,
    arch: null,
    opens: null,
    section: "head",
    limits: [],
    landlock: [],
    watch: [],
    unwatch: [],
    absent: [],
    load: [],
    serve: [],
  };
}

/** One level only: whoever reads a profile has two texts to read, not a chain of them. */
function includedProfile(words: readonly string[], first: boolean, texts: ProfileTexts, where: string): Profile {
  if (!first) throw invalid(where, "`include` as the first statement, once", words.join(" "));
  const name = nameOf(words, where);
  const text = texts(name);
  if (text === undefined) throw invalid(where, "a profile that can be included", name);
  const profile = parseProfile(text);
  if (profile.name !== name) throw invalid(where, `a text of the profile ${name}`, profile.name);
  return profile;
}

function statement(draft: Draft, words: readonly string[], where: string): void {
  const [keyword = "", ...rest] = words;
  switch (keyword) {
    case "profile":
      draft.name = once(draft.name, nameOf(rest, where), where);
      return;
    case "arch":
      if (rest.join(" ") !== "x86_64") throw invalid(where, "arch x86_64", rest.join(" "));
      draft.arch = once(draft.arch, "x86_64", where);
      return;
    case "opens":
      draft.opens = once(draft.opens, openingsOf(rest, where), where);
      return;
    case "limit":
      addOnce(draft.limits, limitOf(rest, where), ({ resource }) => resource, where);
      return;
    case "landlock":
      addOnce(draft.landlock, landlockOf(rest, where), ({ path }) => path, where);
      return;
    case "watch":
      draft.watch.push(...rulesOf(rest, where));
      return;
    case "unwatch":
      draft.unwatch.push(...callsOf(rest, where));
      return;
    case "absent":
      draft.absent.push(...callsOf(rest, where));
      return;
    case "stage":
      draft.section = stageOf(draft, rest, where);
      return;
    case "allow":
      allow(draft, rulesOf(rest, where), where);
      return;
    default:
      throw invalid(
        where,
        "include, profile, arch, opens, limit, landlock, watch, unwatch, absent, stage or allow",
        keyword.slice(0, 40),
      );
  }
}

function withoutComment(line: string): string {
  const start = line.indexOf("#");
  return start < 0 ? line : line.slice(0, start);
}

function once<T>(before: T | null, now: T, where: string): T {
  if (before !== null) throw invalid(where, "one such line", "a second one");
  return now;
}

function addOnce<T>(list: T[], entry: T, key: (entry: T) => string, where: string): void {
  if (list.some((other) => key(other) === key(entry))) throw invalid(where, `${key(entry)} once`, "twice");
  list.push(entry);
}

function stageOf(draft: Draft, words: readonly string[], where: string): Section {
  const wanted = SECTIONS.find((section) => section !== "head" && section === words.join(" "));
  if (wanted === undefined || SECTIONS.indexOf(wanted) <= SECTIONS.indexOf(draft.section)) {
    throw invalid(
      where,
      "`stage both`, `stage load`, `stage serve`, in this order, each once",
      `stage ${words.join(" ")}`,
    );
  }
  return wanted;
}

function allow(draft: Draft, rules: readonly SyscallRule[], where: string): void {
  if (draft.section === "head") throw invalid(where, "`stage both|load|serve` before the first `allow`", "none");
  if (draft.section !== "serve") draft.load.push(...rules);
  if (draft.section !== "load") draft.serve.push(...rules);
}

/** What the text states, over what it includes: a limit or a path replaces the included one, rules come after. */
function finish(draft: Draft): Profile {
  const { included } = draft;
  const arch = draft.arch ?? included?.arch ?? null;
  if (draft.name === null) throw invalid("profile", "a line `profile NAME`", "none");
  if (arch === null) throw invalid("profile", "a line `arch x86_64`", "none");
  const said = new Set(draft.limits.map(({ resource }) => resource));
  return {
    name: draft.name,
    arch,
    opens: draft.opens ?? included?.opens ?? [],
    limits: [...(included?.limits ?? []).filter(({ resource }) => !said.has(resource)), ...draft.limits],
    landlock: landlockRules(included?.landlock ?? [], draft.landlock),
    watch: [...stillWatched(included?.watch ?? [], draft.unwatch), ...draft.watch],
    absent: [...(included?.absent ?? []), ...draft.absent],
    load: [...(included?.load ?? []), ...draft.load],
    serve: [...(included?.serve ?? []), ...draft.serve],
  };
}

function landlockRules(included: readonly LandlockRule[], lines: readonly LandlockLine[]): readonly LandlockRule[] {
  const said = new Set(lines.map(({ path }) => path));
  const idle = lines.find(({ access, path }) => access === null && !included.some((rule) => rule.path === path));
  // a line that takes away nothing is a misspelt path, and what it meant to take away would stay
  if (idle !== undefined) throw invalid(`profile landlock none ${idle.path}`, "a path of the included profile", "none");
  const rules = lines.flatMap(({ access, path }) => (access === null ? [] : [{ access, path }]));
  return [...included.filter(({ path }) => !said.has(path)), ...rules];
}

function stillWatched(included: readonly SyscallRule[], unwatch: readonly SyscallRule[]): readonly SyscallRule[] {
  const names = new Set(unwatch.map(({ syscall }) => syscall));
  const idle = [...names].find((name) => !included.some(({ syscall }) => syscall === name));
  if (idle !== undefined) throw invalid(`profile unwatch ${idle}`, "a call that the included profile watches", "none");
  return included.filter(({ syscall }) => !names.has(syscall));
}
