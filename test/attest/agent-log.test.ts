import { describe, expect, it } from "vitest";
import { celRecord, encodeCel, parseCel, renderCelJsonLines, replayCel } from "../../attest/cel.ts";
import { encodeLaunchEvent, isLaunchEventKind, predictAgentPcr } from "../../attest/launch-events.ts";
import { type CborKey, type CborValue, decodeCbor, encodeCbor, IronclawError, toHex } from "../../policy/index.ts";
import { servingEvents } from "../support/evidence-maker.ts";

describe("the agent log", () => {
  const records = servingEvents().map((event, index) => celRecord(index, 13, event));
  const change = (index: number, key: number, value: CborValue) => {
    const log = decodeCbor(encodeCel(records)) as readonly ReadonlyMap<CborKey, CborValue>[];
    return encodeCbor(log.map((record, at) => (at === index ? new Map([...record, [key, value]]) : record)));
  };

  it.each([
    ["a gap in the numbers", 1, 0, 5],
    ["another PCR", 1, 1, 14],
    ["another content type", 1, 9, 5],
    ["no digests", 1, 3, []],
    [
      "content that is not what was hashed",
      1,
      10,
      encodeLaunchEvent({ kind: "policy", name: "other", sha256: new Uint8Array(32) }),
    ],
    [
      "an unknown kind",
      1,
      10,
      encodeCbor(
        new Map<string, CborValue>([
          ["kind", "x"],
          ["name", "x"],
          ["sha256", new Uint8Array(32)],
        ]),
      ),
    ],
    ["another field", 1, 4, 0],
  ] as const)("I9: %s is refused", (_title, index, key, value) => {
    expect(() => parseCel(change(index, key, value as CborValue))).toThrow(IronclawError);
  });

  it("the predicted agent PCR is the replayed one, in both banks", () => {
    for (const bank of ["sha256", "sha384"] as const) {
      expect(toHex(replayCel(records, bank))).toBe(toHex(predictAgentPcr(servingEvents())[bank]));
    }
  });

  it("I9: a log as long as its section may be is read, whatever its records are", () => {
    const smallest = (recnum: number) => celRecord(recnum, 13, { kind: "key", name: "", sha256: new Uint8Array(32) });
    const log = encodeCel(Array.from({ length: 6_390 }, (_, recnum) => smallest(recnum)));
    expect(log.length).toBeGreaterThan((1 << 20) - 2000);
    expect(parseCel(log)).toHaveLength(6_390);
  });

  it("is rendered one JSON record a line", () => {
    const lines = renderCelJsonLines(records)
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line) as { recnum: number; content: { kind: string } });
    expect(lines.map(({ recnum }) => recnum)).toEqual(records.map((_, index) => index));
    expect(lines.every(({ content }) => isLaunchEventKind(content.kind))).toBe(true);
  });
});
