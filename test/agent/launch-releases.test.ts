import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { toHex, utf8 } from "../../policy/index.ts";
import { readEpoch } from "../../seal/epoch.ts";
import type { ReleaseDraft } from "../../seal/index.ts";
import { asked, type LaunchChecks, openLaunchChecks, reasonOf, reasonsOf } from "../support/launch-checks.ts";
import { benchDraft } from "../support/launch-documents.ts";
import {
  afresh,
  type Boot,
  type BootOptions,
  bundle,
  type LaunchBench,
  type Provisioned,
  withTpm,
} from "../support/launch-fixture.ts";
import { createSealKeys, DELEGATED, type SealKeys, signedRelease } from "../support/seal-fixture.ts";
import { TPM_CC } from "../support/tpm-bus.ts";

let checks: LaunchChecks;
let bench: LaunchBench;
let provisioned: Provisioned;
beforeAll(async () => {
  checks = await openLaunchChecks();
  ({ bench, provisioned } = checks);
});
afterAll(() => bench[Symbol.asyncDispose]());

const boot: LaunchChecks["boot"] = (...args) => checks.boot(...args);
const expectRefused: LaunchChecks["expectRefused"] = (...args) => checks.expectRefused(...args);

const releases = (...documents: readonly Uint8Array[]): BootOptions => ({
  slots: (slots) => void slots.set("release", bundle(...documents)),
});

/** A release of the bench's machine, with changes. */
function signed(
  change: (draft: ReleaseDraft) => ReleaseDraft = (draft) => draft,
  delegated: Partial<typeof DELEGATED> = {},
  keys: SealKeys = bench.keys,
): Promise<Uint8Array> {
  return signedRelease(keys, change(benchDraft(provisioned.events)), { ...DELEGATED, ...delegated });
}

const named = (name: string) => (draft: ReleaseDraft) => ({ ...draft, name });
/** As if the image's initrd were another one. */
const otherImage = (draft: ReleaseDraft): ReleaseDraft => ({
  ...draft,
  name: "other-image",
  pcrs: { ...draft.pcrs, sha256: { ...draft.pcrs.sha256, 9: "9a".repeat(32) } },
});
const codesOf = (booted: Boot) => reasonsOf(booted).map(({ code }) => code);

describe("several releases at once", () => {
  test("I2: the old and the new release stand side by side, and either machine state unseals under its own", async () => {
    const next = await bench.provision({
      on: provisioned,
      policy: (draft) => {
        draft.serial = 2;
      },
      draft: named("bench-2"),
    });
    const both = releases(provisioned.releaseBytes, next.releaseBytes);
    const turned = releases(next.releaseBytes, provisioned.releaseBytes);
    for (const order of [both, turned]) {
      await using before = await boot(order);
      expect([before.record.state.kind, before.record.release?.name]).toEqual(["serving", "bench-1"]);
      const updated = { ...next, packages: provisioned.packages };
      const withOldPackage: BootOptions = {
        slots: (slots) => {
          order.slots?.(slots);
          slots.set("sealed", provisioned.slots.get("sealed") ?? new Uint8Array());
        },
      };
      await using after = await boot(withOldPackage, updated);
      expect([after.record.state.kind, after.record.release?.name]).toEqual(["serving", "bench-2"]);
      await checks.expectClosed(updated);
    }
  });

  test("I2: with none that fits, the reasons are about the one that was nearest, whatever their order", async () => {
    const near = await signed(otherImage);
    const far = await signed((draft) => ({
      ...otherImage(draft),
      name: "far",
      pcrs: { ...draft.pcrs, sha256: { ...draft.pcrs.sha256, 4: "4a".repeat(32), 9: "9b".repeat(32) } },
    }));
    for (const order of [releases(near, far), releases(far, near)]) {
      await using booted = await boot(order);
      expect(reasonsOf(booted)).toEqual([
        expect.objectContaining({ code: "pcr-changed", item: "PCR 9 (sha256)", expected: "9a".repeat(32) }),
      ]);
      expect(booted.record.release?.name).toBe("other-image");
      await expectRefused(booted);
    }
  });

  test("I2: what was measured says which release it is, also when another one would be in date", async () => {
    const expired = await signed((draft) => ({
      ...draft,
      name: "expired",
      notAfter: "2020-12-31T00:00:00Z",
      notBefore: "2020-01-01T00:00:00Z",
    }));
    await using booted = await boot(releases(await signed(otherImage), expired));
    expect(reasonsOf(booted)).toEqual([expect.objectContaining({ code: "release-expired", item: "release expired" })]);
    await expectRefused(booted);
  });

  test("I2: of two with the same measurements the one in date serves", async () => {
    const expired = await signed((draft) => ({
      ...draft,
      name: "expired",
      notAfter: "2020-12-31T00:00:00Z",
      notBefore: "2020-01-01T00:00:00Z",
    }));
    await using booted = await boot(releases(expired, await signed(named("renewed"))));
    expect([booted.record.state.kind, booted.record.release?.name]).toEqual(["serving", "renewed"]);
  });

  const good = () => provisioned.releaseBytes;
  const foreign = async () => signed(named("foreign"), {}, await createSealKeys());
  const cut = async () => (await signed()).slice(0, -7);
  test.each([
    ["one that was cut short", cut],
    ["one under another root", foreign],
    ["something else", async () => utf8("not a release")],
  ])("I10: %s beside a good release does no harm", async (_, bad) => {
    await using booted = await boot(releases(await bad(), good()));
    expect(booted.record.state.kind).toBe("serving");
  });

  test.each([
    ["release-malformed", cut],
    ["release-not-trusted", foreign],
  ])("I2: with no other, it is refused as %s", async (code, bad) => {
    await using booted = await boot(releases(await bad()), afresh(provisioned));
    expect(codesOf(booted)).toEqual([code]);
    expect(booted.calls).toEqual([]);
    expect(booted.commands.some(({ client }) => client === "unsealer")).toBe(false);
    await expectRefused(booted);
  });

  test("I2: with several bad ones each is named", async () => {
    await using booted = await boot(releases(await cut(), await foreign()));
    expect(reasonsOf(booted).map(({ code, item }) => `${code} ${item}`)).toEqual([
      "release-malformed /0.json",
      "release-not-trusted /1.json",
    ]);
    await expectRefused(booted);
  });
});

describe("a release that does not hold now", () => {
  test.each([
    ["release-expired", "2020-01-01T00:00:00Z", "2020-12-31T00:00:00Z"],
    ["release-not-yet-valid", "2120-01-01T00:00:00Z", "2120-12-31T00:00:00Z"],
  ])("I2: is refused as %s, and the TPM, which knows no dates, is not asked", async (code, notBefore, notAfter) => {
    await using booted = await boot(releases(await signed((draft) => ({ ...draft, notBefore, notAfter }))));
    expect(codesOf(booted)).toEqual([code]);
    expect(asked(booted, TPM_CC.unseal)).toBe(0);
    expect(booted.calls).not.toContain("startShim");
    await expectRefused(booted);
  });

  test("I2: both ends belong to it, to the second", async () => {
    const [notBefore, notAfter] = ["2026-06-01T00:00:00Z", "2026-06-30T23:59:59Z"];
    const document = releases(await signed((draft) => ({ ...draft, notBefore, notAfter })));
    const kindAt = async (time: string, offset: number) => {
      await using booted = await boot({ ...document, now: Date.parse(time) + offset });
      return booted.record.state.kind;
    };
    expect(await kindAt(notBefore, 0)).toBe("serving");
    expect(await kindAt(notAfter, 0)).toBe("serving");
    expect(await kindAt(notBefore, -1)).toBe("refused");
    expect(await kindAt(notAfter, 1)).toBe("refused");
  });

  test("I2: one whose key the root has not delegated for the credential is refused as credential-not-delegated", async () => {
    const other = await signed(named("of-others"), { credentials: ["tls-key"] });
    await using booted = await boot(releases(other));
    expect(reasonsOf(booted)).toEqual([
      { code: "credential-not-delegated", item: "hsm-pin", expected: "one of tls-key", got: "hsm-pin" },
    ]);
    expect(asked(booted, TPM_CC.unseal)).toBe(0);
    await expectRefused(booted);
  });
});

// The counter only ever rises, so these come last, in this order, on this bench's TPM.
describe("the epoch", () => {
  const counter = () =>
    withTpm(bench.bus, async ({ tss }) => {
      const epoch = await readEpoch(tss);
      return epoch.kind === "present" ? epoch.value : null;
    });
  const raising = (epoch: number, delegated: Partial<typeof DELEGATED> = {}) =>
    signed((draft) => ({ ...draft, name: `epoch-${epoch}`, epoch, raise: true }), delegated);

  test("I2: a release with raise that does not come to serve raises nothing", async () => {
    const before = await counter();
    const document = releases(await raising(2));
    await using refused = await boot({ ...document, devices: [] });
    expect(refused.record.state.kind).toBe("refused");
    await using killed = await boot({ ...document, killShimAt: "sign" });
    expect(killed.record.state.kind).toBe("refused");
    expect(asked(refused, TPM_CC.nvIncrement) + asked(killed, TPM_CC.nvIncrement)).toBe(0);
    expect(await counter()).toBe(before);
  });

  test("I2: a launch that serves has raised nothing before it serves", async () => {
    const before = await counter();
    await using booted = await boot({ ...releases(await raising(2)), settle: false });
    expect(booted.record.state.kind).toBe("serving");
    expect(await counter()).toBe(before);
  });

  test("I2: of two with the same measurements the later serves, or the one that raises, in whichever order they lie there", async () => {
    const settle = false;
    const plain = await signed((draft) => ({ ...draft, name: "plain", epoch: 2 }));
    for (const [other, wanted] of [
      [provisioned.releaseBytes, plain],
      [plain, await raising(2)],
    ] as const) {
      const name = wanted === plain ? "plain" : "epoch-2";
      for (const order of [releases(other, wanted), releases(wanted, other)]) {
        await using booted = await boot({ ...order, settle });
        expect([booted.record.state.kind, booted.record.release?.name]).toEqual(["serving", name]);
      }
    }
  });

  test("I2 I11: a raise that breaks off is said, serves all the same, and is made up for by the next boot", async () => {
    const document = releases(await raising(2));
    let increments = 0;
    const fault: BootOptions["fault"] = ({ code }) =>
      code === TPM_CC.nvIncrement && ++increments > 3 ? "refuse" : null;
    await using booted = await boot({ ...document, fault });
    expect(booted.record.state.kind).toBe("serving");
    expect(booted.settled).toEqual([expect.objectContaining({ code: "ERR_SEAL_TPM", item: "epoch" })]);
    expect(await counter()).toBeLessThan(32n);
    await using again = await boot(document);
    expect([again.record.state.kind, again.settled]).toEqual(["serving", []]);
    expect(await counter()).toBe(32n);
  });

  test("I2: once a release with raise has served, the earlier one is refused by the TPM and named release-revoked", async () => {
    await using booted = await boot(releases(provisioned.releaseBytes));
    expect(reasonsOf(booted)).toEqual([
      {
        ...{ code: "release-revoked", item: "release bench-1" },
        ...{ expected: "epoch counter at most 31", got: "32" },
      },
    ]);
    expect(booted.record.answers).toEqual([
      expect.objectContaining({ command: "TPM2_PolicyNV", rc: "0x00000126" }),
      expect.objectContaining({ command: "TPM2_Unseal" }),
    ]);
    await expectRefusedByEpoch(booted);
  });

  test("I2: with the release of the present epoch beside it, that one serves", async () => {
    await using booted = await boot(
      releases(provisioned.releaseBytes, await signed((draft) => ({ ...draft, epoch: 2 }))),
    );
    expect(booted.record.state.kind).toBe("serving");
  });

  test("I2: the counter at its place is not raised again", async () => {
    await using booted = await boot(releases(await raising(2)));
    expect(booted.settled).toEqual([]);
    expect(await counter()).toBe(32n);
  });

  test("I2: a key that was delegated for earlier epochs only is named release-key-revoked", async () => {
    await using booted = await boot(releases(await signed((draft) => draft, { lastEpoch: 1 })));
    expect(codesOf(booted).sort()).toEqual(["release-key-revoked", "release-revoked"]);
    expect(reasonOf(booted, "release-key-revoked")).toMatchObject({ got: "32" });
    await expectRefusedByEpoch(booted);
  });

  /** As `expectRefused`; root's own attempt fails at the counter, with the right PCR values or the wrong ones. */
  async function expectRefusedByEpoch(booted: Boot): Promise<void> {
    expect(booted.launched).toBeNull();
    expect(booted.record.state.kind).toBe("refused");
    const { answer, received } = await bench.attack(provisioned);
    expect(answer.kind).toBe("refused");
    expect(toHex(received)).toBe("");
    await bench.powerOn();
    const fresh = await bench.attack(provisioned);
    expect(fresh.answer).toMatchObject({ kind: "refused" });
    expect(toHex(fresh.received)).toBe("");
  }
});
