import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseListenFds, verifyClaimed } from "../../agent/scopes/listen-fds.ts";

const own = { pid: 77, first: 4 };
const parse = (count: string | undefined, names: string | undefined, pid = "77") =>
  parseListenFds({ LISTEN_PID: pid, LISTEN_FDS: count, LISTEN_FDNAMES: names }, own);

describe("inherited sockets", () => {
  it("I6: each descriptor is its name's, counted from the first one", () => {
    expect(parseListenFds({}, own)).toEqual(new Map());
    expect([...parse("2", "release-signing.sock:vault.sock")]).toEqual([
      ["release-signing", 4],
      ["vault", 5],
    ]);
  });

  it.each([
    ["another process's", "1", "a.sock", "78"],
    ["no descriptor", "0", ""],
    ["a negative count", "-1", "a.sock"],
    ["a count that is no number", "1x", "a.sock"],
    ["more than there are scopes", "65", Array.from({ length: 65 }, (_, index) => `s${index}.sock`).join(":")],
    ["fewer names than descriptors", "2", "a.sock"],
    ["more names than descriptors", "1", "a.sock:b.sock"],
    ["no names", "1", undefined],
    ["a name twice", "2", "a.sock:a.sock"],
    ["a name that is no scope's socket", "1", "unknown"],
    ["a path", "1", "../a.sock"],
  ])("I10: %s is refused", (_what, count, names, pid = "77") => {
    expect(() => parse(count, names, pid)).toThrow(/expected/);
    expect(() => parse(count, names, pid)).toThrow(expect.objectContaining({ code: "ERR_ENVIRONMENT" }));
  });

  it("I6: a socket that no scope serves is refused: its clients would wait for ever", () => {
    verifyClaimed(parse("1", "vault.sock"), ["release-signing", "vault"]);
    expect(() => verifyClaimed(parse("1", "vaults.sock"), ["vault"])).toThrow(
      'inherited socket: expected a scope of the policy, got "vaults"',
    );
  });

  it("I10: whatever the variables hold, it is descriptors of distinct scopes or a typed error", () => {
    fc.assert(
      fc.property(fc.string(), fc.string(), (count, names) => {
        try {
          const found = parse(count, names);
          expect([...found.values()]).toEqual(Array.from({ length: Number(count) }, (_, index) => 4 + index));
        } catch (error) {
          expect(error).toMatchObject({ code: "ERR_ENVIRONMENT" });
        }
      }),
    );
  });
});
