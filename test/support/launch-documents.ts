import { readFileSync, realpathSync } from "node:fs";
import { join } from "node:path";
import { type AgentConfig, parseConfig } from "../../agent/config.ts";
import { expectedLaunchEvents } from "../../agent/launch/expected-events.ts";
import { SHIM_PATH } from "../../agent/launch/files.ts";
import {
  extendPcr,
  hashInBank,
  type LaunchEvent,
  measureClosure,
  modulePolicy,
  type PcrBank,
  type Pin,
  predictAgentPcr,
} from "../../attest/index.ts";
import {
  AGENT_PCR,
  concatBytes,
  encodeAnchors,
  encodeBundle,
  type PolicyDocument,
  parsePolicy,
  type Release,
  type SlotName,
  sha256,
  sha256Hex,
  toHex,
  utf8,
  verifyReleaseSignatures,
} from "../../policy/index.ts";
import {
  type CredentialLabel,
  memoryMedium,
  type ReleaseDraft,
  type StoreMedium,
  sealOffline,
  signSealedPackage,
  verifySealedPackage,
} from "../../seal/index.ts";
import { logEvent, logHeader } from "./firmware-log-writer.ts";
import type { LaunchBench } from "./launch-fixture.ts";
import { LAUNCH_PIN } from "./launch-token.ts";
import { DELEGATED, LABEL, type SealKeys, signedRelease } from "./seal-fixture.ts";

export const DEVICES: readonly string[] = ["1af4:1041", "1af4:1042"];
const DAY = 86_400_000;

/** What the firmware of this test machine measured: PCR and data of each event. */
export const FIRMWARE: readonly (readonly [number, Uint8Array])[] = [
  [4, utf8("unified kernel image")],
  [9, utf8("initrd")],
  [11, utf8("sections")],
];
/** The event log that explains `FIRMWARE`. */
export const FIRMWARE_LOG: Uint8Array = concatBytes(
  logHeader(),
  ...FIRMWARE.map(([pcr, data]) => logEvent(pcr, 0xd, data)),
);

/** A policy document in which a test may change anything. */
export type PolicyDraft = { -readonly [K in keyof PolicyDocument]: PolicyDocument[K] };

/** The policy's name of the bench's library. */
export const BENCH_MODULE = "bench";

/** Other fields for the bench's library. */
export function changeModule(draft: PolicyDraft, changes: Partial<PolicyDocument["modules"][string]>): void {
  const module = draft.modules[BENCH_MODULE];
  if (module === undefined) throw new TypeError("policy draft: no module of the bench");
  draft.modules = { ...draft.modules, [BENCH_MODULE]: { ...module, ...changes } };
}

export interface CredentialOrder {
  readonly label: Pick<CredentialLabel, "name"> & Partial<CredentialLabel>;
  readonly secret: Uint8Array;
}

export interface Provisioning {
  readonly policy?: (draft: PolicyDraft) => void;
  readonly pin?: string;
  /** Of the PIN's package. By default generation 1, for the token of the bench. */
  readonly label?: Partial<CredentialLabel>;
  readonly draft?: (draft: ReleaseDraft) => ReleaseDraft;
  readonly delegated?: Partial<typeof DELEGATED>;
  /** DER of the endorsement key to seal to; by default this TPM's. */
  readonly ekCertificate?: Uint8Array;
  readonly config?: Partial<AgentConfig>;
  /** Credentials besides the PIN; delegated too. */
  readonly credentials?: readonly CredentialOrder[];
  /** New documents for this one's machine: its store and what its TPM remembers stay. Default: another machine. */
  readonly on?: Pick<Provisioned, "identity">;
}

/** Everything an operator makes offline for one machine, and what the launch on it should measure. */
export interface Provisioned {
  readonly slots: ReadonlyMap<SlotName, Uint8Array>;
  readonly configBytes: Uint8Array;
  readonly events: readonly LaunchEvent[];
  readonly release: Release;
  readonly releaseBytes: Uint8Array;
  /** Each credential's package. */
  readonly packages: ReadonlyMap<string, Uint8Array>;
  /** What a machine has besides its TPM. */
  readonly identity: { readonly store: StoreMedium };
}

type Tools = Pick<LaunchBench, "directory" | "bus" | "token" | "keys" | "programs" | "ekCertificate">;

export async function provision(bench: Tools, changes: Provisioning): Promise<Provisioned> {
  const configBytes = encodeConfig(bench, changes.config ?? {});
  const draft = policyDraft(bench);
  changes.policy?.(draft);
  const policyBytes = utf8(JSON.stringify(draft));
  const policy = parsePolicy(policyBytes);
  const anchorsBytes = encodeAnchors(bench.keys.anchors);
  const documents = { config: parseConfig(configBytes), configBytes, anchorsBytes, policy, policyBytes };
  const events = expectedLaunchEvents(documents, sha256(read(join(bench.programs, "shim"))));
  const packages = new Map<string, Uint8Array>();
  for (const { label, secret } of [pinOrder(bench, changes), ...(changes.credentials ?? [])]) {
    packages.set(label.name, await sealOnBench(bench, { label, secret }, changes.ekCertificate));
  }
  const releaseBytes = await signedRelease(bench.keys, (changes.draft ?? ((same) => same))(benchDraft(events)), {
    ...{ ...DELEGATED, credentials: [...packages.keys()] },
    ...changes.delegated,
  });
  const release = await verifyReleaseSignatures(releaseBytes, bench.keys.root.spkiPem);
  const module = [bench.token.library, ...bench.token.config].map((path): [string, Uint8Array] => [
    path,
    read(realpathSync(path)),
  ]);
  return {
    ...{ configBytes, events, release, releaseBytes, packages },
    identity: changes.on?.identity ?? { store: memoryMedium() },
    slots: new Map<SlotName, Uint8Array>([
      ["module", encodeBundle(module)],
      ["policy", policyBytes],
      ["anchors", anchorsBytes],
      ["release", bundle(releaseBytes)],
      ["sealed", bundle(...packages.values())],
      ["machine", utf8('{"name":"bench-vm"}')],
    ]),
  };
}

/** The same documents on a machine that has kept nothing. */
export function afresh(provisioned: Provisioned): Provisioned {
  return { ...provisioned, identity: { store: memoryMedium() } };
}

/** A slot with these documents, one file each. */
export function bundle(...documents: readonly Uint8Array[]): Uint8Array {
  return encodeBundle(documents.map((bytes, index) => [`/${index}.json`, bytes]));
}

function pinOrder({ token }: Tools, { pin, label }: Provisioning): CredentialOrder {
  return { label: { ...LABEL, tokenSerial: token.serial, ...label }, secret: utf8(pin ?? LAUNCH_PIN) };
}

/** A package of this bench's operator for its TPM, or for the one of another certificate. */
export function sealOnBench(
  { ekCertificate, keys }: Pick<LaunchBench, "ekCertificate"> & { readonly keys: Pick<SealKeys, "root" | "operator"> },
  { label, secret }: CredentialOrder,
  otherCertificate?: Uint8Array,
): Promise<Uint8Array> {
  return sealOffline({
    ekCertificate: otherCertificate ?? ekCertificate,
    secret: Uint8Array.from(secret),
    rootKeyPem: keys.root.spkiPem,
    label: { ...LABEL, ...(label.kind === undefined || label.kind === "pin" ? {} : { tokenSerial: null }), ...label },
    operator: keys.operator,
  });
}

/** A package with another character in its signature: still base64, so that what it claims to be can be read. */
export function wrongSignature(envelope: Uint8Array): Uint8Array {
  const [a = 0, b = 0] = utf8("AB");
  const at = envelope.length - 20;
  return envelope.map((byte, index) => (index !== at ? byte : byte === a ? b : a));
}

type BlobField = "duplicate" | "encryptedSeed" | "nonce" | "ciphertext";

/** A package in which the operator signed other bytes than were sealed. */
export async function damagedPackage(
  { keys }: Pick<LaunchBench, "keys">,
  envelope: Uint8Array,
  field: BlobField,
): Promise<Uint8Array> {
  const sealed = await verifySealedPackage(envelope, keys.anchors);
  const last = sealed[field].length - 1;
  const changed = sealed[field].map((byte, index) => (index === last ? byte ^ 1 : byte));
  return signSealedPackage({ ...sealed, [field]: changed }, keys.operator);
}

function encodeConfig({ programs, bus, directory }: Tools, changes: Partial<AgentConfig>): Uint8Array {
  const config: AgentConfig = {
    version: 1,
    system: "image",
    agentPcr: AGENT_PCR,
    tcti: bus.tcti("unsealer"),
    cabinet: join(directory, "cabinet"),
    programs,
    scopes: join(directory, "scopes"),
    auditLog: join(directory, "audit.log"),
    stateVolume: false,
    store: null,
    attestationKey: "p256",
    firmwareLog: join(directory, "firmware-event-log"),
    pciDevices: join(directory, "pci"),
    usbDevices: join(directory, "usb"),
    controlPort: join(directory, "control"),
    reportPort: join(directory, "report"),
    ...changes,
  };
  return utf8(`${JSON.stringify(config, null, 2)}\n`);
}

/** A library of this machine with its closure: what the shim loads it with is not its own. */
export function pinOf({ programs }: Pick<LaunchBench, "programs">, library: string): Pin {
  const pin = measureClosure({
    entry: library,
    executable: SHIM_PATH,
    readFile: (path) => readIfThere(path === SHIM_PATH ? join(programs, "shim") : path),
    realPath: (path) => (path === SHIM_PATH ? path : realpathSync(path)),
  });
  const { [SHIM_PATH]: _shim, ...closure } = pin.closure;
  return { ...pin, closure };
}

/** The policy of a machine with this token, whose caller nobody is. */
export function policyDraft({ programs, token }: Pick<Tools, "programs" | "token">): PolicyDraft {
  const config = Object.fromEntries(token.config.map((path) => [path, sha256Hex(read(path))]));
  const keys = Object.entries(token.keys).map(([name, spki]): [string, PolicyDocument["keys"][string]] => [
    name,
    { spki: `sha256:${sha256Hex(spki)}`, does: "sign" },
  ]);
  return {
    version: 3,
    serial: 1,
    owner: "bench",
    reviewBy: "2027-11-01",
    modules: {
      [BENCH_MODULE]: {
        ...modulePolicy(pinOf({ programs }, token.library), config, token.environment),
        profile: { name: "local", sha256: sha256Hex(read(join(programs, "local.profile"))) },
        nodes: [],
        writable: [token.directory],
        connect: [],
        files: {},
        spares: 0,
      },
    },
    tokens: { [token.label]: { module: BENCH_MODULE, label: token.label, serial: token.serial, pin: "hsm-pin" } },
    devices: [...DEVICES],
    sandbox: { lacks: [] },
    onViolation: "kill",
    onLoginLost: "stop",
    keys: Object.fromEntries(keys),
    callers: { signer: { uid: 2001, exe: [`sha256:${"5e".repeat(32)}`], unit: null } },
    scopes: [
      {
        name: "release-signing",
        caller: "signer",
        key: "release-ec",
        mechanisms: [{ type: "CKM_ECDSA", digest: "sha256" }],
        audit: "written",
      },
    ],
  };
}

/** A release of epoch 1 for what the bench's firmware and a launch with these events measure. */
export function benchDraft(events: readonly LaunchEvent[]): ReleaseDraft {
  const agent = predictAgentPcr(events);
  const inBank = (bank: PcrBank) => ({ ...bootPcrs(bank), [AGENT_PCR]: toHex(agent[bank]) });
  return {
    name: "bench-1",
    image: { id: "ab".repeat(32), variant: "demo" },
    epoch: 1,
    notBefore: new Date(Date.now() - DAY).toISOString(),
    notAfter: new Date(Date.now() + DAY).toISOString(),
    pcrs: { sha256: inBank("sha256"), sha384: inBank("sha384") },
    events: events.map((event) => ({ ...event, sha256: toHex(event.sha256) })) as ReleaseDraft["events"],
    raise: false,
  };
}

function bootPcrs(bank: PcrBank): Record<string, string> {
  const after = (index: number) =>
    FIRMWARE.filter(([pcr]) => pcr === index).reduce<Uint8Array>(
      (value, [, data]) => extendPcr(bank, value, hashInBank(bank, data)),
      new Uint8Array(bank === "sha256" ? 32 : 48),
    );
  return Object.fromEntries([4, 9, 11, 12].map((index) => [index, toHex(after(index))]));
}

function read(path: string): Uint8Array {
  return new Uint8Array(readFileSync(path));
}

function readIfThere(path: string): Uint8Array | null {
  try {
    return read(path);
  } catch {
    return null;
  }
}
