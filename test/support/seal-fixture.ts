import { execFile } from "node:child_process";
import { closeSync, constants, openSync, readSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { promisify } from "node:util";
import { type LaunchEvent, launchEventDigests, predictAgentPcr } from "../../attest/index.ts";
import { type Anchors, type Release, type SigningKey, sha256, toHex, utf8, verifyRelease } from "../../policy/index.ts";
import { createSigningKey, type SigningKeyKind } from "../../seal/keys.ts";
import { sealOffline } from "../../seal/offline-seal.ts";
import { type SealedPackage, verifySealedPackage } from "../../seal/package.ts";
import { type ReleaseDraft, signDelegation, signRelease } from "../../seal/release.ts";
import { runUnsealer, unsealRequest } from "../../seal/unseal.ts";
import type { UnsealAnswer } from "../../seal/unseal-answer.ts";
import type { SoftwareTpm } from "./swtpm.ts";

const run = promisify(execFile);

/** A day inside every release made here. */
export const NOW = new Date("2027-01-15T12:00:00Z");
export const PIN = utf8("correct horse 4711");
export const UNSEALER = resolve(import.meta.dirname, "../../build/native/unsealer");

/** What the test's launch measures; the agent PCR of every release made here is its replay. */
export const LAUNCH: readonly LaunchEvent[] = [
  {
    kind: "config",
    name: "/etc/ironclaw/agent.json",
    sha256: sha256(utf8("configuration")),
  },
  {
    kind: "library",
    name: "/usr/lib/softhsm/libsofthsm2.so",
    sha256: sha256(utf8("library")),
  },
];

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
    anchors: {
      version: 1,
      releaseRoot: root.spkiPem,
      operator: operator.spkiPem,
    },
  };
}

/** A draft for a TPM whose PCRs are as after its start: zero but for the agent's. */
export function releaseDraft(events: readonly LaunchEvent[] = LAUNCH): ReleaseDraft {
  const agent = predictAgentPcr(events);
  const zeros = (bytes: number) => Object.fromEntries([4, 9, 11, 12].map((index) => [index, "00".repeat(bytes)]));
  return {
    name: "test",
    image: { id: "ab".repeat(32), variant: "demo" },
    epoch: 1,
    notBefore: "2027-01-01T00:00:00Z",
    notAfter: "2027-12-31T23:59:59Z",
    pcrs: {
      sha256: { ...zeros(32), 13: toHex(agent.sha256) },
      sha384: { ...zeros(48), 13: toHex(agent.sha384) },
    },
    events: events.map(
      ({ kind, name, sha256: digest }) =>
        ({
          kind,
          name,
          sha256: toHex(digest),
        }) as ReleaseDraft["events"][number],
    ),
  };
}

export async function makeRelease(keys: SealKeys, draft = releaseDraft()): Promise<Release> {
  return verifyRelease(await signedRelease(keys, draft), keys.root.spkiPem, NOW);
}

export async function signedRelease(keys: SealKeys, draft = releaseDraft()): Promise<Uint8Array> {
  const delegation = await signDelegation(keys.root, keys.releaseKey.spkiPem);
  return signRelease(draft, { releaseKey: keys.releaseKey, delegation });
}

/** The EK certificate, DER, from the TPM's NV: 0x01c00002 RSA-2048, 0x01c00016 P-384. */
export async function readEkCertificate(tpm: SoftwareTpm, ek: "rsa" | "p384"): Promise<Uint8Array> {
  const { stdout } = await run("tpm2_nvread", ["-C", "o", ek === "rsa" ? "0x01c00002" : "0x01c00016"], {
    encoding: "buffer",
    env: { ...process.env, TPM2TOOLS_TCTI: tpm.tcti },
  });
  return Uint8Array.from(stdout);
}

export async function sealFor(tpm: SoftwareTpm, ek: "rsa" | "p384", keys: SealKeys, pin = PIN): Promise<Uint8Array> {
  return sealOffline({
    ekCertificate: await readEkCertificate(tpm, ek),
    pin: Uint8Array.from(pin),
    rootKeyPem: keys.root.spkiPem,
    name: "hsm-pin",
    generation: 1,
    tokenSerial: "0123456789abcdef",
    operator: keys.operator,
  });
}

export async function openSealed(tpm: SoftwareTpm, ek: "rsa" | "p384", keys: SealKeys): Promise<SealedPackage> {
  return verifySealedPackage(await sealFor(tpm, ek, keys), keys.anchors);
}

/** One of tpm2-tools, as an independent peer. */
export async function tpmTool(tpm: SoftwareTpm, tool: string, ...args: readonly string[]): Promise<string> {
  const { stdout } = await run(tool, [...args], {
    env: { ...process.env, TPM2TOOLS_TCTI: tpm.tcti },
  });
  return stdout;
}

export async function extendAgentPcr(tpm: SoftwareTpm, events: readonly LaunchEvent[]): Promise<void> {
  for (const event of events) {
    const digests = launchEventDigests(event);
    await tpmTool(tpm, "tpm2_pcrextend", `13:sha256=${toHex(digests.sha256)},sha384=${toHex(digests.sha384)}`);
  }
}

/** A power cycle, then the measured launch. */
export async function bootInto(tpm: SoftwareTpm, events: readonly LaunchEvent[] = LAUNCH): Promise<void> {
  await tpm.restart();
  await extendAgentPcr(tpm, events);
}

export interface UnsealTry {
  readonly tcti: string;
  readonly request: Uint8Array;
  readonly discard?: boolean;
  readonly sinks?: number;
}

/** Runs the unsealer with named pipes as sinks; `received` is what each of them holds afterwards. */
export async function tryUnseal({
  tcti,
  request,
  discard = false,
  sinks = 1,
}: UnsealTry): Promise<{ answer: UnsealAnswer; received: Uint8Array[] }> {
  const directory = await mkdtemp(join(tmpdir(), "ironclaw-sinks-"));
  const pipes: { readEnd: number; writeEnd: number }[] = [];
  try {
    for (let index = 0; index < sinks; index++) {
      const path = join(directory, `${index}`);
      await run("mkfifo", [path]);
      pipes.push({
        readEnd: openSync(path, constants.O_RDONLY | constants.O_NONBLOCK),
        writeEnd: openSync(path, constants.O_WRONLY),
      });
    }
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
    await rm(directory, { recursive: true });
  }
}

function drain(fd: number): Uint8Array {
  const buffer = new Uint8Array(4096);
  try {
    return buffer.slice(0, readSync(fd, buffer));
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "EAGAIN") return new Uint8Array();
    throw error;
  }
}

export async function unsealWith(
  tpm: SoftwareTpm,
  sealed: SealedPackage,
  release: Release,
  keys: SealKeys,
  options: { discard?: boolean; sinks?: number; tcti?: string } = {},
): Promise<{ answer: UnsealAnswer; received: Uint8Array[] }> {
  const { discard = false, sinks = 1, tcti = tpm.tcti } = options;
  return tryUnseal({
    tcti,
    request: unsealRequest(sealed, release, keys.anchors, sinks),
    discard,
    sinks,
  });
}

/** What a sink receives: u8 length | PIN. */
export const DELIVERED: Uint8Array = Uint8Array.of(PIN.length, ...PIN);

/** Files in a directory of their own, by name; for tools that take paths. */
export async function withFiles<T>(
  files: Readonly<Record<string, Uint8Array>>,
  use: (at: (name: string) => string) => Promise<T>,
): Promise<T> {
  const directory = await mkdtemp(join(tmpdir(), "ironclaw-files-"));
  try {
    const at = (name: string) => join(directory, name);
    for (const [name, bytes] of Object.entries(files)) await writeFile(at(name), bytes);
    return await use(at);
  } finally {
    await rm(directory, { recursive: true });
  }
}

export async function readBytes(path: string): Promise<Uint8Array> {
  return Uint8Array.from(await readFile(path));
}
