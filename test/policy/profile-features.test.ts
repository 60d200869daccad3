import fc from "fast-check";
import { expect, test } from "vitest";
import { missingFeatures, SANDBOX_FEATURES } from "../../policy/runtime/features.ts";

test.each([
  [1, ["landlock-truncate", "landlock-tcp", "landlock-ioctl-dev", "landlock-scope"]],
  [2, ["landlock-truncate", "landlock-tcp", "landlock-ioctl-dev", "landlock-scope"]],
  [3, ["landlock-tcp", "landlock-ioctl-dev", "landlock-scope"]],
  [4, ["landlock-ioctl-dev", "landlock-scope"]],
  [5, ["landlock-scope"]],
  [6, []],
  [7, []],
])("I5: a kernel with Landlock ABI %i lacks %j", (abi, lacks) => {
  expect(missingFeatures(abi)).toEqual(lacks);
});

test("I5: a number that is no ABI counts as a kernel that has nothing", () => {
  for (const abi of [0, -1, Number.NaN]) expect(missingFeatures(abi)).toHaveLength(SANDBOX_FEATURES.length);
});

test("I5: a newer ABI never lacks what an older one has", () => {
  fc.assert(
    fc.property(fc.nat({ max: 20 }), fc.nat({ max: 20 }), (one, other) => {
      const older = missingFeatures(Math.min(one, other));
      for (const name of missingFeatures(Math.max(one, other))) expect(older).toContain(name);
    }),
  );
});

test("each feature says what is lost without it and what remains", () => {
  expect(new Set(SANDBOX_FEATURES.map(({ name }) => name)).size).toBe(SANDBOX_FEATURES.length);
  for (const { loss, remains } of SANDBOX_FEATURES) {
    expect(loss).toMatch(/^(TCP|[a-z]).{20,}[^.]$/);
    expect(remains).toMatch(/^[a-z].{20,}[^.]$/);
  }
});
