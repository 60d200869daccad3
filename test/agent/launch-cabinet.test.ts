import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { encodeAnchors, encodeBundle, fromBase64, type SlotName, sha256Hex, utf8 } from "../../policy/index.ts";
import { parseSealedPackage, signSealedPackage } from "../../seal/package.ts";
import { type LaunchChecks, openLaunchChecks, reasonOf, reasonsOf } from "../support/launch-checks.ts";
import { bundle, type LaunchBench, type Provisioned } from "../support/launch-fixture.ts";
import { createSealKeys } from "../support/seal-fixture.ts";

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

describe("documents of the cabinet", () => {
  const CHECKED: readonly SlotName[] = ["policy", "anchors", "release", "sealed", "module", "machine"];

  test.each(CHECKED)("I10: a damaged %s slot is refused with a typed reason that names it", async (slot) => {
    const content = provisioned.slots.get(slot) ?? new Uint8Array();
    const damage = (cabinet: Uint8Array) => {
      const at = Buffer.from(cabinet).indexOf(content, 4096);
      return cabinet.map((byte, index) => (index === at + 5 ? byte ^ 0x20 : byte));
    };
    await using booted = await boot({ cabinet: damage });
    expect(reasonOf(booted, "ERR_CABINET_CHECKSUM", slot)).toMatchObject({ expected: sha256Hex(content) });
    await expectRefused(booted);
  });

  test.each(["policy", "anchors"] satisfies SlotName[])(
    "I10: an empty %s slot is refused with a typed reason that names it",
    async (slot) => {
      await using booted = await boot({ slots: (slots) => void slots.delete(slot) });
      expect(reasonOf(booted, "ERR_ENVIRONMENT", slot)).toMatchObject({ expected: "a document", got: "an empty slot" });
      await expectRefused(booted);
    },
  );

  test.each<[SlotName, string, string]>([
    ["release", "release-missing", "release"],
    ["sealed", "credential-missing", "hsm-pin"],
  ])("I2: an empty %s slot, and one with a bundle of nothing, is refused as %s", async (slot, code, item) => {
    const machine = await bench.provision(); // what a store has kept of a package would do in its place
    for (const content of [null, encodeBundle([])]) {
      const slots = (all: Map<SlotName, Uint8Array>) => void (content ? all.set(slot, content) : all.delete(slot));
      await using booted = await boot({ slots }, machine);
      expect(reasonOf(booted, code, item)).toBeDefined();
      expect(reasonOf(booted, "tpm-would-release")).toBeUndefined();
      await expectRefused(booted, machine);
    }
  });

  test.each<[SlotName, string]>([
    ["policy", "ERR_POLICY_MALFORMED"],
    ["anchors", "ERR_POLICY_MALFORMED"],
    ["release", "ERR_BYTES_TRUNCATED"],
    ["sealed", "ERR_BYTES_TRUNCATED"],
    ["module", "ERR_BYTES_TRUNCATED"],
    ["machine", "ERR_POLICY_MALFORMED"],
  ])("I10: a %s document that was cut short is refused as %s", async (slot, code) => {
    const cut = (slots: Map<SlotName, Uint8Array>) =>
      slots.set(slot, (slots.get(slot) ?? new Uint8Array()).slice(0, -3));
    await using booted = await boot({ slots: cut });
    expect(reasonOf(booted, code, slot)).toBeDefined();
    await expectRefused(booted);
  });

  test.each(["objectPublic", "duplicate", "encryptedSeed"] as const)(
    "I10: a signed package whose %s is one byte short is refused before the TPM sees it",
    async (field) => {
      const { keys } = bench;
      const envelope = JSON.parse(new TextDecoder().decode(provisioned.packages.get("hsm-pin"))) as { payload: string };
      const sealed = parseSealedPackage(fromBase64(envelope.payload, "payload"), keys.root.spkiPem);
      const short = await signSealedPackage({ ...sealed, [field]: sealed[field].slice(0, -1) }, keys.operator);
      const machine = await bench.provision(); // one that has kept no copy of the package
      await using booted = await boot({ slots: (slots) => void slots.set("sealed", bundle(short)) }, machine);
      expect(reasonOf(booted, "blob-damaged", "/0.json")?.got).toContain(field);
      expect(booted.commands.some(({ client }) => client === "unsealer")).toBe(false);
      await expectRefused(booted, machine);
    },
  );

  test("I10: every document broken at once gives a reason for each", async () => {
    await using booted = await boot({ slots: (slots) => CHECKED.forEach((slot) => void slots.set(slot, utf8("{"))) });
    const items = new Set(reasonsOf(booted).map(({ item }) => item));
    // Release and package hang from the anchors: without these nothing can be said about them.
    expect([...items].sort()).toEqual(["anchors", "machine", "module", "policy"]);
    expect(reasonsOf(booted).map(({ code }) => code)).not.toContain("ERR_UNEXPECTED");
    await expectRefused(booted);
  });

  test("I2: foreign anchors refuse release and package together", async () => {
    const anchors = encodeAnchors((await createSealKeys()).anchors);
    await using booted = await boot({ slots: (slots) => void slots.set("anchors", anchors) });
    expect(reasonOf(booted, "release-not-trusted", "/0.json")).toBeDefined();
    expect(reasonOf(booted, "blob-damaged", "/0.json")).toBeDefined();
    await expectRefused(booted);
  });
});
