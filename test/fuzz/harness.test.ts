import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { replaceRange } from "./mutate.ts";
import { fuzzTarget } from "./supervise.ts";

const planted = (name: string, runs: number, corpus: readonly Uint8Array[] = [], timeLimit = 10_000) =>
  fuzzTarget(
    { name, kind: "javascript", path: join(import.meta.dirname, "planted", `${name}.ts`) },
    { seed: 1, budget: { runs, milliseconds: 60_000 }, corpus, timeLimit },
  );

describe("the fuzzer", () => {
  test("I10: an error behind six bytes that must be right is found, and its input made as small as it gets", async () => {
    const { findings } = await planted("magic", 60_000);
    expect(findings).toEqual([
      {
        what: "Error: planted",
        detail: expect.stringContaining("planted"),
        input: Uint8Array.of(0xc3, 0x17, 0x5a, 0xe1, 0x06, 0x9d),
      },
    ]);
  });

  test("I10: a loop without progress is found and does not stop the run", async () => {
    const { findings, runs } = await planted("hang", 2000, [Uint8Array.of(1, 2, 0x40, 4)], 1000);
    expect(findings).toEqual([{ what: "time limit", detail: expect.any(String), input: Uint8Array.of(0x40) }]);
    expect(runs).toBeGreaterThan(1);
  });

  test("I10: a run that waits for ever is found", async () => {
    const { findings } = await planted("idle", 2000, [Uint8Array.of(0x40)], 200);
    expect(findings).toEqual([{ what: "time limit", detail: "one run does not end", input: Uint8Array.of(0x40) }]);
  });

  test("I10: an input that takes memory by what it says is found", async () => {
    const { findings } = await planted("hoard", 10, [Uint8Array.of(0x7f, 1, 2, 3)]);
    expect(findings.map(({ what, input }) => [what, input[0]])).toEqual([["memory limit", 0x7f]]);
  });

  test("I10: an input that takes memory without end is found", async () => {
    const { findings } = await planted("endless", 10, [Uint8Array.of(0x21, 1)], 4000);
    expect(findings.map(({ what }) => what)).toEqual([expect.stringMatching(/^(?:memory|time) limit$/)]);
  });

  test("I10: accepted bytes that encode to others are found", async () => {
    const { findings } = await planted("unequal", 2000);
    expect(findings.map(({ what }) => what)).toEqual(["BrokenProperty: toy: accepted bytes encode to others"]);
  });

  test("I10: a length that a C parser believes is found by what each input passes", async () => {
    const target = { name: "overflow", kind: "native", path: join(import.meta.dirname, "planted/overflow.c") } as const;
    const budget = { runs: 100_000, milliseconds: 60_000 };
    const { findings } = await fuzzTarget(target, { seed: 1, budget, corpus: [], timeLimit: 10_000 });
    expect(findings.map(({ what, input }) => [what, [...input.subarray(0, 3)]])).toEqual([
      [expect.stringContaining("heap-buffer-overflow"), [0x49, 0x43, 0x7e]],
    ]);
  });

  test("the same seed gives the same run", async () => {
    const [first, second] = [await planted("magic", 5000), await planted("magic", 5000)];
    expect({ ...first, milliseconds: 0 }).toEqual({ ...second, milliseconds: 0 });
  });

  test("a range is replaced in place, at the end and beyond it", () => {
    const bytes = Uint8Array.of(1, 2, 3);
    expect(replaceRange(bytes, 1, 1, Uint8Array.of(9, 9))).toEqual(Uint8Array.of(1, 9, 9, 3));
    expect(replaceRange(bytes, 3, 4, Uint8Array.of(4))).toEqual(Uint8Array.of(1, 2, 3, 4));
  });
});
