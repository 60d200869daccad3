import { describe, expect, it } from "vitest";
import { KINDS } from "./machine/plan.ts";
import { soaked, TEN_SECONDS } from "./soaked.ts";

// In the campaign: each of the two takes more than a minute.
describe("the soak's machine", () => {
  it("I3 I4 I8 I11: every kind of fault comes and goes, and no record is lost, no PIN copied, no session left", async () => {
    const { code, seed, stderr, violations, ...told } = await soaked("--only", "machine", "--minutes", TEN_SECONDS);
    expect([code, violations]).toEqual([0, []]);
    expect(stderr).toContain(`seed ${seed}\n`);
    expect(Object.keys(told.faultsByKind).sort()).toEqual([...KINDS, "drop"].sort());
    expect(told.operations).toBeGreaterThan(KINDS.length * 10);
  }, 900_000);

  it("I4 I8: a lost record, a connection that stays and a copy of the PIN are found", async () => {
    const plants = ["record", "session", "pin"].flatMap((plant) => ["--plant", plant]);
    const { code, violations } = await soaked("--only", "machine", "--minutes", TEN_SECONDS, ...plants);
    expect(code).toBe(1);
    for (const found of [
      /^the audit log: audit log: anchored record: expected record \d+ with the anchored hash/,
      /^\S+ sha256:[0-9a-f]{64}: 1 acknowledged, 0 in the audit log$/,
      /^no machine that nobody is connected to/,
      /^agent: \d+ descriptors are left$/,
      /^PIN in process sleep \(\d+\): whole and halves 1, 1, 1$/,
    ])
      expect(violations).toContainEqual(expect.stringMatching(found));
  });
});
