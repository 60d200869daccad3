import { describe, expect, it } from "vitest";
import { launchEvent } from "../../attest/index.ts";
import { toHex } from "../../policy/index.ts";
import type { Setting } from "../support/appraisal.ts";
import { type Condition, findingsOf, no, other, pinnedLibrary, referenced } from "../support/appraisal-rows.ts";
import { servingEvents } from "../support/evidence-maker.ts";

const pinRows: readonly Condition[] = [
  [
    "a library of another digest than the policy's",
    no("library-not-accepted: library /usr/lib/libsofthsm2.so"),
    { policy: { libraries: [{ ...pinnedLibrary(), sha256: "11".repeat(32) }] } },
  ],
  [
    "a library under another path than the policy's",
    no("library-not-accepted: library /usr/lib/libsofthsm2.so"),
    { policy: { libraries: [{ ...pinnedLibrary(), name: "/opt/lib.so" }] } },
  ],
  [
    "an object of the closure with another digest",
    no("library-not-accepted: closure of /usr/lib/libsofthsm2.so"),
    {
      policy: {
        libraries: [
          {
            ...pinnedLibrary(),
            closure: { ...pinnedLibrary().closure, "/usr/lib/ironclaw/shim": "11".repeat(32) },
          },
        ],
      },
    },
  ],
];

const nethsm = "/usr/lib/libnethsm.so";
const ofSecond = launchEvent("closure", "/usr/lib/libcurl.so.4", other);
/** The honest machine with a second library, which shares the loader and the shim with the first. */
const twoLibraries = (...more: readonly ReturnType<typeof launchEvent>[]) =>
  servingEvents().toSpliced(9, 0, launchEvent("library", nethsm, other), ofSecond, ...more);
const sharedPin = { ...pinnedLibrary().closure };
const secondPin = { name: nethsm, sha256: toHex(other), closure: { ...sharedPin, [ofSecond.name]: toHex(other) } };
const pinned = (second: Partial<typeof secondPin>, events = twoLibraries()): Setting => ({
  scene: { events },
  policy: { libraries: [pinnedLibrary(), { ...secondPin, ...second }] },
  reference: { events: events.slice(0, 12).map(referenced) },
});
const secondRows: readonly Condition[] = [
  ["two libraries that the policy pins, with an object that both open", [], pinned({})],
  [
    "a second library that the policy does not pin",
    no(`library-not-accepted: library ${nethsm}`),
    pinned({ name: "/x" }),
  ],
  [
    "an object of the second library that only the first one's pin has not",
    no(`library-not-accepted: closure of ${nethsm}`),
    pinned({ closure: sharedPin }),
  ],
  [
    "an object of the second library's pin that neither opens",
    no(`library-not-accepted: closure of ${nethsm}`),
    pinned({ closure: { ...secondPin.closure, "/lib/x.so": "11".repeat(32) } }),
  ],
  [
    "an object of both libraries with another digest in the second one's pin",
    no(`library-not-accepted: closure of ${nethsm}`),
    pinned({ closure: { ...secondPin.closure, "/usr/lib/ironclaw/shim": "11".repeat(32) } }),
  ],
];

describe("each condition of a pin by itself", () => {
  it.each([...pinRows, ...secondRows])("I9: %s gives exactly its own findings", async (_title, findings, setting) => {
    expect(await findingsOf(setting)).toEqual(findings);
  });
});
