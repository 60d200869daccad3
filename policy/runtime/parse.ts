import { PolicyError } from "../errors.ts";
import { constantValue } from "./constants.ts";
import {
  type Condition,
  type LandlockRule,
  type Limit,
  type Profile,
  RESOURCES,
  type Resource,
  type SyscallRule,
} from "./profile.ts";
import { syscallNumber } from "./syscalls.ts";

const MAX_TEXT = 65_536;
const MAX_LINES = 1_000;

interface Draft {
  name: string | null;
  arch: "x86_64" | null;
  section: "head" | "load" | "serve";
  readonly limits: Limit[];
  readonly landlock: LandlockRule[];
  readonly watch: SyscallRule[];
  readonly load: SyscallRule[];
  readonly serve: SyscallRule[];
}

/**
 * Reads a profile's text (README.md lists the statements). At most 64 KiB and 1000 lines.
 *
 * Does not judge: a profile that allows execve parses. `lintProfile` refuses it, and `compileProfile` calls that.
 *
 * @throws PolicyError ERR_PROFILE_INVALID with the line's number
 */
export function parseProfile(text: string): Profile {
  if (text.length > MAX_TEXT) throw invalid("profile", `at most ${MAX_TEXT} characters`, `${text.length}`);
  const lines = text.split("\n");
  if (lines.length > MAX_LINES) throw invalid("profile", `at most ${MAX_LINES} lines`, `${lines.length}`);
  const draft: Draft = {
    name: null,
    arch: null,
    section: "head",
    limits: [],
    landlock: [],
    watch: [],
    load: [],
    serve: [],
  };
  for (const [index, line] of lines.entries()) {
    const words = withoutComment(line)
      .split(/[ \t]+/)
      .filter((word) => word !== "");
    if (words.length > 0) statement(draft, words, `profile line ${index + 1}`);
  }
  const { name, arch, limits, landlock, watch, load, serve } = draft;
  if (name === null) throw invalid("profile", "a line `profile NAME`", "none");
  if (arch === null) throw invalid("profile", "a line `arch x86_64`", "none");
  return { name, arch, limits, landlock, watch, load, serve };
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
    case "limit":
      draft.limits.push(limitOf(draft, rest, where));
      return;
    case "landlock":
      draft.landlock.push(landlockOf(draft, rest, where));
      return;
    case "watch":
      draft.watch.push(...rulesOf(rest, where));
      return;
    case "stage":
      draft.section = stageOf(draft, rest, where);
      return;
    case "allow":
      if (draft.section === "head")
        throw invalid(where, "`stage load` or `stage serve` before the first `allow`", "none");
      draft[draft.section].push(...rulesOf(rest, where));
      return;
    default:
      throw invalid(where, "profile, arch, limit, landlock, watch, stage or allow", keyword.slice(0, 40));
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

function nameOf(words: readonly string[], where: string): string {
  const [name = "", ...rest] = words;
  if (rest.length > 0 || !/^[a-z][a-z0-9-]{0,30}$/.test(name))
    throw invalid(where, "profile NAME (a-z, 0-9, -)", words.join(" "));
  return name;
}

function stageOf(draft: Draft, words: readonly string[], where: string): "load" | "serve" {
  const wanted = draft.section === "head" ? "load" : "serve";
  if (draft.section === "serve" || words.join(" ") !== wanted) {
    throw invalid(where, "`stage load`, then `stage serve`, each once", `stage ${words.join(" ")}`);
  }
  return wanted;
}

function limitOf(draft: Draft, words: readonly string[], where: string): Limit {
  const [resource = "", number = "", ...rest] = words;
  const value = constantValue(number);
  if (!Object.hasOwn(RESOURCES, resource) || value === undefined || !/^[0-9]/.test(number) || rest.length > 0) {
    throw invalid(where, `limit RESOURCE NUMBER (${Object.keys(RESOURCES).join(", ")})`, words.join(" "));
  }
  if (draft.limits.some((limit) => limit.resource === resource))
    throw invalid(where, `limit ${resource} once`, "twice");
  // hasOwn above proved that the word is a key
  return { resource: resource as Resource, value };
}

function landlockOf(draft: Draft, words: readonly string[], where: string): LandlockRule {
  const [access = "", path = "", ...rest] = words;
  if ((access !== "read" && access !== "write") || rest.length > 0) {
    throw invalid(where, "landlock read|write PATH", words.join(" "));
  }
  if (!isNormalPath(path)) throw invalid(where, "an absolute path without `.`, `..` or `//`", path);
  if (draft.landlock.some((rule) => rule.path === path)) throw invalid(where, `${path} once`, "twice");
  return { access, path };
}

function isNormalPath(path: string): boolean {
  if (path === "/") return true;
  return (
    path.length < 256 &&
    // No group that repeats: its class holds the slash, and a refusal would try every way to divide the path.
    /^\/[\x21-\x7e]+$/.test(path) &&
    path
      .slice(1)
      .split("/")
      .every((part) => !["", ".", ".."].includes(part))
  );
}

/** `NAME...` or `NAME when COND and COND...`, COND = `argN is|only|without VALUE|VALUE...`. */
function rulesOf(words: readonly string[], where: string): SyscallRule[] {
  const when = words.indexOf("when");
  const names = when < 0 ? words : words.slice(0, when);
  if (names.length === 0) throw invalid(where, "a system call's name", "none");
  if (when >= 0 && names.length !== 1) throw invalid(where, "one system call before `when`", `${names.length}`);
  const conditions = when < 0 ? [] : conditionsOf(words.slice(when + 1), where);
  return names.map((syscall) => {
    const nr = syscallNumber(syscall);
    if (nr === undefined) throw invalid(where, "an x86_64 system call", syscall.slice(0, 40));
    return { syscall, nr, conditions };
  });
}

function conditionsOf(words: readonly string[], where: string): Condition[] {
  const conditions: Condition[] = [];
  for (let at = 0; at < words.length || at === 0; at += 4) {
    conditions.push(conditionOf(words.slice(at, at + 3), where));
    const joint = words[at + 3];
    if (joint !== undefined && (joint !== "and" || at + 4 >= words.length))
      throw invalid(where, "`and` and another condition", joint);
  }
  if (conditions.length > 4) throw invalid(where, "at most 4 conditions", `${conditions.length}`);
  return conditions;
}

function conditionOf(words: readonly string[], where: string): Condition {
  const [register = "", test = "", values = ""] = words;
  const arg = /^arg([0-5])$/.exec(register)?.[1];
  if (arg === undefined || (test !== "is" && test !== "only" && test !== "without")) {
    throw invalid(where, "argN is|only|without VALUE, N from 0 to 5", words.join(" "));
  }
  let value = 0n;
  for (const word of values.split("|")) {
    const bits = constantValue(word);
    if (bits === undefined)
      throw invalid(where, "a number or a constant that policy/runtime/constants.ts lists", word.slice(0, 40));
    value |= bits;
  }
  return { arg: Number(arg), test, value };
}

function invalid(what: string, expected: string, got: string): PolicyError {
  return new PolicyError("ERR_PROFILE_INVALID", what, { expected, got: got.slice(0, 80) });
}
