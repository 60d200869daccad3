import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { ekProfiles } from "../../attest/index.ts";
import {
  FREEZE_INDEX,
  memoryMedium,
  provisionEpoch,
  provisionRecords,
  replaceFreeze,
  STORE_BYTES,
  Store,
  type StoreContent,
  type StoreMedium,
  setFreeze,
} from "../../seal/index.ts";
import { attestationKeyTemplate } from "../../seal/tpm-templates.ts";
import { asked, type LaunchChecks, openLaunchChecks, reasonsOf } from "../support/launch-checks.ts";
import { damagedPackage, wrongSignature } from "../support/launch-documents.ts";
import {
  afresh,
  type Boot,
  type BootOptions,
  bundle,
  type LaunchBench,
  type Provisioned,
  withTpm,
} from "../support/launch-fixture.ts";
import { readEkCertificate, tpmTool } from "../support/seal-fixture.ts";
import { startSwtpm } from "../support/swtpm.ts";
import { TPM_CC } from "../support/tpm-bus.ts";

// What a machine keeps from boot to boot, and what a TPM that has changed meanwhile means for it.

let checks: LaunchChecks;
let bench: LaunchBench;
let provisioned: Provisioned;
beforeAll(async () => {
  checks = await openLaunchChecks();
  ({ bench, provisioned } = checks);
});
afterAll(() => bench[Symbol.asyncDispose]());

async function launchOn(machine: Provisioned, options: BootOptions = {}): Promise<Boot> {
  const booted = await checks.boot(options, machine);
  await booted[Symbol.asyncDispose]();
  return booted;
}
const kindOf = ({ record }: Boot) => record.state.kind;
const codesOf = (booted: Boot) => reasonsOf(booted).map(({ code }) => code);
const imports = (booted: Boot) => asked(booted, TPM_CC.import);
const contentOf = (medium: StoreMedium) => Store.open(medium).store.content;
const write = (medium: StoreMedium, content: StoreContent) => Store.open(medium).store.write(content);
const packages = (...documents: readonly Uint8Array[]): BootOptions => ({
  slots: (slots) => void slots.set("sealed", bundle(...documents)),
});
const packageOf = (machine: Provisioned) => machine.packages.get("hsm-pin") ?? new Uint8Array();

/** A machine that has served once. */
async function served(): Promise<Provisioned> {
  const machine = afresh(provisioned);
  const booted = await launchOn(machine);
  expect([kindOf(booted), imports(booted), booted.settled]).toEqual(["serving", 1, []]);
  return machine;
}

describe("the import", () => {
  test("I11: is made once, and kept: no later boot issues TPM2_Import", async () => {
    const machine = await served();
    for (let later = 0; later < 3; later++) {
      const booted = await launchOn(machine);
      expect([kindOf(booted), imports(booted)]).toEqual(["serving", 0]);
    }
    expect(contentOf(machine.identity.store)).toMatchObject({
      ekName: expect.stringMatching(/^000c/),
      entries: [{ name: "hsm-pin", generation: 1, state: "served", imported: expect.any(Uint8Array) }],
    });
  });

  test("I11: is kept as pending by a launch that was refused, and used by the next", async () => {
    const machine = afresh(provisioned);
    const refused = await launchOn(machine, { devices: [] });
    expect([kindOf(refused), imports(refused)]).toEqual(["refused", 1]);
    expect(contentOf(machine.identity.store)).toMatchObject({ ekName: null, entries: [{ state: "pending" }] });
    const next = await launchOn(machine);
    expect([kindOf(next), imports(next)]).toEqual(["serving", 0]);
  });

  test.each([
    ["was lost", () => new Uint8Array(STORE_BYTES)],
    ["is garbage", () => new Uint8Array(STORE_BYTES).fill(0x5a)],
    [
      "lost the pages of both slots but the first",
      (bytes: Uint8Array) => bytes.map((byte, at) => (at % 524_288 < 512 ? byte : 0)),
    ],
  ])("I11: is made again when the store %s, and kept again", async (_, ruin) => {
    const machine = await served();
    const { store } = machine.identity;
    store.write(0, ruin(store.read(0, STORE_BYTES)));
    const again = await launchOn(machine);
    expect([kindOf(again), imports(again)]).toEqual(["serving", 1]);
    const later = await launchOn(machine);
    expect([kindOf(later), imports(later)]).toEqual(["serving", 0]);
  });

  test("I11: a store that cannot be written costs an import at each boot, and nothing else", async () => {
    const full: StoreMedium = {
      ...memoryMedium(),
      write: () => {
        throw Object.assign(new Error("no space"), { code: "ENOSPC" });
      },
    };
    for (let boots = 0; boots < 2; boots++) {
      const booted = await launchOn(provisioned, { store: full });
      expect([kindOf(booted), imports(booted)]).toEqual(["serving", 1]);
      expect(booted.settled).toEqual([expect.objectContaining({ code: "ERR_STORE", item: "store entry of hsm-pin" })]);
    }
  });

  test("I2: of another package that stands in the store under this one's name is not used", async () => {
    const machine = await served();
    const other = await bench.provision();
    const content = contentOf(machine.identity.store);
    const planted = { ...content.entries[0], package: packageOf(other) };
    write(machine.identity.store, {
      ...content,
      entries: [{ ...planted, name: "hsm-pin", generation: 1, state: "served", imported: null }],
    });
    expect(new Set(codesOf(await launchOn(machine)))).toEqual(new Set(["credential-ambiguous"]));
  });
});

describe("a damaged blob", () => {
  test("I11: a kept private area that does not load is imported again from the same package", async () => {
    const machine = await served();
    const content = contentOf(machine.identity.store);
    const flipped = content.entries.map((entry) => ({
      ...entry,
      imported: (entry.imported ?? new Uint8Array()).map((byte, index) => (index === 60 ? byte ^ 1 : byte)),
    }));
    write(machine.identity.store, { ...content, entries: flipped });
    const booted = await launchOn(machine);
    expect([kindOf(booted), imports(booted)]).toEqual(["serving", 1]);
    expect((await launchOn(machine)).commands.map(({ code }) => code)).not.toContain(TPM_CC.import);
  });

  test.each([
    ["empty", () => new Uint8Array()],
    ["too long", () => new Uint8Array(600)],
    ["cut off", (kept: Uint8Array) => kept.slice(0, -1)],
    ["of another size", (kept: Uint8Array) => kept.with(0, 0xff)],
    ["zero", (kept: Uint8Array) => new Uint8Array(kept.length)],
  ])("I11: nor does one that is %s stand in the way", async (_what, change) => {
    const machine = await served();
    const content = contentOf(machine.identity.store);
    const changed = content.entries.map((entry) => ({
      ...entry,
      imported: change(entry.imported ?? new Uint8Array()),
    }));
    write(machine.identity.store, { ...content, entries: changed });
    const booted = await launchOn(machine);
    expect([kindOf(booted), imports(booted)]).toEqual(["serving", 1]);
  });

  test("I11: a package that was damaged on the disk is replaced by the kept copy of the same generation", async () => {
    const machine = await served();
    const damaged = wrongSignature(packageOf(machine));
    const booted = await launchOn(machine, packages(damaged));
    expect([kindOf(booted), imports(booted)]).toEqual(["serving", 0]);
  });

  test("I11: or by a later one, which served: what was handed in since outlives the cabinet", async () => {
    const machine = await served();
    const next = await bench.provision({ on: machine, label: { generation: 2 } });
    expect(kindOf(await launchOn(next))).toBe("serving");
    const damaged = wrongSignature(packageOf(machine));
    const booted = await launchOn(machine, packages(damaged));
    expect(kindOf(booted)).toBe("serving");
    expect(contentOf(machine.identity.store).entries).toMatchObject([{ generation: 2, state: "served" }]);
  });

  test("I11: but never by an earlier one", async () => {
    const machine = await served();
    const next = await bench.provision({ on: machine, label: { generation: 2 } });
    const damaged = wrongSignature(packageOf(next));
    const booted = await launchOn(machine, packages(damaged));
    expect(codesOf(booted)).toEqual(["blob-damaged"]);
    expect(booted.commands.some(({ client }) => client === "unsealer")).toBe(false);
    await checks.expectRefused(booted);
    expect(kindOf(await launchOn(machine))).toBe("serving");
  });

  test.each(["duplicate", "encryptedSeed", "ciphertext"] as const)(
    "I11: a signed package whose %s is wrong is named, and no other generation is unsealed in its place",
    async (field) => {
      const machine = await served();
      const next = await bench.provision({ on: machine, label: { generation: 2 } });
      const booted = await launchOn(machine, packages(await damagedPackage(bench, packageOf(next), field)));
      expect(reasonsOf(booted)).toEqual([expect.objectContaining({ code: "blob-damaged", item: "hsm-pin" })]);
      expect(booted.calls).not.toContain("login");
      expect(booted.record.unsealed).toEqual([]);
      await checks.expectRefused(booted);
    },
  );
});

describe("a TPM that has changed", () => {
  const clear = () => tpmTool(bench.machine, "tpm2_clear", "-c", "l");
  const provisionAgain = () =>
    withTpm(bench.bus, async ({ tss }) => {
      await provisionEpoch(tss, bench.keys.anchors.releaseRoot, provisioned.release.delegation);
      await provisionRecords(tss);
    });

  test("I2: one that was cleared is named, and nothing is done to it; once provisioned again the package still opens", async () => {
    const machine = await served();
    const before = machine.identity.store.read(0, STORE_BYTES);
    for (const options of [{ prepare: clear }, { devices: [] }]) {
      const booted = await launchOn(machine, options);
      expect(codesOf(booted)).toContain("tpm-cleared");
      expect(codesOf(booted)).not.toContain("tpm-would-release");
      const codes = new Set(booted.commands.map(({ code }) => code));
      for (const changes of [TPM_CC.nvDefineSpace, TPM_CC.nvWrite, TPM_CC.nvIncrement, TPM_CC.import, TPM_CC.unseal])
        expect(codes).not.toContain(changes);
      expect(machine.identity.store.read(0, STORE_BYTES)).toEqual(before);
    }
    await provisionAgain();
    const again = await launchOn(machine);
    expect([kindOf(again), imports(again)]).toEqual(["serving", 1]);
    expect(imports(await launchOn(machine))).toBe(0);
  });

  test("I8: everything frozen is refused before anything is unsealed or tried, whatever disk is put in, until the operator's order ends it", async () => {
    const machine = await served();
    await withTpm(bench.bus, ({ tss }) => setFreeze(tss, 1n));
    for (const on of [machine, afresh(provisioned)]) {
      const booted = await launchOn(on);
      expect(codesOf(booted)).toEqual(["frozen"]);
      expect([asked(booted, TPM_CC.unseal), asked(booted, TPM_CC.import), booted.record.unsealed]).toEqual([0, 0, []]);
      expect(booted.calls).not.toContain("login");
    }
    await withTpm(bench.bus, ({ tss }) => replaceFreeze(tss, 0n, null));
    expect(kindOf(await launchOn(machine))).toBe("serving");
  });

  test("I8: freeze bits that are gone are not bits that are clear: nothing is unsealed, and nothing is made again by the machine", async () => {
    const machine = await served();
    await withTpm(bench.bus, async ({ tss }) => {
      await using index = await tss.trFromTpmPublic(FREEZE_INDEX);
      await tss.nvUndefineSpace(index);
    });
    const booted = await launchOn(machine);
    expect(codesOf(booted)).toEqual(["freeze-missing"]);
    expect([asked(booted, TPM_CC.unseal), asked(booted, TPM_CC.nvDefineSpace)]).toEqual([0, 0]);
    await withTpm(bench.bus, ({ tss }) => replaceFreeze(tss, 0n, null));
    expect(kindOf(await launchOn(machine))).toBe("serving");
  });

  test("I2: one that was cleared, with another key at the endorsement key's handle, is not taken for a new one", async () => {
    const machine = await served();
    await clear();
    await withTpm(bench.bus, async ({ tss }) => {
      await using key = await tss.createPrimary("endorsement", attestationKeyTemplate);
      await using _kept = await tss.evictControl(key, ekProfiles.p384.persistentHandle);
    });
    const booted = await launchOn(machine);
    expect(codesOf(booted)).toContain("tpm-cleared");
    expect(asked(booted, TPM_CC.nvDefineSpace)).toBe(0);
    await clear();
    await provisionAgain();
  });

  test("I2: one that was cleared before it ever served is provisioned like a new one", async () => {
    await served();
    const booted = await launchOn(afresh(provisioned), { prepare: clear });
    expect([kindOf(booted), asked(booted, TPM_CC.nvDefineSpace)]).toEqual(["serving", 4]);
  });

  test("I2: one that replaces another is provisioned like a new one, for the generation that was sealed to it", async () => {
    const machine = await served();
    const content = contentOf(machine.identity.store);
    const another = `000c${"5a".repeat(48)}`; // the board that died
    write(machine.identity.store, {
      ekName: another,
      entries: content.entries.map((entry) => ({ ...entry, imported: null })),
    });
    const next = await bench.provision({ on: machine, label: { generation: 2 } });
    bench.renewTpm();
    const booted = await launchOn(next);
    expect([kindOf(booted), asked(booted, TPM_CC.nvDefineSpace), booted.settled]).toEqual(["serving", 4, []]);
    expect(contentOf(machine.identity.store)).toMatchObject({ ekName: content.ekName, entries: [{ generation: 2 }] });
  });

  test("I2: one with an owner and without records is named, and nobody's authorisation is guessed", async () => {
    const own = async () => {
      await clear();
      await tpmTool(bench.machine, "tpm2_changeauth", "-c", "owner", "the owner's own");
    };
    const booted = await launchOn(afresh(provisioned), { prepare: own });
    expect(codesOf(booted)).toEqual(["tpm-not-provisioned"]);
    expect(asked(booted, TPM_CC.nvDefineSpace)).toBe(0);
    await clear();
  });

  test("I2: another one is named tpm-replaced: nothing is imported, and nothing is in the channel", async () => {
    await using other = await startSwtpm();
    const machine = await bench.provision({ ekCertificate: await readEkCertificate(other, "p384") });
    for (const options of [{}, { devices: [] }]) {
      const booted = await launchOn(machine, options);
      expect(codesOf(booted)).toContain("tpm-replaced");
      expect(imports(booted) + asked(booted, TPM_CC.unseal)).toBe(0);
      expect(booted.commands.some(({ client }) => client === "unsealer")).toBe(false);
      expect(booted.calls).not.toContain("startShim");
      await checks.expectRefused(booted);
    }
  });

  test("I2: one whose endorsement seed was changed is told from a replaced one", async () => {
    const machine = await served();
    const booted = await launchOn(machine, { prepare: () => tpmTool(bench.machine, "tpm2_changeeps") });
    expect(codesOf(booted)).toContain("parent-changed");
    bench.renewTpm();
  });

  test("I2: a disabled hierarchy and an endorsement authorisation are named", async () => {
    const machine = await served();
    const disable = () => tpmTool(bench.machine, "tpm2_hierarchycontrol", "-C", "p", "ehEnable", "clear");
    expect(codesOf(await launchOn(machine, { prepare: disable }))).toContain("hierarchy-disabled");
    const set = () => tpmTool(bench.machine, "tpm2_changeauth", "-c", "endorsement", "x");
    expect(codesOf(await launchOn(machine, { prepare: set }))).toContain("endorsement-auth-set");
    await tpmTool(bench.machine, "tpm2_changeauth", "-c", "endorsement", "-p", "x");
    expect(kindOf(await launchOn(machine))).toBe("serving");
  });

  test("I2: one in dictionary-attack lockout unseals all the same", async () => {
    const machine = await served();
    const maxTries = (count: number) =>
      withTpm(bench.bus, ({ tss }) =>
        tss.dictionaryAttackParameters({ maxTries: count, recoveryTime: 1000, lockoutRecovery: 1000 }),
      );
    const booted = await launchOn(machine, { prepare: () => maxTries(0) });
    expect(await tpmTool(bench.machine, "tpm2_getcap", "properties-variable")).toMatch(/inLockout:\s+1/);
    expect(kindOf(booted)).toBe("serving");
    await maxTries(32);
  });

  test("I3: fifty refused launches of all kinds count nothing for the dictionary-attack lockout", {
    timeout: 240_000,
  }, async () => {
    const machine = await served();
    const counter = async () =>
      /TPM2_PT_LOCKOUT_COUNTER:\s+(\S+)/.exec(await tpmTool(bench.machine, "tpm2_getcap", "properties-variable"))?.[1];
    const before = await counter();
    expect(before).toBe("0x0");
    const cutAt = (client: string, code: number): BootOptions => ({
      fault: (command) => (command.client === client && command.code === code ? "refuse" : null),
    });
    const kinds: readonly BootOptions[] = [
      { devices: [] },
      { extend: [[4, Uint8Array.of(1)]] },
      { extend: [[13, Uint8Array.of(1)]] },
      { now: 0 },
      { slots: (slots) => void slots.delete("sealed"), store: memoryMedium() },
      cutAt("unsealer", TPM_CC.unseal),
      cutAt("unsealer", TPM_CC.load),
      cutAt("unsealer", TPM_CC.policySecret),
      cutAt("agent", TPM_CC.nvRead),
      { killShimAt: "load" },
    ];
    for (let round = 0; round < 5; round++) {
      for (const options of kinds) expect(kindOf(await launchOn(machine, options))).toBe("refused");
    }
    expect(await counter()).toBe(before);
    expect(kindOf(await launchOn(machine))).toBe("serving");
  });
});
