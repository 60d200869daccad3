import { execFile } from "node:child_process";
import { promisify } from "node:util";
import type { Tpm as Tss } from "node-tpm2-tss";
import { ekProfiles, ekTemplate, type LaunchEvent, launchEventDigests } from "../../attest/index.ts";
import { AGENT_PCR, EPOCH_ATTRIBUTES, EPOCH_INDEX, measureEpochPolicy, sha256, utf8 } from "../../policy/index.ts";
import { provisionEpoch, raiseEpoch } from "../../seal/epoch.ts";
import { FREEZE_ATTRIBUTES, FREEZE_INDEX, setFreeze } from "../../seal/freeze-bits.ts";
import { packageDigest, type SealedPackage, verifySealedPackage } from "../../seal/package.ts";
import { openTpm } from "../../seal/tpm.ts";
import { ANCHOR_INDEX, type LoginOutcome, provisionRecords, writeLogin } from "../../seal/tpm-records.ts";
import {
  boot,
  createBenchKeys,
  LAUNCH,
  lockOut,
  makeRelease,
  readEkCertificate,
  sealedEnvelope,
  sealFor,
  withTss,
} from "./sealing-bench.ts";
import { type SoftwareTpm, startSwtpm } from "./swtpm.ts";
import { type Condition, known, type Machine, onTpm } from "./unseal-machine.ts";

// Everything that stands between a sealed credential and its secret, made for real on a software TPM.

const run = promisify(execFile);

const withRelease =
  (options: Parameters<typeof makeRelease>[1]): Condition["make"] =>
  async ({ keys }) => ({
    releases: [await makeRelease(keys, options)],
  });

async function undefineFreeze(tss: Tss): Promise<void> {
  await using index = await tss.trFromTpmPublic(FREEZE_INDEX);
  await tss.nvUndefineSpace(index);
}

async function undefineCounter(tss: Tss): Promise<void> {
  await using index = await tss.trFromTpmPublic(EPOCH_INDEX);
  await tss.nvUndefineSpace(index);
}

const login = (outcome: LoginOutcome, change: { generation?: number; package?: string } = {}): Condition["make"] =>
  onTpm((tss, { sealed }) =>
    writeLogin(tss, {
      ...{ name: sealed.name, outcome, generation: sealed.generation, tries: 1n, package: packageDigest(sealed) },
      ...change,
    }),
  );

/** A seal for the TPM of another machine. */
async function sealedElsewhere({ keys }: Machine): Promise<SealedPackage> {
  await using other = await startSwtpm();
  return await withTss(other, (tss) => sealFor(tss, keys));
}

async function tool({ tpm }: Machine, name: string, ...args: readonly string[]): Promise<void> {
  await run(name, [...args], { env: { ...process.env, TPM2TOOLS_TCTI: tpm.tcti } });
}

export const CONDITIONS: readonly Condition[] = [
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
  {
    what: "the SHA-256 bank is not active",
    codes: ["pcr-bank-inactive"],
    make: async ({ keys, release }) => {
      const other = await startSwtpm({ banks: "sha384" });
      const sealed = await withTss(other, async (tss) => {
        await provisionEpoch(tss, keys.root.spkiPem, release.delegation);
        await provisionRecords(tss);
        return sealFor(tss, keys);
      });
      return { other, sealed };
    },
  },
  {
    what: "the firmware measures nothing",
    codes: ["pcr-never-extended", "measurement-changed"],
    shows: { item: /^PCR 4 \(sha256\)$/, got: /zero/ },
    make: async ({ tpm }) => {
      await tpm.restart();
      await extendAsAgent(tpm, LAUNCH);
      return {};
    },
  },
  {
    what: "another image was booted",
    codes: ["measurement-changed"],
    shows: { item: /^PCR 4 \(sha256\)$/, expected: /^[0-9a-f]{64}$/, got: /^[0-9a-f]{64}$/ },
    make: async ({ tpm }) => {
      await boot(tpm, "image-2");
      return {};
    },
  },
  {
    what: "a PCR of the boot was extended once more",
    codes: ["measurement-changed"],
    shows: { item: /^PCR 12 \(sha256\)$/, expected: /^0{64}$/ },
    make: onTpm((tss) => tss.pcrEvent(12, utf8("an override"))),
  },
  {
    what: "the agent measured another library",
    codes: ["measurement-changed"],
    shows: { item: /^PCR 13 \(sha256\)$/ },
    make: async ({ tpm }) => {
      await boot(tpm, "image-1", LAUNCH.with(1, { kind: "library", name: "/lib.so", sha256: sha256(utf8("another")) }));
      return {};
    },
  },
  {
    what: "the agent was not launched",
    codes: ["agent-not-launched"],
    shows: { item: /^PCR 13 \(sha256\)$/, got: /zero/ },
    make: async ({ tpm }) => {
      await boot(tpm, "image-1", []);
      return {};
    },
  },
  ...(["serving", "refused"] as const).map(
    (name): Condition => ({
      what: `the launch has ended with the cap "${name}"`,
      codes: ["agent-pcr-capped"],
      shows: { item: /^PCR 13 \(sha256\)$/ },
      make: async ({ tpm }) => {
        await extendAsAgent(tpm, [{ kind: "cap", name, sha256: sha256(new Uint8Array()) }]);
        return {};
      },
    }),
  ),
  { what: "there is no release", codes: ["release-missing"], make: async () => ({ releases: [] }) },
  {
    what: "the release has expired",
    codes: ["release-expired"],
    shows: { expected: /until 2027-01-02/, got: /^2027-01-15/ },
    make: withRelease({ notAfter: "2027-01-02T00:00:00Z" }),
  },
  {
    what: "the release is not valid yet",
    codes: ["release-not-yet-valid"],
    shows: { expected: /from 2027-02-01/ },
    make: withRelease({ notBefore: "2027-02-01T00:00:00Z" }),
  },
  {
    what: "the release's epoch has ended",
    codes: ["release-revoked"],
    shows: { expected: /at most 31/, got: /^32$/ },
    make: onTpm(raiseToTwo),
  },
  {
    what: "the release key's last epoch has ended",
    codes: ["release-revoked", "release-key-revoked"],
    make: async (machine) => {
      await withTss(machine.tpm, (tss) => raiseToTwo(tss, machine));
      return { releases: [await makeRelease(machine.keys, { lastEpoch: 1 })] };
    },
  },
  {
    what: "the root has not delegated the credential",
    codes: ["credential-not-delegated"],
    shows: { item: /hsm-pin/, expected: /one of tls-key/ },
    make: withRelease({ credentials: ["tls-key"] }),
  },
  {
    what: "of two releases the nearer one is explained",
    codes: ["release-expired"],
    make: async ({ keys }) => ({
      releases: [
        await makeRelease(keys, { image: "image-2", notAfter: "2027-01-02T00:00:00Z" }),
        await makeRelease(keys, { notAfter: "2027-01-02T00:00:00Z" }),
      ],
    }),
  },
  {
    what: "the credential has expired",
    codes: ["credential-expired"],
    shows: { expected: /until 2027-01-14/ },
    make: async ({ tpm, keys }) => {
      const ekCertificate = await withTss(tpm, (tss) => readEkCertificate(tss));
      const envelope = await sealedEnvelope(ekCertificate, keys, { notAfter: "2027-01-14T00:00:00Z" });
      return { sealed: await verifySealedPackage(envelope, keys.anchors) };
    },
  },
  {
    what: "a newer generation was used before",
    codes: ["credential-rolled-back"],
    shows: { expected: /generation 2/, got: /^1$/ },
    make: login("accepted", { generation: 2 }),
  },
  {
    what: "another package of this generation was used before",
    codes: ["credential-ambiguous"],
    make: login("accepted", { package: "ab".repeat(32) }),
  },
  { what: "the token refused the PIN", codes: ["login-tried"], shows: { got: /refused/ }, make: login("refused") },
  {
    what: "the power went while the PIN was tried",
    codes: ["login-tried"],
    shows: { got: /not known/ },
    make: login("trying"),
  },
  { what: "the PIN was accepted before", codes: [], make: login("accepted") },
  { what: "an operator allows one more try", codes: [], make: login("retry-allowed") },
  { what: "an older generation was refused", codes: [], make: login("refused", { generation: 0 }) },
];

async function raiseToTwo(tss: Tss, { keys }: Machine): Promise<void> {
  // The machine boots image 1 in all of these tests: a release of epoch 2 for it.
  await raiseEpoch(tss, keys.root.spkiPem, await makeRelease(keys, { epoch: 2, raise: true }));
}

async function extendAsAgent(tpm: SoftwareTpm, events: readonly LaunchEvent[]): Promise<void> {
  await using agent = await openTpm({ tcti: tpm.tcti });
  for (const event of events) await agent.pcrExtend(AGENT_PCR, launchEventDigests(event));
}
