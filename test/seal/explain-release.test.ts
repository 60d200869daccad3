import { beforeAll, describe, expect, it } from "vitest";
import type { Release } from "../../policy/index.ts";
import { compareReleases, renderChanges } from "../../seal/compare-releases.ts";
import { explainRelease, renderRelease } from "../../seal/explain-release.ts";
import { createSealKeys, DELEGATED, makeRelease, NOW, releaseDraft, type SealKeys } from "../support/seal-fixture.ts";

let keys: SealKeys;
let release: Release;

beforeAll(async () => {
  keys = await createSealKeys();
  release = await makeRelease(keys);
});

const digest = (byte: string) => byte.repeat(32);
/** Nothing here verifies signatures, so a changed copy will do. */
const changed = (change: Partial<Release>): Release => ({ ...release, ...change });
const withPcr = (pcr: number, byte: string): Release["pcrs"] => ({
  sha256: { ...release.pcrs.sha256, [pcr]: byte.repeat(32) },
  sha384: { ...release.pcrs.sha384, [pcr]: byte.repeat(48) },
});
const event = (kind: Release["events"][number]["kind"], name: string, byte: string) => ({
  ...{ kind, name },
  sha256: digest(byte),
});

describe("explaining a release", () => {
  it.each([
    ["2026-12-31T23:59:59.999Z", "not-yet-valid", /NOT YET VALID/],
    ["2027-01-01T00:00:00.000Z", "valid", /valid now/],
    ["2027-12-31T23:59:59.000Z", "valid", /valid now/],
    ["2027-12-31T23:59:59.001Z", "expired", /EXPIRED/],
  ] as const)("at %s it is %s: both ends belong to it", (time, expected, words) => {
    const explanation = explainRelease(release, new Date(time));
    expect(explanation.validity.now).toBe(expected);
    expect(renderRelease(explanation)).toMatch(words);
  });

  it.each([
    [0, null, 15, /0: unseals while the machine's epoch counter is at most 15; it ends no earlier epoch/],
    [1, 16, 31, /raises the counter to 16: releases of epoch 0 no longer unseal there, for good/],
    [3, 48, 63, /raises the counter to 48: releases of epochs 0 to 2 no longer unseal there, for good/],
  ] as const)("I2: epoch %i, raising to %s, accepts counter values up to %i", (epoch, raises, atMost, words) => {
    const explanation = explainRelease(changed({ epoch, raise: raises === null ? null : "signature" }), NOW);
    expect(explanation.epoch).toEqual({ number: epoch, counterAtMost: atMost, raisesCounterTo: raises });
    expect(renderRelease(explanation)).toMatch(words);
  });

  it("names credentials, the key with its last epoch, the policy and the library set, and tells sealed PCRs from others", async () => {
    const events = [...release.events, event("policy", "policy", "aa"), event("file", "/etc/x.conf", "bb")];
    const explanation = explainRelease(changed({ events, pcrs: withPcr(7, "cc") }), NOW);
    expect(explanation).toMatchObject({
      credentials: DELEGATED.credentials,
      policy: digest("aa"),
      releaseKey: { lastEpoch: 4, counterAtMost: 79 },
    });
    expect(explanation.librarySet.map(({ kind }) => kind)).toEqual(["library", "file"]);
    expect(explanation.measured.map(({ kind }) => kind)).toEqual(["config", "policy"]);
    expect(explanation.pcrs.filter(({ sealed }) => sealed).map(({ pcr }) => pcr)).toEqual([4, 9, 11, 12, 13]);
    const text = renderRelease(explanation);
    expect(text).toMatch(/^Only a verifier compares these:\n {2}PCR 7 {3}(?:cc){32} {2}Secure Boot state and keys$/m);
    expect(text).toMatch(/^ {2}(?:bb){32} {2}configuration file \/etc\/x\.conf$/m);
  });
});

interface Case {
  readonly what: string;
  readonly to: () => Release;
  /** Item, change, and what its consequence says. */
  readonly expected: readonly (readonly [item: string, change: string, consequence: RegExp])[];
}

const LIBRARY = "/usr/lib/softhsm/libsofthsm2.so";
const cases: readonly Case[] = [
  { what: "nothing", to: () => release, expected: [] },
  { what: "the name", to: () => changed({ name: "next" }), expected: [["name", "changed", /a name only/]] },
  {
    what: "the image, and with it PCR 4",
    to: () => changed({ image: { id: digest("12"), variant: "demo" }, pcrs: withPcr(4, "34") }),
    expected: [["image", "changed", /has to boot the new image; PCR 4 \(.*kernel image.*\) changes$/]],
  },
  {
    what: "the image's variant alone",
    to: () => changed({ image: { ...release.image, variant: "dev" } }),
    expected: [["image variant", "changed", /a verifier may refuse this variant/]],
  },
  {
    what: "a boot PCR without the image",
    to: () => changed({ pcrs: withPcr(9, "34") }),
    expected: [["PCR 9", "changed", /command line and initrd/]],
  },
  {
    what: "a PCR more, which only a verifier compares",
    to: () => changed({ pcrs: withPcr(7, "34") }),
    expected: [["PCR 7", "added", /Secure Boot/]],
  },
  {
    what: "one byte of the library",
    to: () =>
      changed({
        events: release.events.map((each) => (each.kind === "library" ? { ...each, sha256: digest("1") } : each)),
      }),
    expected: [[`library ${LIBRARY}`, "changed", /other bytes of the library run/]],
  },
  {
    what: "a file more in the closure",
    to: () => changed({ events: [...release.events, event("closure", "/lib/new.so", "56")] }),
    expected: [["closure /lib/new.so", "added", /one file more in the shim/]],
  },
  {
    what: "no library",
    to: () => changed({ events: release.events.filter(({ kind }) => kind !== "library") }),
    expected: [[`library ${LIBRARY}`, "removed", /one file less/]],
  },
  {
    what: "a policy",
    to: () => changed({ events: [...release.events, event("policy", "policy", "56")] }),
    expected: [["policy", "added", /one measurement more \(policy\)/]],
  },
  {
    what: "the order of measurement alone",
    to: () => changed({ events: release.events.toReversed(), pcrs: withPcr(13, "78") }),
    expected: [["order of measurement", "changed", /PCR 13 changes/]],
  },
  {
    what: "the epoch, raised",
    to: () => changed({ epoch: 3, raise: "signature" }),
    expected: [
      [
        "epoch",
        "changed",
        /once the new release has served .* the old one no longer unseals there, for good: .* 48 or above/,
      ],
      ["raise", "changed", /releases of epochs below 3 no longer unseal/],
    ],
  },
  {
    what: "the epoch, without raising it",
    to: () => changed({ epoch: 2 }),
    expected: [["epoch", "changed", /the old release goes on unsealing/]],
  },
  {
    what: "a lower epoch",
    to: () => changed({ epoch: 0 }),
    expected: [["epoch", "changed", /does not unseal on a machine whose counter has reached 16/]],
  },
  {
    what: "a later end",
    to: () => changed({ notAfter: "2029-01-01T00:00:00Z" }),
    expected: [["notAfter", "changed", /ends later/]],
  },
  {
    what: "an earlier end and a later start",
    to: () => changed({ notBefore: "2027-02-01T00:00:00Z", notAfter: "2027-03-01T00:00:00Z" }),
    expected: [
      ["notBefore", "changed", /before that time/],
      ["notAfter", "changed", /ends earlier/],
    ],
  },
  {
    what: "the release key",
    to: () => changed({ releaseKey: keys.operator.spkiPem }),
    expected: [["release key", "changed", /no credential is sealed again/]],
  },
  {
    what: "the last epoch of the key",
    to: () => changed({ delegation: { ...release.delegation, lastEpoch: 9 } }),
    expected: [["last epoch of the release key", "changed", /once a machine's counter is past 159/]],
  },
  {
    what: "one credential for another",
    to: () => changed({ delegation: { ...release.delegation, credentials: [{ name: "state", signature: "" }] } }),
    expected: [
      ["credential state", "added", /the new release unseals it/],
      ["credential hsm-pin", "removed", /stays sealed under the new release/],
    ],
  },
];

describe("comparing two releases", () => {
  it.each(cases)("I2: $what: every item is named once, with what follows from it", ({ to, expected }) => {
    const changes = compareReleases(release, to());
    expect(changes.map(({ item, change }) => [item, change])).toEqual(expected.map(([item, change]) => [item, change]));
    for (const [index, [, , consequence]] of expected.entries())
      expect(changes[index]?.consequence).toMatch(consequence);
  });

  it.each(cases)("$what, the other way round: the same items, added and removed exchanged", ({ to }) => {
    const forward = compareReleases(release, to());
    const back = compareReleases(to(), release);
    const key = ({ item, from, to: next }: (typeof back)[number]) => `${item}: ${[from, next].sort().join()}`;
    expect(back.map(key).sort()).toEqual(forward.map(key).sort());
  });

  it("a difference in the second bank alone is one", () => {
    const pcrs = { ...release.pcrs, sha384: withPcr(9, "99").sha384 };
    expect(compareReleases(release, changed({ pcrs }))).toMatchObject([{ item: "PCR 9", to: "99".repeat(48) }]);
  });

  it("says in words that there is none, and keeps each line its own", async () => {
    expect(renderChanges("a", "b", [])).toMatch(/no difference; they unseal the same credentials/);
    const forged = await makeRelease(keys, { ...releaseDraft(), name: "x\nepoch: changed" });
    expect(renderChanges("a", "b", compareReleases(release, forged))).not.toMatch(/^epoch: changed/m);
    expect(renderRelease(explainRelease(forged, NOW))).not.toMatch(/^epoch: changed/m);
  });
});
