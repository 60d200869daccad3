import { describe, expect, it } from "vitest";
import type { ReferenceValues } from "../../attest/index.ts";
import { codesOf, judge } from "../support/appraisal.ts";
import { makeReference } from "../support/evidence-maker.ts";

const runs = makeReference();
const named = (name: string, changes: Partial<ReferenceValues> = {}): ReferenceValues => ({
  ...runs,
  name,
  ...changes,
});
const otherImage = { image: { id: "33".repeat(32), variant: "release" as const } };
const otherLibrary = {
  events: runs.events.map((event) => (event.kind === "library" ? { ...event, sha256: "44".repeat(32) } : event)),
};

describe("a fleet with several releases", () => {
  it.each([
    ["first", [named("runs"), named("next", otherLibrary)]],
    ["last", [named("next", otherLibrary), named("runs")]],
    ["between", [named("old", otherImage), named("runs"), named("next", otherLibrary)]],
  ])("I9: a machine is judged by the release that it runs, which is given %s", async (_place, references) => {
    const result = await judge({ references });
    expect([result.tier, result.release]).toEqual(["affirming", "runs"]);
  });

  it("I9: a machine that runs none of them is judged by the one that it matches best", async () => {
    const close = named("close", otherImage);
    const far = named("far", { ...otherImage, ...otherLibrary });
    for (const references of [
      [close, far],
      [far, close],
    ]) {
      const result = await judge({ references });
      expect([result.tier, result.release]).toEqual(["contraindicated", "close"]);
      expect(codesOf(result)).toEqual(["contraindicated image-id"]);
    }
  });

  it("of two that match equally the later one is named, and a current one comes before an expired one", async () => {
    expect((await judge({ references: [named("one"), named("two")] })).release).toBe("two");
    const expired = named("expired", { notAfter: "2026-02-01T00:00:00Z" });
    const result = await judge({ references: [named("current"), expired] });
    expect([result.tier, result.release]).toEqual(["affirming", "current"]);
  });

  it("I9: releases that the policy does not name are left out, and the one that runs is named in the refusal", async () => {
    const references = [named("runs"), named("next", otherLibrary)];
    const result = await judge({ references, policy: { releases: ["next"] } });
    expect(result.release).toBe("next");
    expect(codesOf(result)).toEqual(["contraindicated release-not-accepted", "contraindicated event-mismatch"]);
    expect(result.findings[0]).toMatchObject({ expected: "next", got: "runs, which it runs" });
  });

  it("I9: without an accepted release no value has a reference, and nothing agrees", async () => {
    const result = await judge({ references: [named("runs")], policy: { releases: ["another"] } });
    expect(result.release).toBeNull();
    expect(codesOf(result)).toEqual(["contraindicated release-not-accepted"]);
    expect(result.pcrs.every(({ expected }) => expected === null)).toBe(true);
    const agreeing = result.events.filter(({ agrees }) => agrees).map(({ kind }) => kind);
    expect(agreeing).toEqual(["token", "key", "cap"]);
    expect(result.events).toHaveLength(runs.events.length + 3);
  });

  it("a policy that takes any release takes each that was given, and one that names it takes it too", async () => {
    for (const releases of ["any" as const, ["test release"], ["other", "test release"]]) {
      expect((await judge({ policy: { releases } })).tier).toBe("affirming");
    }
  });
});
