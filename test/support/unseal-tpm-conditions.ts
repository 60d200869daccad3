import { execFile } from "node:child_process";
import { promisify } from "node:util";
import type { Tpm as Tss } from "node-tpm2-tss";
import { ekProfiles, ekTemplate } from "../../attest/index.ts";
import { EPOCH_ATTRIBUTES, EPOCH_INDEX, measureEpochPolicy, utf8 } from "../../policy/index.ts";
import { provisionEpoch } from "../../seal/epoch.ts";
import { FREEZE_ATTRIBUTES, FREEZE_INDEX, setFreeze } from "../../seal/freeze-bits.ts";
import type { SealedPackage } from "../../seal/package.ts";
import { ANCHOR_INDEX } from "../../seal/tpm-records.ts";
import { createBenchKeys, lockOut, makeRelease, sealFor, withTss } from "./sealing-bench.ts";
import { startSwtpm } from "./swtpm.ts";
import { type Condition, known, type Machine, onTpm } from "./unseal-machine.ts";

// Of those in unseal-conditions.ts: what a TPM, its keys and its records may be like.

const run = promisify(execFile);

async function undefineFreeze(tss: Tss): Promise<void> {
  await using index = await tss.trFromTpmPublic(FREEZE_INDEX);
  await tss.nvUndefineSpace(index);
}

async function undefineCounter(tss: Tss): Promise<void> {
  await using index = await tss.trFromTpmPublic(EPOCH_INDEX);
  await tss.nvUndefineSpace(index);
}

/** A seal for the TPM of another machine. */
async function sealedElsewhere({ keys }: Machine): Promise<SealedPackage> {
  await using other = await startSwtpm();
  return await withTss(other, (tss) => sealFor(tss, keys));
}

async function tool({ tpm }: Machine, name: string, ...args: readonly string[]): Promise<void> {
  await run(name, [...args], { env: { ...process.env, TPM2TOOLS_TCTI: tpm.tcti } });
}

export const TPM_CONDITIONS: readonly Condition[] = [
  { what: "nothing is wrong", codes: [], make: async () => ({}) },
  {
    what: "somebody else's key lies at the EK's persistent handle",
    codes: [],
    make: onTpm(async (tss) => {
      const { persistentHandle } = ekProfiles.p384;
      const template = ekTemplate(ekProfiles.p384);
      const ek = await tss.trFromTpmPublic(persistentHandle);
      await tss.evictControl(ek, persistentHandle);
      await using key = await tss.createPrimary("owner", template);
      await tss.evictControl(key, persistentHandle);
    }),
  },
  {
    what: "indices among those of the EK certificates are empty, closed, or want a password that counts",
    codes: [],
    make: onTpm(async (tss) => {
      const auth = utf8("guess me");
      await tss.nvDefineSpace({ index: 0x01c0_001c, attributes: 0x0204_0004, dataSize: 600 });
      const others = [
        { index: 0x01c0_001e, attributes: 0x0004_0004, dataSize: 600, auth },
        { index: 0x01c0_0020, attributes: 0x0204_0004, dataSize: 600, auth },
        { index: 0x01c0_0022, attributes: 0x0202_0004, dataSize: 600 },
      ];
      for (const definition of others) {
        await using index = await tss.nvDefineSpace(definition);
        await tss.nvWrite(index, new Uint8Array(600));
      }
    }),
  },
  {
    what: "the package was sealed for another TPM",
    codes: ["tpm-replaced"],
    shows: { item: /endorsement key/, expected: /^000c/, got: /^000c/ },
    make: async (machine) => ({ sealed: await sealedElsewhere(machine) }),
  },
  {
    what: "the endorsement seed was changed",
    codes: ["parent-changed"],
    make: async (machine) => {
      await tool(machine, "tpm2_changeeps");
      return {};
    },
  },
  {
    what: "the package was sealed for the EK's template in the owner hierarchy",
    codes: ["wrong-hierarchy"],
    make: async ({ tpm, sealed }) =>
      withTss(tpm, async (tss) => {
        await using key = await tss.createPrimary("owner", ekTemplate(ekProfiles.p384));
        return { sealed: { ...sealed, ekName: key.name } };
      }),
  },
  {
    what: "the endorsement hierarchy is off",
    codes: ["hierarchy-disabled"],
    shows: { item: /endorsement hierarchy/, got: /disabled/ },
    make: async (machine) => {
      await tool(machine, "tpm2_hierarchycontrol", "-C", "p", "ehEnable", "clear");
      return {};
    },
  },
  {
    what: "the owner hierarchy is off",
    codes: ["hierarchy-disabled"],
    shows: { item: /owner hierarchy/, got: /disabled/ },
    make: async (machine) => {
      await tool(machine, "tpm2_hierarchycontrol", "-C", "p", "shEnable", "clear");
      return {};
    },
  },
  {
    what: "the endorsement authorisation is set",
    codes: ["endorsement-auth-set"],
    make: onTpm((tss) => tss.hierarchyChangeAuth("endorsement", utf8("a value"))),
  },
  {
    what: "the TPM was cleared",
    codes: ["tpm-cleared"],
    shows: { item: /epoch counter/, got: /none/ },
    make: async (machine) => {
      await withTss(machine.tpm, (tss) => tss.clear("lockout"));
      return { knownEkName: known(machine) };
    },
  },
  {
    what: "the TPM was cleared and only the counter was made again",
    codes: ["tpm-cleared"],
    shows: { item: /login records/ },
    make: async (machine) => {
      await withTss(machine.tpm, async (tss) => {
        await tss.clear("lockout");
        await provisionEpoch(tss, machine.keys.root.spkiPem, machine.release.delegation);
      });
      return { knownEkName: known(machine) };
    },
  },
  {
    what: "the audit anchor's index is gone",
    codes: ["tpm-cleared"],
    shows: { item: /audit anchor/ },
    make: async (machine) => {
      await withTss(machine.tpm, async (tss) => {
        await using index = await tss.trFromTpmPublic(ANCHOR_INDEX);
        await tss.nvUndefineSpace(index);
      });
      return { knownEkName: known(machine) };
    },
  },
  {
    what: "the TPM's owner took the counter away",
    codes: ["tpm-not-provisioned"],
    shows: { item: /epoch counter/ },
    make: async (machine) => {
      await withTss(machine.tpm, async (tss) => {
        await undefineCounter(tss);
        await tss.hierarchyChangeAuth("owner", utf8("a value"));
      });
      return { knownEkName: known(machine) };
    },
  },
  {
    what: "the TPM was never provisioned",
    codes: ["tpm-not-provisioned"],
    make: async (machine) => {
      await withTss(machine.tpm, (tss) => tss.clear("lockout"));
      return { knownEkName: null };
    },
  },
  {
    what: "the store is from another TPM, and this one was never provisioned",
    codes: ["tpm-not-provisioned"],
    make: async (machine) => {
      await withTss(machine.tpm, (tss) => tss.clear("lockout"));
      return { knownEkName: `000c${"ab".repeat(48)}` };
    },
  },
  {
    what: "somebody guesses at a password until the TPM locks itself",
    codes: ["tpm-locked-out"],
    shows: { expected: /not in lockout/, got: /^\d+ tries, ends in \d+ s at most$/ },
    make: onTpm(lockOut),
  },
  {
    what: "the counter was never incremented",
    codes: ["epoch-unwritten"],
    make: onTpm(async (tss, { keys }) => {
      await undefineCounter(tss);
      const authPolicy = measureEpochPolicy(keys.root.spkiPem);
      await tss.nvDefineSpace({ index: EPOCH_INDEX, attributes: EPOCH_ATTRIBUTES, dataSize: 8, authPolicy });
    }),
  },
  {
    what: "the counter belongs to another root",
    codes: ["epoch-foreign"],
    shows: { item: /epoch counter/, expected: /^000b/, got: /^000b/ },
    make: onTpm(async (tss) => {
      await undefineCounter(tss);
      const stranger = await createBenchKeys();
      await provisionEpoch(tss, stranger.root.spkiPem, (await makeRelease(stranger)).delegation);
    }),
  },
  {
    what: "an index with a password that counts is in the counter's place",
    codes: ["epoch-foreign"],
    make: onTpm(async (tss) => {
      await undefineCounter(tss);
      const index = { index: EPOCH_INDEX, attributes: 0x0004_0004, dataSize: 8, auth: utf8("guess me") };
      await using defined = await tss.nvDefineSpace(index);
      await tss.nvWrite(defined, new Uint8Array(8));
    }),
  },
  {
    what: "the counter has our Name and an authorisation",
    codes: ["epoch-foreign"],
    shows: { expected: /no authorisation/ },
    make: onTpm(async (tss, { keys, release }) => {
      await undefineCounter(tss);
      const authPolicy = measureEpochPolicy(keys.root.spkiPem);
      const counter = { index: EPOCH_INDEX, attributes: EPOCH_ATTRIBUTES, dataSize: 8, authPolicy };
      await tss.nvDefineSpace({ ...counter, auth: utf8("mine") });
      await provisionEpoch(tss, keys.root.spkiPem, release.delegation);
    }),
  },
  {
    what: "everything is frozen",
    codes: ["frozen"],
    shows: { item: /freeze bits/, got: /^0000000000000003$/ },
    make: onTpm((tss) => setFreeze(tss, 3n)),
  },
  {
    what: "scopes are frozen, which keeps nothing sealed",
    codes: [],
    make: onTpm((tss) => setFreeze(tss, ~1n & (2n ** 64n - 1n))),
  },
  {
    what: "the owner took the freeze bits away, or the machine is from before there were any",
    codes: ["freeze-missing"],
    shows: { got: /^none$/ },
    make: onTpm(undefineFreeze),
  },
  {
    what: "an unfreeze was cut off before its last command",
    codes: ["freeze-missing"],
    shows: { got: /never set/ },
    make: onTpm(async (tss) => {
      await undefineFreeze(tss);
      await tss.nvDefineSpace({ index: FREEZE_INDEX, attributes: FREEZE_ATTRIBUTES, dataSize: 8 });
    }),
  },
  {
    what: "another index is in the place of the freeze bits",
    codes: ["freeze-foreign"],
    shows: { expected: /^000b/, got: /^000b/ },
    make: onTpm(async (tss) => {
      await undefineFreeze(tss);
      await using index = await tss.nvDefineSpace({ index: FREEZE_INDEX, attributes: 0x0204_0004, dataSize: 8 });
      await tss.nvWrite(index, new Uint8Array(8));
    }),
  },
];
