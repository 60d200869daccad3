import { bankAlgorithm, type PcrBank, resetValue } from "../../attest/banks.ts";
import { celRecord, encodeCel, replayCel } from "../../attest/cel.ts";
import type { Claims, KeyClaim, ShimClaim, TokenClaim } from "../../attest/claims.ts";
import { encodeClaims, measureKey, measureToken } from "../../attest/claims-codec.ts";
import type { Enrolment } from "../../attest/enrolment.ts";
import {
  type Challenge,
  defaultQuotePcrs,
  type Evidence,
  encodeEkCertificates,
  encodePcrs,
  measureExtraData,
} from "../../attest/evidence.ts";
import type { ReferenceValues } from "../../attest/finding.ts";
import { parseFirmwareLog, replayFirmwareLog } from "../../attest/firmware-log.ts";
import { type Incident, incidentEvent } from "../../attest/incidents.ts";
import { type LaunchEvent, launchEvent } from "../../attest/launch-events.ts";
import { measuredClaims } from "../../attest/measured-claims.ts";
import {
  encodeTpmPublic,
  encodeTpmSignature,
  endorsementPrimaryQualifiedName,
  type TpmPublic,
  tpmName,
} from "../../attest/tpm-structures.ts";
import { machineUeid } from "../../attest/verify.ts";
import { AGENT_PCR, ByteWriter, concatBytes, sha256, toBase64, toHex, utf8 } from "../../policy/index.ts";
import { typicalLog } from "./firmware-log-writer.ts";

/** A key in software that signs whatever it is told: what an attacker has, and what tests of the verifier need. */
export interface SoftKey {
  readonly publicArea: Uint8Array;
  sign(message: Uint8Array): Promise<Uint8Array>;
}

export async function softEccKey(changes: Partial<TpmPublic> = {}): Promise<SoftKey> {
  const pair = await crypto.subtle.generateKey({ name: "ECDSA", namedCurve: "P-256" }, true, ["sign", "verify"]);
  const point = new Uint8Array(await crypto.subtle.exportKey("raw", pair.publicKey));
  const area = {
    kind: "ecc",
    nameAlg: 0x000b,
    attributes: 0x50472,
    authPolicy: new Uint8Array(),
    symmetric: null,
    scheme: { scheme: 0x0018, hash: 0x000b },
    curve: 3,
    x: point.slice(1, 33),
    y: point.slice(33),
    ...changes,
  } as TpmPublic;
  return {
    publicArea: encodeTpmPublic(area),
    async sign(message) {
      const raw = new Uint8Array(
        await crypto.subtle.sign({ name: "ECDSA", hash: "SHA-256" }, pair.privateKey, Uint8Array.from(message)),
      );
      return encodeTpmSignature({ kind: "ecdsa", hash: 0x000b, r: raw.slice(0, 32), s: raw.slice(32) });
    },
  };
}

export async function softRsaKey(): Promise<SoftKey> {
  const algorithm = {
    name: "RSASSA-PKCS1-v1_5",
    hash: "SHA-256",
    modulusLength: 2048,
    publicExponent: Uint8Array.of(1, 0, 1),
  };
  const pair = await crypto.subtle.generateKey(algorithm, true, ["sign", "verify"]);
  const { n } = await crypto.subtle.exportKey("jwk", pair.publicKey);
  const publicArea = encodeTpmPublic({
    kind: "rsa",
    nameAlg: 0x000b,
    attributes: 0x50472,
    authPolicy: new Uint8Array(),
    symmetric: null,
    scheme: { scheme: 0x0014, hash: 0x000b },
    keyBits: 2048,
    exponent: 0,
    modulus: Uint8Array.fromBase64(n ?? "", { alphabet: "base64url" }),
  });
  return {
    publicArea,
    async sign(message) {
      const signature = new Uint8Array(
        await crypto.subtle.sign(algorithm.name, pair.privateKey, Uint8Array.from(message)),
      );
      return encodeTpmSignature({ kind: "rsassa", hash: 0x000b, signature });
    },
  };
}

export interface AttestFields {
  magic: number;
  type: number;
  qualifiedSigner: Uint8Array;
  extraData: Uint8Array;
  safe: number;
  selections: readonly { hash: number; pcrs: readonly number[] }[];
  pcrDigest: Uint8Array;
}

function encodeQuoteAttest(fields: AttestFields): Uint8Array {
  const writer = new ByteWriter()
    .u32(fields.magic)
    .u16(fields.type)
    .sized16(fields.qualifiedSigner)
    .sized16(fields.extraData);
  writer.u64(123456n).u32(3).u32(0).u8(fields.safe).u64(0x20191023n).u32(fields.selections.length);
  for (const { hash, pcrs } of fields.selections) {
    const bitmap = new Uint8Array(3);
    for (const pcr of pcrs) bitmap[pcr >> 3] = (bitmap[pcr >> 3] ?? 0) | (1 << (pcr & 7));
    writer.u16(hash).u8(3).bytes(bitmap);
  }
  return writer.sized16(fields.pcrDigest).finish();
}

const digestOf = (text: string) => sha256(utf8(text));

export const token: TokenClaim = {
  name: "signing",
  label: "hsm",
  serial: "0001",
  manufacturer: "SoftHSM",
  model: "v2",
  firmware: "2.6",
};
/** Another one, first in the order of names. */
export const secondToken: TokenClaim = { ...token, name: "payments", label: "payments", serial: "2f00bb" };
export const servedKey: KeyClaim = {
  name: "release",
  token: "signing",
  spki: "ab".repeat(32),
  does: "sign",
  attributes: { sensitive: true, extractable: false, alwaysSensitive: true, neverExtractable: true, local: true },
};

export const shimProcess = {
  uid: 991,
  seccompFilters: 3,
  inheritedFilters: 0,
  capabilities: "0000000000000000",
  namespaces: ["net:[4026532000]"],
};
export const shim: ShimClaim = { token: "signing", id: 0, role: "active", landlock: 6, process: shimProcess };

export function referenceEvents(): LaunchEvent[] {
  return [
    launchEvent("config", "agent.json", digestOf("config")),
    launchEvent("anchors", "anchors", digestOf("anchors")),
    launchEvent("policy", "policy", digestOf("policy")),
    launchEvent("profile", "local", digestOf("profile")),
    launchEvent("library", "/usr/lib/libsofthsm2.so", digestOf("library")),
    launchEvent("closure", "/lib64/ld-linux-x86-64.so.2", digestOf("loader")),
    launchEvent("closure", "/usr/lib/ironclaw/shim", digestOf("shim")),
    launchEvent("file", "/etc/softhsm2.conf", digestOf("conf")),
    launchEvent("environment", "softhsm", digestOf("environment")),
    launchEvent("devices", "devices", digestOf("devices")),
  ];
}

export function servingEvents(): LaunchEvent[] {
  return [
    ...referenceEvents(),
    launchEvent("token", token.name, measureToken(token)),
    launchEvent("key", servedKey.name, measureKey(servedKey)),
    launchEvent("cap", "serving", digestOf("")),
  ];
}

const ekName = concatBytes(Uint8Array.of(0, 0x0b), digestOf("ek"));
export const nonce = sha256(utf8("a fresh nonce"));

export interface Scene {
  bank: PcrBank;
  asked: readonly number[];
  quoted: readonly number[];
  events: readonly LaunchEvent[];
  firmwareLog: Uint8Array;
  key: SoftKey;
  enrolledKey: SoftKey;
  launch: Claims["measured"]["launch"];
  asserted: Partial<Claims["asserted"]>;
  claims: Partial<Claims>;
  /** What happened after `events`, measured and told. */
  incidents: readonly Incident[];
  /** Changes what is quoted after everything else was computed. */
  attest: Partial<AttestFields>;
  values: ReadonlyMap<number, Uint8Array> | null;
}

export interface Made {
  readonly evidence: Evidence;
  readonly challenge: Challenge;
  readonly enrolment: Enrolment;
}

const defaultKey = softEccKey();

/** A report of an honest, serving machine, with any part of it changed. */
export async function makeEvidence(changes: Partial<Scene> = {}): Promise<Made> {
  const key = changes.key ?? (await defaultKey);
  const scene: Scene = {
    bank: "sha256",
    asked: defaultQuotePcrs,
    quoted: changes.asked ?? defaultQuotePcrs,
    firmwareLog: typicalLog(),
    key,
    enrolledKey: key,
    launch: "serving",
    asserted: {},
    claims: {},
    attest: {},
    values: null,
    incidents: [],
    ...changes,
    events: [...(changes.events ?? servingEvents()), ...(changes.incidents ?? []).map(incidentEvent)],
  };
  const records = scene.events.map((event, index) => celRecord(index, AGENT_PCR, event));
  const bound = {
    ak: scene.key.publicArea,
    claims: encodeClaims(makeClaims(scene)),
    agentLog: encodeCel(records),
    firmwareLog: scene.firmwareLog,
    ekCertificates: encodeEkCertificates([]),
  };
  const values = scene.values ?? pcrValues(scene);
  const attest = encodeQuoteAttest({
    magic: 0xff544347,
    type: 0x8018,
    qualifiedSigner: endorsementPrimaryQualifiedName(scene.key.publicArea),
    extraData: measureExtraData(nonce, bound),
    safe: 1,
    selections: [{ hash: bankAlgorithm(scene.bank), pcrs: scene.quoted }],
    pcrDigest: sha256(concatBytes(...values.values())),
    ...scene.attest,
  });
  const evidence = {
    ...bound,
    pcrs: encodePcrs({ bank: scene.bank, values }),
    quote: attest,
    signature: await scene.key.sign(attest),
  };
  return {
    evidence,
    challenge: { nonce, bank: scene.bank, pcrs: scene.asked },
    enrolment: makeEnrolment(scene.enrolledKey),
  };
}

function pcrValues(scene: Scene): ReadonlyMap<number, Uint8Array> {
  const firmware = replayFirmwareLog(parseFirmwareLog(scene.firmwareLog), scene.bank);
  const records = scene.events.map((event, index) => celRecord(index, AGENT_PCR, event));
  const value = (pcr: number) =>
    pcr === AGENT_PCR ? replayCel(records, scene.bank) : (firmware.get(pcr) ?? resetValue(scene.bank, pcr));
  return new Map(scene.quoted.map((pcr) => [pcr, value(pcr)]));
}

export function makeClaims(
  scene: Pick<Scene, "events" | "launch" | "asserted" | "claims"> & Partial<Pick<Scene, "incidents">>,
): Claims {
  const records = scene.events.map((event, index) => celRecord(index, AGENT_PCR, event));
  return {
    nonce,
    ueid: machineUeid(ekName),
    bootSeed: Uint8Array.fromHex("b0".repeat(16)),
    software: { name: "ironclaw", version: "0.1.0" },
    debugEnabled: false,
    measured: measuredClaims(scene.launch, records),
    asserted: {
      machine: "m1",
      image: { id: "11".repeat(32), variant: "release" },
      reasons: [],
      unseal: [],
      tokens: [token],
      keys: [servedKey],
      probeWitnessed: new Map([["ptrace", 1]]),
      violations: new Map(),
      audit: { seq: 7, hash: digestOf("head") },
      epoch: 1n,
      shims: [shim],
      lacks: [],
      exceptions: [],
      incidents: scene.incidents ?? [],
      ...scene.asserted,
    },
    selfReported: {
      probe: new Map(
        ["execve", "ptrace", "io_uring_setup", "bpf", "mount", "unshare", "socket AF_INET"].map((name) => [name, 1]),
      ),
    },
    ...scene.claims,
  };
}

export function makeEnrolment(key: SoftKey): Enrolment {
  return {
    version: 1,
    name: "m1",
    ekName: toHex(ekName),
    akPublic: toBase64(key.publicArea),
    akName: toHex(tpmName(key.publicArea)),
    assurance: "provider-ek",
    ekCertificateSha256: null,
  };
}

/** The release that the honest machine runs. */
export function makeReference(): ReferenceValues {
  const log = parseFirmwareLog(typicalLog());
  const pcrs = (bank: PcrBank) =>
    Object.fromEntries([...replayFirmwareLog(log, bank)].map(([pcr, value]) => [`${pcr}`, toHex(value)]));
  return {
    name: "test release",
    image: { id: "11".repeat(32), variant: "release" },
    pcrs: {
      sha256: { ...pcrs("sha256"), "14": "00".repeat(32) },
      sha384: { ...pcrs("sha384"), "14": "00".repeat(48) },
    },
    events: referenceEvents().map(({ kind, name, sha256: digest }) => ({
      kind: kind as "config",
      name,
      sha256: toHex(digest),
    })),
    notBefore: "2026-01-01T00:00:00Z",
    notAfter: "2027-01-01T00:00:00Z",
  };
}

export const inTime = new Date("2026-06-01T00:00:00Z");
