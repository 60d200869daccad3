import { PolicyError } from "../errors.ts";
import { constantValue } from "./constants.ts";
import {
  ACCESS,
  type Access,
  type Condition,
  type Limit,
  OPENINGS,
  type Opening,
  RESOURCES,
  type Resource,
  type SyscallRule,
} from "./profile.ts";
import { syscallNumber } from "./syscalls.ts";

// What follows a statement's first word. `where` names the line for the error.

export function nameOf(words: readonly string[], where: string): string {
  const [name = "", ...rest] = words;
  if (rest.length > 0 || !/^[a-z][a-z0-9-]{0,30}$/.test(name))
    throw invalid(where, "NAME (a-z, 0-9, -)", words.join(" "));
  return name;
}

export function openingsOf(words: readonly string[], where: string): readonly Opening[] {
  const known = Object.keys(OPENINGS);
  if (words.length === 0 || new Set(words).size !== words.length || !words.every((word) => known.includes(word)))
    throw invalid(where, `some of ${known.join(", ")}, each once`, words.join(" "));
  // in the order of the bits, however they are written; every word was just found among the keys
  return (known as Opening[]).filter((name) => words.includes(name));
}

export function limitOf(words: readonly string[], where: string): Limit {
  const [resource = "", number = "", ...rest] = words;
  const value = constantValue(number);
  if (!Object.hasOwn(RESOURCES, resource) || value === undefined || !/^[0-9]/.test(number) || rest.length > 0) {
    throw invalid(where, `limit RESOURCE NUMBER (${Object.keys(RESOURCES).join(", ")})`, words.join(" "));
  }
  // hasOwn above proved that the word is a key
  return { resource: resource as Resource, value };
}

/** `access` is null for `landlock none PATH`. */
export interface LandlockLine {
  readonly access: Access | null;
  readonly path: string;
}

export function landlockOf(words: readonly string[], where: string): LandlockLine {
  const [word = "", path = "", ...rest] = words;
  const access = (Object.keys(ACCESS) as Access[]).find((name) => name === word) ?? null;
  if ((access === null && word !== "none") || rest.length > 0) {
    throw invalid(where, `landlock ${Object.keys(ACCESS).join("|")}|none PATH`, words.join(" "));
  }
  if (!isNormalPath(path)) throw invalid(where, "an absolute path without `.`, `..` or `//`", path);
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
export function rulesOf(words: readonly string[], where: string): SyscallRule[] {
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

/** Calls without conditions: `absent` and `unwatch` know none. */
export function callsOf(words: readonly string[], where: string): readonly SyscallRule[] {
  const rules = rulesOf(words, where);
  if (rules.some(({ conditions }) => conditions.length > 0))
    throw invalid(where, "calls without `when`", words.join(" "));
  return rules;
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
  return { arg: Number(arg), test, value, written: values };
}

export function invalid(what: string, expected: string, got: string): PolicyError {
  return new PolicyError("ERR_PROFILE_INVALID", what, { expected, got: got.slice(0, 80) });
}
