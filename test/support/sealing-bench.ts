import { cp, mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { HANDLE_RANGE, PROPERTY, TpmError, Tpm as Tss } from "node-tpm2-tss";
import {
  extendPcr,
  hashInBank,
  type LaunchEvent,
  launchEventDigests,
  type PcrBank,
  pcrBanks,
  predictAgentPcr,
  resetValue,
} from "../../attest/index.ts";
import {
  AGENT_PCR,
  type Anchors,
  fromHex,
  type Release,
  type SigningKey,
  sha256,
  toHex,
  utf8,
  verifyReleaseSignatures,
} from "../../policy/index.ts";
import { type DelegationOrder, signDelegation } from "../../seal/delegation.ts";
import { createSigningKey } from "../../seal/keys.ts";
import { sealOffline } from "../../seal/offline-seal.ts";
import { type CredentialLabel, type SealedPackage, verifySealedPackage } from "../../seal/package.ts";
import { type ReleaseDraft, signRelease } from "../../seal/release.ts";
import { readEkCertificates } from "../../seal/tpm-templates.ts";
import type { SoftwareTpm } from "./swtpm.ts";

// Keys, releases, seals and boots for tests of the sealing core on a software TPM.

export const NATIVE_DIRECTORY = join(import.meta.dirname, "..", "..", "build", "native");
/** A day inside every release made here. */
export const NOW = new Date("2027-01-15T12:00:00Z");
export const CREDENTIAL = "hsm-pin";
export const PIN = utf8("correct horse 4711");

export interface BenchKeys {
  readonly root: SigningKey;
  readonly releaseKey: SigningKey;
  readonly operator: SigningKey;
  readonly anchors: Anchors;
}

export async function createBenchKeys(): Promise<BenchKeys> {
  const [root, releaseKey, operator] = await Promise.all([newKey(), newKey(), newKey()]);
  return {
    ...{ root, releaseKey, operator },
    anchors: { version: 1, releaseRoot: root.spkiPem, operator: operator.spkiPem },
  };
}

export async function newKey(): Promise<SigningKey> {
  return (await createSigningKey()).key;
}

/** What the agent measures before the unseal, in every launch here. */
export const LAUNCH: readonly LaunchEvent[] = [
  { kind: "config", name: "/etc/ironclaw/agent.json", sha256: sha256(utf8("configuration")) },
  { kind: "library", name: "/usr/lib/softhsm/libsofthsm2.so", sha256: sha256(utf8("library")) },
];

/** PCRs that a boot of an image extends, once each, with the hash of this text. PCR 12 stays zero. */
const MEASURED_PCRS: readonly number[] = [4, 9, 11];
const measuredText = (image: string, pcr: number) => utf8(`${image}: PCR ${pcr}`);

/** PCR values after `boot` of an image and the launch, in one bank. */
export function predictPcrs(image: string, bank: PcrBank, events = LAUNCH): ReadonlyMap<number, Uint8Array> {
  const zero = resetValue(bank, 0);
  return new Map([
    ...MEASURED_PCRS.map((pcr) => [pcr, extendPcr(bank, zero, hashInBank(bank, measuredText(image, pcr)))] as const),
    [12, zero],
    [AGENT_PCR, predictAgentPcr(events)[bank]],
  ]);
}

export interface ReleaseOptions {
  readonly name?: string;
  readonly image?: string;
  readonly epoch?: number;
  readonly raise?: boolean;
  readonly lastEpoch?: number;
  readonly credentials?: readonly string[];
  readonly notBefore?: string;
  readonly notAfter?: string;
  readonly events?: readonly LaunchEvent[];
}

/** A release whose signatures verify, for `image`. */
export async function makeRelease(keys: BenchKeys, options: ReleaseOptions = {}): Promise<Release> {
  return verifyReleaseSignatures(await signedRelease(keys, options), keys.root.spkiPem);
}

export async function signedRelease(keys: BenchKeys, options: ReleaseOptions = {}): Promise<Uint8Array> {
  const { releaseKey, root } = keys;
  const { credentials = [CREDENTIAL], lastEpoch = 9 } = options;
  const order: DelegationOrder = { releaseKeyPem: releaseKey.spkiPem, credentials, lastEpoch };
  const delegation = await signDelegation(root, order);
  return signRelease(draftOf(options), { releaseKey, delegation, rootKeyPem: root.spkiPem });
}

function draftOf({
  image = "image-1",
  name = image,
  epoch = 1,
  raise = false,
  events = LAUNCH,
  notBefore = "2027-01-01T00:00:00Z",
  notAfter = "2027-12-31T23:59:59Z",
}: ReleaseOptions): ReleaseDraft {
  const hexPcrs = (bank: PcrBank) =>
    Object.fromEntries([...predictPcrs(image, bank, events)].map(([pcr, value]) => [`${pcr}`, toHex(value)]));
  return {
    ...{ name, epoch, raise, notBefore, notAfter },
    image: { id: toHex(sha256(utf8(image))), variant: "demo" },
    pcrs: { sha256: hexPcrs("sha256"), sha384: hexPcrs("sha384") },
    events: events.map(
      ({ kind, name, sha256 }) => ({ kind, name, sha256: toHex(sha256) }) as ReleaseDraft["events"][number], // LAUNCH has no later kind
    ),
  };
}

export type EkKind = "rsa2048" | "p384";
const CERTIFICATE_INDEX = { rsa2048: 0x01c0_0002, p384: 0x01c0_0016 } as const;

export interface SealOptions extends Partial<Omit<CredentialLabel, "ekName">> {
  readonly ek?: EkKind;
  readonly secret?: Uint8Array;
}

/** The EK certificate that the TPM holds. */
export async function readEkCertificate(tss: Tss, ek: EkKind = "p384"): Promise<Uint8Array> {
  const found = (await readEkCertificates(tss)).find(({ nvIndex }) => nvIndex === CERTIFICATE_INDEX[ek]);
  if (found === undefined) throw new Error(`the TPM has no ${ek} EK certificate`);
  return found.der;
}

/** A package for the TPM of this connection, sealed offline and verified. */
export async function sealFor(tss: Tss, keys: BenchKeys, options: SealOptions = {}): Promise<SealedPackage> {
  return verifySealedPackage(
    await sealedEnvelope(await readEkCertificate(tss, options.ek), keys, options),
    keys.anchors,
  );
}

export function sealedEnvelope(
  ekCertificate: Uint8Array,
  keys: BenchKeys,
  { ek: _, secret = PIN, ...label }: SealOptions = {},
): Promise<Uint8Array> {
  return sealOffline({
    ...{ ekCertificate, rootKeyPem: keys.root.spkiPem, operator: keys.operator },
    secret: Uint8Array.from(secret),
    label: { name: CREDENTIAL, kind: "pin", generation: 1, notAfter: null, tokenSerial: "0123456789abcdef", ...label },
  });
}

export function openTss(tpm: { readonly tcti: string }): Promise<Tss> {
  return Tss.open({ tcti: tpm.tcti, nativeDirectory: NATIVE_DIRECTORY });
}

export async function withTss<T>(tpm: { readonly tcti: string }, use: (tss: Tss) => Promise<T>): Promise<T> {
  await using tss = await openTss(tpm);
  return await use(tss);
}

/** A power cycle, then the measured boot of an image, and the launch unless `events` is empty. */
export async function boot(
  tpm: SoftwareTpm,
  image = "image-1",
  events: readonly LaunchEvent[] = LAUNCH,
): Promise<void> {
  await tpm.restart();
  await withTss(tpm, async (tss) => {
    for (const pcr of MEASURED_PCRS) await tss.pcrEvent(pcr, measuredText(image, pcr));
    await extendAgentPcr(tss, events);
  });
}

export async function extendAgentPcr(tss: Tss, events: readonly LaunchEvent[]): Promise<void> {
  for (const event of events) {
    const digests = launchEventDigests(event);
    await tss.pcrExtend(AGENT_PCR, new Map(pcrBanks.map((bank) => [bank, digests[bank]])));
  }
}

/**
 * The state of the TPM as it is now, to be put back later: what a host that owns the TPM's storage can do at any time. Restoring
 * ends in a power cycle.
 */
export async function snapshot(tpm: SoftwareTpm): Promise<{ restore(): Promise<void>; discard(): Promise<void> }> {
  const directory = await mkdtemp(join(tmpdir(), "ironclaw-snapshot-"));
  const state = join(tpm.directory, "state");
  await cp(state, directory, { recursive: true });
  return {
    restore: async () => {
      await tpm.kill(); // it writes still while its last client leaves
      await rm(state, { recursive: true });
      await cp(directory, state, { recursive: true });
      await tpm.restart();
    },
    discard: () => rm(directory, { recursive: true }),
  };
}

/** The TPM's answer, as `0x…`; null when it obeyed. Any other failure is passed on. */
export async function answerOf(command: Promise<unknown>): Promise<string | null> {
  try {
    await command;
    return null;
  } catch (error) {
    if (error instanceof TpmError) return `0x${error.rc.toString(16)}`;
    throw error;
  }
}

/** What a TPM still holds for somebody: nothing, after every way out. */
export async function loadedHandles(tss: Tss): Promise<readonly number[]> {
  const ranges = [HANDLE_RANGE.transient, HANDLE_RANGE.loadedSession, HANDLE_RANGE.savedSession];
  return (await Promise.all(ranges.map((range) => tss.handles(range)))).flat();
}

export async function lockoutCounter(tss: Tss): Promise<number> {
  return (await tss.properties(PROPERTY.lockoutCounter, 1)).get(PROPERTY.lockoutCounter) ?? Number.NaN;
}

const STORAGE_KEY = "0023000b00030072000000060080004300100003001000000000";
const SEALED_DATA = "0008000b000000520000" + "00100000";

/** Somebody else guesses at a password that counts, until the TPM locks itself. */
export async function lockOut(tss: Tss): Promise<void> {
  const template = fromHex(STORAGE_KEY);
  await using guessed = await tss.createPrimary("owner", template, { sensitive: { auth: utf8("secret") } });
  await tss.setAuth(guessed, utf8("a guess"));
  const guess = () => answerOf(tss.create(guessed, fromHex(SEALED_DATA), { sensitive: { data: utf8("x") } }));
  for (let tries = 0; tries < 64; tries++) if ((await guess()) === "0x921") return;
  throw new Error("the TPM does not lock itself");
}
