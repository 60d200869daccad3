import { execFile } from "node:child_process";
import { createHash } from "node:crypto";
import { closeSync, constants, openSync, readSync } from "node:fs";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { Tpm as Tss } from "node-tpm2-tss";
import { type LaunchEvent, launchEventDigests, predictAgentPcr } from "../../attest/index.ts";
import {
  type Anchors,
  concatBytes,
  type Delegation,
  type Release,
  type SigningKey,
  sha256,
  toHex,
  utf8,
  verifyReleaseSignatures,
} from "../../policy/index.ts";
import { signDelegation } from "../../seal/delegation.ts";
import { importSealed } from "../../seal/endorsement.ts";
import { createSigningKey, type SigningKeyKind } from "../../seal/keys.ts";
import { sealOffline } from "../../seal/offline-seal.ts";
import { type CredentialLabel, type SealedPackage, verifySealedPackage } from "../../seal/package.ts";
import { type ReleaseDraft, signRelease } from "../../seal/release.ts";
import { runUnsealer, unsealRequest } from "../../seal/unseal.ts";
import type { UnsealAnswer } from "../../seal/unseal-answer.ts";
import type { SoftwareTpm } from "./swtpm.ts";
import { readEkCertificate, tpmTool } from "./tpm-tools.ts";

export { readBytes, readEkCertificate, tpmTool, withFiles } from "./tpm-tools.ts";

const run = promisify(execFile);

/** A day inside every release made here. */
export const NOW = new Date("2027-01-15T12:00:00Z");
export const PIN = utf8("correct horse 4711");
export const NATIVE_DIRECTORY = resolve(import.meta.dirname, "../../build/native");
export const UNSEALER = join(NATIVE_DIRECTORY, "unsealer");

/** What the test's launch measures; the agent PCR of every release made here is its replay. */
export const LAUNCH: readonly LaunchEvent[] = [
  { kind: "config", name: "/etc/ironclaw/agent.json", sha256: sha256(utf8("configuration")) },
  { kind: "library", name: "/usr/lib/softhsm/libsofthsm2.so", sha256: sha256(utf8("library")) },
];

/** What the test's firmware and image measure, one event in each of these PCRs. PCR 12 stays zero. */
const BOOT = [4, 9, 11].map((pcr) => ({
  pcr,
  sha256: sha256(utf8(`boot ${pcr}`)),
  sha384: Uint8Array.from(createHash("sha384").update(`boot ${pcr}`).digest()),
}));

export interface SealKeys {
  readonly root: SigningKey;
  readonly releaseKey: SigningKey;
  readonly operator: SigningKey;
  readonly anchors: Anchors;
}

export async function createSealKeys(kind: SigningKeyKind = "p256"): Promise<SealKeys> {
  const keys = await Promise.all([kind, kind, "p256" as const].map((each) => createSigningKey(each)));
  const [root, releaseKey, operator] = keys.map(({ key }) => key);
  if (root === undefined || releaseKey === undefined || operator === undefined) throw new Error("three keys");
  return {
    root,
    releaseKey,
    operator,
    anchors: { version: 1, releaseRoot: root.spkiPem, operator: operator.spkiPem },
  };
}

/** A draft of epoch 1 for a TPM that was booted by `bootInto`. */
export function releaseDraft(events: readonly LaunchEvent[] = LAUNCH): ReleaseDraft {
  const agent = predictAgentPcr(events);
  const boot = (bank: "sha256" | "sha384", size: number) =>
    Object.fromEntries([
      ...BOOT.map((event) => [
        event.pcr,
        createHash(bank)
          .update(concatBytes(new Uint8Array(size), event[bank]))
          .digest("hex"),
      ]),
      [12, "00".repeat(size)],
    ]);
  return {
    name: "test",
    image: { id: "ab".repeat(32), variant: "demo" },
    epoch: 1,
    notBefore: "2027-01-01T00:00:00Z",
    notAfter: "2027-12-31T23:59:59Z",
    pcrs: {
      sha256: { ...boot("sha256", 32), 13: toHex(agent.sha256) },
      sha384: { ...boot("sha384", 48), 13: toHex(agent.sha384) },
    },
    events: events.map(
      ({ kind, name, sha256: digest }) => ({ kind, name, sha256: toHex(digest) }) as ReleaseDraft["events"][number],
    ),
    raise: false,
  };
}

/** What the root approves unless a test says otherwise. */
export const DELEGATED = { credentials: ["hsm-pin"], lastEpoch: 4 };

export async function makeRelease(keys: SealKeys, draft = releaseDraft(), delegated = DELEGATED): Promise<Release> {
  return verifyReleaseSignatures(await signedRelease(keys, draft, delegated), keys.root.spkiPem);
}

export function signDelegationOf({ root, releaseKey }: SealKeys, delegated = DELEGATED): Promise<Delegation> {
  return signDelegation(root, { releaseKeyPem: releaseKey.spkiPem, ...delegated });
}

export async function signedRelease(
  keys: SealKeys,
  draft = releaseDraft(),
  delegated = DELEGATED,
): Promise<Uint8Array> {
  const delegation = await signDelegationOf(keys, delegated);
  return signRelease(draft, { releaseKey: keys.releaseKey, delegation, rootKeyPem: keys.root.spkiPem });
}

export interface SealOptions {
  readonly secret?: Uint8Array;
  readonly label?: Partial<CredentialLabel>;
}

export const LABEL: Omit<CredentialLabel, "ekName"> = {
  name: "hsm-pin",
  kind: "pin",
  generation: 1,
  notAfter: null,
  tokenSerial: "0123456789abcdef",
};

/** The signed package. */
export async function sealFor(
  tpm: SoftwareTpm,
  ek: "rsa" | "p384",
  keys: SealKeys,
  { secret = PIN, label = {} }: SealOptions = {},
): Promise<Uint8Array> {
  return sealOffline({
    ekCertificate: await readEkCertificate(tpm, ek),
    secret: Uint8Array.from(secret),
    rootKeyPem: keys.root.spkiPem,
    label: { ...LABEL, ...label },
    operator: keys.operator,
  });
}

/** A package, and what TPM2_Import made of it. */
export interface Imported {
  readonly sealed: SealedPackage;
  readonly imported: Uint8Array;
}

export async function openSealed(
  tpm: SoftwareTpm,
  ek: "rsa" | "p384",
  keys: SealKeys,
  options: SealOptions = {},
): Promise<Imported> {
  const sealed = await verifySealedPackage(await sealFor(tpm, ek, keys, options), keys.anchors);
  return { sealed, imported: await importInto(tpm, sealed) };
}

export async function importInto({ tcti }: Pick<SoftwareTpm, "tcti">, sealed: SealedPackage): Promise<Uint8Array> {
  // A software TPM takes one connection at a time: the unsealer needs this one closed.
  await using tss = await Tss.open({ tcti, nativeDirectory: NATIVE_DIRECTORY });
  return await importSealed(tss, sealed);
}

export async function extendAgentPcr(tpm: SoftwareTpm, events: readonly LaunchEvent[]): Promise<void> {
  await extendPcrs(
    tpm,
    events.map((event) => ({ pcr: 13, ...launchEventDigests(event) })),
  );
}

/** A power cycle, then the measured boot and launch. */
export async function bootInto(tpm: SoftwareTpm, events: readonly LaunchEvent[] = LAUNCH): Promise<void> {
  await tpm.restart();
  await extendPcrs(tpm, BOOT);
  await extendAgentPcr(tpm, events);
}

interface Extension {
  readonly pcr: number;
  readonly sha256: Uint8Array;
  readonly sha384: Uint8Array;
}

async function extendPcrs(tpm: SoftwareTpm, extensions: readonly Extension[]): Promise<void> {
  const args = extensions.map(({ pcr, sha256, sha384 }) => `${pcr}:sha256=${toHex(sha256)},sha384=${toHex(sha384)}`);
  await tpmTool(tpm, "tpm2_pcrextend", ...args);
}

export interface UnsealTry {
  readonly tcti: string;
  readonly request: Uint8Array;
  readonly discard?: boolean;
  readonly sinks?: number;
}

export interface Unsealed {
  readonly answer: UnsealAnswer;
  /** What each sink holds afterwards. */
  readonly received: readonly Uint8Array[];
}

/** Runs the unsealer with named pipes as sinks. */
export async function tryUnseal({ tcti, request, discard = false, sinks = 1 }: UnsealTry): Promise<Unsealed> {
  const pipes = await openPipes(sinks);
  try {
    const answer = await runUnsealer({
      path: UNSEALER,
      tcti,
      request,
      discard,
      sinks: pipes.map(({ writeEnd }) => writeEnd),
    });
    return { answer, received: pipes.map(({ readEnd }) => drain(readEnd)) };
  } finally {
    for (const { readEnd, writeEnd } of pipes) {
      closeSync(readEnd);
      closeSync(writeEnd);
    }
  }
}

export interface Pipe {
  readonly readEnd: number;
  readonly writeEnd: number;
}

/** Named pipes, whose names are gone again. Reading does not block. */
export async function openPipes(count: number): Promise<readonly Pipe[]> {
  const directory = await mkdtemp(join(tmpdir(), "ironclaw-sinks-"));
  const paths = Array.from({ length: count }, (_, index) => join(directory, `${index}`));
  if (count > 0) await run("mkfifo", paths);
  const pipes = paths.map((path) => ({
    readEnd: openSync(path, constants.O_RDONLY | constants.O_NONBLOCK),
    writeEnd: openSync(path, constants.O_WRONLY),
  }));
  await rm(directory, { recursive: true });
  return pipes;
}

/** Everything that is in a pipe now. */
export function drain(fd: number): Uint8Array {
  const parts: Uint8Array[] = [];
  const buffer = new Uint8Array(65_536);
  try {
    for (let got = readSync(fd, buffer); got > 0; got = readSync(fd, buffer)) parts.push(buffer.slice(0, got));
  } catch (error) {
    if (!(error instanceof Error && "code" in error && error.code === "EAGAIN")) throw error;
  }
  return concatBytes(...parts);
}

export async function unsealWith(
  tpm: SoftwareTpm,
  { sealed, imported }: Imported,
  release: Release,
  { anchors }: Pick<SealKeys, "anchors">,
  { discard = false, sinks = 1, tcti = tpm.tcti }: { discard?: boolean; sinks?: number; tcti?: string } = {},
): Promise<Unsealed> {
  const request = unsealRequest({ sealed, imported, release, anchors, sinks });
  return tryUnseal({ tcti, request, discard, sinks });
}

/** What a sink receives: u16 length | secret. */
export function delivered(secret: Uint8Array = PIN): Uint8Array {
  return concatBytes(Uint8Array.of(secret.length >> 8, secret.length & 0xff), secret);
}
