import { describe, expect, test } from "vitest";
import { explainProfile } from "../../policy/runtime/explain.ts";
import { ALWAYS, GROUPS } from "../../policy/runtime/explain-words.ts";
import { parseProfile } from "../../policy/runtime/parse.ts";
import { OPENINGS, type Opening } from "../../policy/runtime/profile.ts";
import { syscallNumber } from "../../policy/runtime/syscalls.ts";
import { PROFILE_NAMES, profileText, readProfile } from "../../vm-images/profiles.ts";

const shipped = PROFILE_NAMES.map((name) => {
  const profile = readProfile(profileText(name));
  return { name, profile, text: explainProfile(profile) };
});

/** The lines from one title to the next. */
function section(text: string, title: string): string {
  const start = text.indexOf(`\n${title}`);
  expect(start, title).toBeGreaterThan(0);
  const end = text.indexOf("\n\n", start);
  return text.slice(start, end < 0 ? undefined : end);
}

describe("what a profile permits, in words", () => {
  test.each(shipped)("every call, condition, path and limit of $name is in its explanation", ({ profile, text }) => {
    const calls = section(text, "Calls, by what they are for");
    for (const { syscall, conditions } of [...profile.load, ...profile.serve]) {
      expect(calls).toMatch(new RegExp(`\\b${syscall}\\b`));
      for (const { written } of conditions) expect(calls).toContain(written);
    }
    const shown = section(text, "Denied and shown to the agent");
    for (const { syscall } of profile.watch) expect(shown).toMatch(new RegExp(`\\b${syscall}\\b`));
    const quiet = section(text, "Denied and not shown");
    for (const { syscall } of profile.absent) expect(quiet).toContain(`${syscall}: ENOSYS`);
    const files = section(text, "Files");
    for (const { path } of profile.landlock) expect(files).toContain(`below ${path}: `);
    const limits = section(text, "Limits");
    for (const { resource, value } of profile.limits) expect(limits).toContain(`${resource} ${value}: `);
  });

  test.each(shipped)("every call of $name has a purpose: none is among the others", ({ text }) => {
    expect(text).not.toContain("\n  to other\n");
  });

  test.each(shipped)("$name: what no longer works after ARM is said once more, all of it", ({ profile, text }) => {
    const taken = section(text, "What ARM takes away");
    const serve = new Set(profile.serve.map(({ syscall }) => syscall));
    for (const { syscall } of profile.load)
      if (!serve.has(syscall)) expect(taken).toMatch(new RegExp(`\\b${syscall}\\b`));
    for (const name of ["openat", "mmap", "mprotect"]) expect(taken).toMatch(new RegExp(`narrower: .*\\b${name}\\b`));
  });

  test.each(shipped)("$name: exceptions stand first and say what still stands in the way", ({ profile, text }) => {
    const [, first = ""] = text.split("\n\n");
    if (profile.opens.length === 0) expect(first).toMatch(/^Exceptions\n {2}none: /);
    else expect(first).toMatch(/^EXCEPTIONS: /);
    for (const opening of Object.keys(OPENINGS) as Opening[])
      expect(first.includes(`\n  ${opening}: `), opening).toBe(profile.opens.includes(opening));
    expect(first.split("Still in the way: ").length - 1).toBe(profile.opens.length);
  });

  test.each(shipped)(
    "I5: $name: which denied attempts are not counted is said where they are opened",
    ({ profile, text }) => {
      const [, first = ""] = text.split("\n\n");
      const unseen = first.split("Not shown: an attempt ").length - 1;
      expect(unseen).toBe(profile.opens.filter((opening) => opening === "thread" || opening === "device").length);
      expect(text.includes("Denied and shown to the agent, each time")).toBe(unseen === 0);
    },
  );

  test.each(shipped)("$name: identity, namespaces and that nothing is executed are always said", ({ text }) => {
    for (const line of ALWAYS) expect(text).toContain(line);
    expect(section(text, "Execution")).toContain("nothing is executed");
  });

  test.each(shipped)("the explanation of $name has no line too long to read", ({ text }) => {
    for (const line of text.split("\n")) expect(line.length, line).toBeLessThan(180);
  });

  test("a call that is allowed under conditions and watched is shown otherwise", () => {
    const relay = shipped.find(({ name }) => name === "relay")?.text ?? "";
    const shown = section(relay, "Denied and shown to the agent");
    expect(shown).toContain("socket otherwise");
    expect(shown).toContain("clone otherwise");
    expect(shown).not.toMatch(/\bbind\b|\bconnect\b|\bclone3\b/);
  });

  test("a profile of somebody else, with calls that no group names, is explained as well", () => {
    const text = explainProfile(
      parseProfile("profile a\narch x86_64\nstage load\nallow chmod when arg1 only 0x1ff\nallow sync\n"),
    );
    expect(text).toContain("\n  to other\n    until ARM only: sync\n    chmod, until ARM only:\n");
    expect(text).toContain("argument 1 has nothing but 0x1ff");
  });

  test("groups name existing calls, each once", () => {
    const calls = GROUPS.flatMap(({ calls: list }) => list.split(" "));
    expect(new Set(calls).size).toBe(calls.length);
    for (const name of calls) expect(syscallNumber(name), name).toBeDefined();
  });
});
