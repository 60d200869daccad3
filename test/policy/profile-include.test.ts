import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { PolicyError } from "../../policy/errors.ts";
import { compileProfile } from "../../policy/runtime/compile.ts";
import { decideAll, type FilterName, type SystemCall } from "../../policy/runtime/decide.ts";
import { parseProfile } from "../../policy/runtime/parse.ts";
import { AUDIT_ARCH_X86_64 } from "../../policy/runtime/profile.ts";
import { syscallNumber } from "../../policy/runtime/syscalls.ts";
import { profileText, readProfile } from "../../vm-images/profiles.ts";

const base = `profile base
arch x86_64
limit core 0
limit nofile 64
landlock read /
landlock write /var/lib/base
watch socket bind execve
stage load
allow read write
stage serve
allow read
`;
const texts = (name: string): string | undefined => (name === "base" ? base : undefined);
const parse = (text: string) => parseProfile(text, texts);

function call(name: string, ...args: readonly bigint[]): SystemCall {
  return {
    arch: AUDIT_ARCH_X86_64,
    nr: syscallNumber(name) ?? -1,
    args: [...args, 0n, 0n, 0n, 0n, 0n, 0n].slice(0, 6),
  };
}

describe("a profile that includes another", () => {
  test("I1: what is measured is the whole: a change of the included text changes the compiled file", () => {
    const relay = profileText("relay");
    const local = profileText("local");
    const before = compileProfile(parseProfile(relay, () => local));
    const after = compileProfile(parseProfile(relay, () => local.replace("limit nofile 64", "limit nofile 65")));
    expect(after).not.toEqual(before);
    expect(compileProfile(readProfile(relay))).toEqual(before);
  });

  test("a text that includes another equals the one text with everything in it", () => {
    const whole = parse(base.replace("profile base", "profile both"));
    expect(parse("include base\nprofile both\n")).toEqual(whole);
  });

  test("limits and paths that are stated again replace the included ones, calls are added", () => {
    const profile = parse(
      "include base\nprofile b\nlimit nofile 8\nlandlock none /var/lib/base\nlandlock device /dev\nstage both\nallow poll\nstage load\nallow brk\n",
    );
    expect(profile.limits.map(({ resource, value }) => [resource, value])).toEqual([
      ["core", 0n],
      ["nofile", 8n],
    ]);
    expect(profile.landlock).toEqual([
      { access: "read", path: "/" },
      { access: "device", path: "/dev" },
    ]);
    expect(profile.load.map(({ syscall }) => syscall)).toEqual(["read", "write", "poll", "brk"]);
    expect(profile.serve.map(({ syscall }) => syscall)).toEqual(["read", "poll"]);
  });

  test("I5: what is unwatched is denied and not shown, and a call allowed under conditions is shown otherwise", () => {
    const profile = parse(
      "include base\nprofile b\nunwatch bind\nabsent clone3\nstage both\nallow socket when arg0 is AF_INET\nstage load\nallow execve when arg0 is 7\n",
    );
    const stages: readonly (readonly FilterName[])[] = [
      ["load", "lock"],
      ["load", "lock", "serve"],
    ];
    for (const filters of stages) {
      expect(decideAll(profile, filters, call("bind"))).toBe("deny");
      expect(decideAll(profile, filters, call("clone3"))).toBe("absent");
      expect(decideAll(profile, filters, call("socket", 2n))).toBe("allow");
      expect(decideAll(profile, filters, call("socket", 16n))).toBe("notify");
    }
    // allowed in stage load alone, watched besides: the serve filter must not let it pass with the watched ones
    expect(decideAll(profile, ["load", "lock"], call("execve", 7n))).toBe("allow");
    expect(decideAll(profile, ["load", "lock", "serve"], call("execve", 7n))).toBe("deny");
    expect(decideAll(profile, ["load", "lock", "serve"], call("execve", 8n))).toBe("notify");
  });

  test.each([
    ["not the first statement", "profile b\ninclude base\n"],
    ["twice", "include base\ninclude base\n"],
    ["an unknown text", "include other\n"],
    ["a path instead of a name", "include ../base\n"],
    ["a name of Object's", "include constructor\n"],
    ["no name", "include\n"],
    ["a second machine", "include base\nprofile b\narch x86_64\narch x86_64\n"],
    ["what is not watched, unwatched", "include base\nprofile b\nunwatch read\n"],
    ["unwatch under a condition", "include base\nprofile b\nunwatch bind when arg0 is 1\n"],
    ["a path taken back that was not given", "include base\nprofile b\nlandlock none /etc\n"],
    ["stages out of order", "include base\nprofile b\nstage load\nallow brk\nstage both\n"],
    ["a stage twice", "include base\nprofile b\nstage both\nstage both\n"],
    ["an opening twice", "include base\nprofile b\nopens inet inet\n"],
    ["an opening that there is not", "include base\nprofile b\nopens vsock\n"],
    ["openings in two lines", "include base\nprofile b\nopens inet\nopens unix\n"],
    ["a profile without a name of its own", "include base\n"],
  ])("I10: %s is refused", (_what, text) => {
    expect(() => parse(text)).toThrow(PolicyError);
  });

  test("I10: an included text that includes is refused: there are two texts to read, not a chain", () => {
    const chain = (name: string): string => (name === "base" ? "include local\nprofile base\n" : profileText("local"));
    expect(() => parseProfile("include base\nprofile b\n", chain)).toThrow(/a profile that can be included/);
  });

  test("I10: an included text of another name is refused", () => {
    expect(() => parseProfile("include base\nprofile b\n", () => profileText("local"))).toThrow(
      /a text of the profile base/,
    );
  });

  test("I10: any text over any included text ends in a profile or a typed error", () => {
    const words = fc.constantFrom(
      ..."include base profile b opens inet device limit nofile 3 landlock none device / /var/lib/base watch unwatch bind absent clone3 stage both load serve allow when arg0 is AF_INET and".split(
        " ",
      ),
    );
    const lines = fc.array(
      fc.array(words, { maxLength: 6 }).map((all) => all.join(" ")),
      { maxLength: 12 },
    );
    fc.assert(
      fc.property(lines, fc.boolean(), (all, first) => {
        try {
          parse(`${first ? "include base\n" : ""}${all.join("\n")}`);
        } catch (error) {
          expect(error).toBeInstanceOf(PolicyError);
        }
      }),
      { numRuns: 2000 },
    );
  });
});
