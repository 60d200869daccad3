import type { Tpm as Tss } from "node-tpm2-tss";
import { type LaunchEvent, launchEventDigests } from "../../attest/index.ts";
import { AGENT_PCR, sha256, utf8 } from "../../policy/index.ts";
import { provisionEpoch, raiseEpoch } from "../../seal/epoch.ts";
import { packageDigest, verifySealedPackage } from "../../seal/package.ts";
import { openTpm } from "../../seal/tpm.ts";
import { type LoginOutcome, provisionRecords, writeLogin } from "../../seal/tpm-records.ts";
import { boot, LAUNCH, makeRelease, readEkCertificate, sealedEnvelope, sealFor, withTss } from "./sealing-bench.ts";
import { type SoftwareTpm, startSwtpm } from "./swtpm.ts";
import { type Condition, type Machine, onTpm } from "./unseal-machine.ts";
import { TPM_CONDITIONS } from "./unseal-tpm-conditions.ts";

// Everything that stands between a sealed credential and its secret, made for real on a software TPM.

const withRelease =
  (options: Parameters<typeof makeRelease>[1]): Condition["make"] =>
  async ({ keys }) => ({
    releases: [await makeRelease(keys, options)],
  });

const login = (outcome: LoginOutcome, change: { generation?: number; package?: string } = {}): Condition["make"] =>
  onTpm((tss, { sealed }) =>
    writeLogin(tss, {
      ...{ name: sealed.name, outcome, generation: sealed.generation, tries: 1n, package: packageDigest(sealed) },
      ...change,
    }),
  );

async function raiseToTwo(tss: Tss, { keys }: Machine): Promise<void> {
  // The machine boots image 1 in all of these tests: a release of epoch 2 for it.
  await raiseEpoch(tss, keys.root.spkiPem, await makeRelease(keys, { epoch: 2, raise: true }));
}

async function extendAsAgent(tpm: SoftwareTpm, events: readonly LaunchEvent[]): Promise<void> {
  await using agent = await openTpm({ tcti: tpm.tcti });
  for (const event of events) await agent.pcrExtend(AGENT_PCR, launchEventDigests(event));
}

export const CONDITIONS: readonly Condition[] = [
  ...TPM_CONDITIONS,
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
