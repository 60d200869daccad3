import assert from "node:assert/strict";
import type { Tpm as Tss } from "node-tpm2-tss";
import { makeCredential, parseTpmPublic } from "../../attest/index.ts";
import { AGENT_PCR, epochStart, type Release, sha256, utf8 } from "../../policy/index.ts";
import {
  checkImported,
  createOwnershipSecret,
  deriveOwnership,
  importSealed,
  type LoginRecord,
  type MachineTpm,
  openEndorsementKey,
  provisionEpoch,
  provisionRecords,
  raiseEpoch,
  readAnchor,
  readEpoch,
  readFreeze,
  readLogin,
  readTpmState,
  type SealedPackage,
  setFreeze,
  takeOwnership,
  writeAnchor,
  writeLogin,
} from "../../seal/index.ts";
import type { BenchKeys } from "../support/sealing-bench.ts";

/** What the operations work with: the same for all of their runs. */
export interface TpmScene {
  readonly keys: BenchKeys;
  /** Of the image that the TPM was booted into; ends the epochs before the second. */
  readonly release: Release;
  readonly sealed: SealedPackage;
}

/** Something that the agent does with its TPM in one piece. */
export interface TpmOperation {
  /** `maker`: as its maker left it. `machine`: provisioned and booted. A TPM in another state is put back before each run. */
  readonly from: "maker" | "machine";
  /** Leaves a TPM from which the operation cannot be begun anew. */
  readonly changes?: boolean;
  /** Done once more it comes to the same. Asserts that its result is right. */
  readonly act: (tpm: MachineTpm, scene: TpmScene) => Promise<void>;
  /** Holds afterwards, also when it was refused: nothing is half. */
  readonly whole?: (tss: Tss) => Promise<void>;
}

const SECRET = sha256(utf8("what a verifier challenges with"));
const OWN = deriveOwnership(createOwnershipSecret());
const ANCHOR = { volumeId: new Uint8Array(16).fill(7), seq: 12, hash: "ab".repeat(32) };
const FROZEN = 1n << 5n;
const LOGIN: LoginRecord = { name: "hsm-pin", outcome: "trying", generation: 1, tries: 1n, package: "cd".repeat(32) };

/**
 * What a TPM answers about a handle that it does not have, or whose hierarchy is off, is taken for a missing index: a machine without its records
 * refuses by itself. A fault is the answer to one command, so what is missing by that is there when it is read again.
 */
async function readBack<T extends { readonly kind: string }>(read: () => Promise<T>): Promise<T> {
  const found = await read();
  return found.kind === "missing" ? read() : found;
}

/** Bytes that no error may show. */
export const SECRETS: readonly Uint8Array[] = [SECRET, OWN.ownerAuth, OWN.lockoutAuth];

export const OPERATIONS = {
  report: {
    from: "machine",
    act: async (tpm) => {
      await using ak = await tpm.createAttestationKey();
      const pcrs = await tpm.pcrRead("sha256", [0, 4, AGENT_PCR]);
      const { attest } = await tpm.quote(ak, SECRET.subarray(0, 20), "sha256", [0, 4, AGENT_PCR]);
      assert.ok(pcrs.size === 3 && attest.length > 100);
    },
  },
  checkpoint: {
    from: "machine",
    act: async (tpm) => {
      await using ak = await tpm.createAttestationKey();
      const key = await tpm.certifiedKey(ak, utf8("purpose"));
      assert.ok((await key.sign(utf8("message"))).length > 60);
    },
  },
  enrolment: {
    from: "machine",
    act: async (tpm) => {
      assert.ok((await tpm.ekCertificates()).length > 0);
      await using ak = await tpm.createAttestationKey();
      const ek = await tpm.endorsementKey("p384");
      const made = await makeCredential(parseTpmPublic(ek.publicArea), ak.name, SECRET);
      assert.deepEqual(await tpm.activateCredential(ak, made.credentialBlob, made.encryptedSecret), SECRET);
    },
  },
  import: {
    from: "machine",
    act: async ({ tss }, { sealed }) => checkImported(tss, sealed, await importSealed(tss, sealed)),
  },
  diagnosis: {
    from: "machine",
    act: async ({ tss }, { sealed: { ekName, name } }) => {
      assert.ok(((await readTpmState(tss, { ekName, name })).pcrs?.size ?? 0) > 0);
    },
  },
  provisioning: {
    from: "maker",
    changes: true,
    act: async ({ tss }, { keys, release }) => {
      await provisionEpoch(tss, keys.anchors.releaseRoot, release.delegation);
      await provisionRecords(tss);
      assert.equal((await readBack(() => readEpoch(tss))).kind, "present");
    },
  },
  "epoch raise": {
    from: "machine",
    changes: true,
    act: async ({ tss }, { keys, release }) => {
      await raiseEpoch(tss, keys.anchors.releaseRoot, release);
      const epoch = await readBack(() => readEpoch(tss));
      assert.ok(epoch.kind === "present" && (epoch.value ?? 0n) >= epochStart(release.epoch));
    },
  },
  freeze: {
    from: "machine",
    act: async ({ tss }) => assert.equal((await setFreeze(tss, FROZEN)) & FROZEN, FROZEN),
    whole: async (tss) => assert.equal((await readFreeze(tss)).kind, "bits"),
  },
  "login record": {
    from: "machine",
    act: async ({ tss }) => {
      await writeLogin(tss, LOGIN);
      assert.deepEqual(await readBack(() => readLogin(tss, LOGIN.name)), { kind: "record", record: LOGIN });
    },
    whole: async (tss) => assert.match((await readLogin(tss, LOGIN.name)).kind, /^(none|record)$/),
  },
  anchor: {
    from: "machine",
    act: async ({ tss }) => {
      await writeAnchor(tss, ANCHOR);
      assert.deepEqual(await readBack(() => readAnchor(tss)), { kind: "anchor", anchor: ANCHOR });
    },
    whole: async (tss) => assert.match((await readAnchor(tss)).kind, /^(none|anchor)$/),
  },
  ownership: {
    from: "machine",
    changes: true,
    act: async ({ tss }) => {
      await using ek = await openEndorsementKey(tss, "p384");
      await takeOwnership(tss, ek, OWN);
    },
  },
} satisfies Readonly<Record<string, TpmOperation>>;
