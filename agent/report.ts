import {
  type AttestationKey,
  type CelRecord,
  type Claims,
  type EkCertificate,
  type EndorsementKeyKind,
  type EvidenceSources,
  ekProfileOfCertificateIndex,
  machineUeid,
  measuredClaims,
  type Reason,
  type ShimClaim,
  type Tpm,
} from "../attest/index.ts";
import { concatBytes, fromHex, policyExceptions, type Release, syscallName } from "../policy/index.ts";
import { ekProfileOfName, type SealedPackage } from "../seal/index.ts";
import type { AuditLog } from "./audit/log.ts";
import type { AgentConfig } from "./config.ts";
import type { LaunchRecord } from "./launch/environment.ts";
import type { LaunchInputs } from "./launch/inputs.ts";
import { keyClaim } from "./launch/keys.ts";
import type { MeasurementLog } from "./launch/measurement-log.ts";
import type { LaunchState } from "./launch/state.ts";
import { reportedReasons } from "./reported-reasons.ts";
import { type AttemptCounts, sumAttempts } from "./shims/attempts.ts";

export const SOFTWARE = { name: "ironclaw-guest-agent", version: "0.1.0" } as const;

/** Those that credentials are sealed to come first. */
const preferredEks: readonly EndorsementKeyKind[] = ["p384", "rsa2048", "p256", "p256-high", "rsa2048-high"];

/** The EK that this machine is known by: the one its credentials are sealed to, else the first that has a certificate, else P-384. */
export function endorsementKeyKind(
  sealed: Pick<SealedPackage, "ekName"> | undefined,
  certificates: readonly Pick<EkCertificate, "nvIndex">[],
): EndorsementKeyKind {
  if (sealed !== undefined) return ekProfileOfName(sealed.ekName)?.kind ?? "p384";
  const certified = certificates.map(({ nvIndex }) => ekProfileOfCertificateIndex(nvIndex)?.kind);
  return preferredEks.find((kind) => certified.includes(kind)) ?? "p384";
}

/** Everything a report is made of, gathered once when the agent starts and read at each challenge. */
export interface ReportSources {
  readonly tpm: Tpm;
  readonly ak: AttestationKey;
  readonly ekKind: EndorsementKeyKind;
  readonly ekName: Uint8Array;
  readonly ekCertificates: readonly Uint8Array[];
  readonly firmwareLog: Uint8Array;
  /** The kernel's boot_id, 16 bytes. */
  readonly bootSeed: Uint8Array;
  readonly log: MeasurementLog;
  readonly record: LaunchRecord;
  readonly inputs: Partial<LaunchInputs>;
  readonly audit: AuditLog;
  /** Whether the machine is one of our images, as its measured configuration says. */
  readonly system: AgentConfig["system"];
  /** Every shim of the launch, ascending by id. */
  shims(): Promise<readonly ShimClaim[]>;
  /** The TPM's epoch counter now, `null` where it has none. */
  epoch(): Promise<bigint | null>;
}

/** The sources in the form in which `collectEvidence` takes them. */
export function evidenceSources(sources: ReportSources): EvidenceSources {
  return {
    ekCertificates: sources.ekCertificates,
    firmwareLog: sources.firmwareLog,
    locked: (act) => sources.log.locked(act),
    claims: (nonce, records) => currentClaims(sources, nonce, records),
  };
}

async function currentClaims(
  sources: ReportSources,
  nonce: Uint8Array,
  records: readonly CelRecord[],
): Promise<Claims> {
  const { record, inputs, audit } = sources;
  const head = audit.durableHead();
  return {
    nonce,
    ueid: machineUeid(sources.ekName),
    bootSeed: sources.bootSeed,
    software: SOFTWARE,
    debugEnabled: record.release?.image.variant === "dev",
    measured: measuredClaims(record.state.kind, records),
    asserted: {
      machine: inputs.machine ?? "unnamed",
      image: imageOf(sources.system, record.release),
      reasons: reasonsOf(record.state),
      unseal: record.answers,
      tokens: record.tokens,
      keys: record.keys.map(keyClaim),
      probeWitnessed: syscallCounts(record.witnessed),
      violations: violationCounts(record),
      audit: { seq: head.seq, hash: fromHex(head.hash) },
      epoch: await sources.epoch(),
      shims: await sources.shims(),
      lacks: record.lacks,
      exceptions: inputs.policy === undefined ? [] : policyExceptions(inputs.policy),
      incidents: record.incidents,
    },
    selfReported: { probe: new Map(record.probe.map(({ name, errno }) => [name, errno])) },
  };
}

function reasonsOf(state: LaunchState): readonly Reason[] {
  return "reasons" in state ? reportedReasons(state.reasons) : [];
}

/**
 * Without a release nothing says which image this is; the boot PCRs do. An installed agent claims no image's variant, whatever a release
 * calls it: a verifier refuses where the two differ.
 */
function imageOf(system: AgentConfig["system"], release: Release | undefined): Claims["asserted"]["image"] {
  const image = release?.image ?? { id: "unknown", variant: "release" };
  return system === "installed" ? { ...image, variant: "installed" } : image;
}

/** What the libraries have tried, of all shims together, ended ones too. */
export function violationCounts({ shims }: Pick<LaunchRecord, "shims">): ReadonlyMap<string, number> {
  return syscallCounts(sumAttempts(shims.map((shim) => shim.attempts())));
}

/** Counts by the system call's name. A shim's filter shows what is on its watch list, so there are never more than there are such calls. */
function syscallCounts(counts: AttemptCounts): ReadonlyMap<string, number> {
  return new Map(Object.entries(counts).map(([nr, count]) => [syscallName(Number(nr)), count]));
}

/** A report on the report port: u32 length, then the evidence. */
export function frameReport(evidence: Uint8Array): Uint8Array {
  const length = new Uint8Array(4);
  new DataView(length.buffer).setUint32(0, evidence.length);
  return concatBytes(length, evidence);
}
