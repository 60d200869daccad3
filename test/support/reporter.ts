import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { expect } from "vitest";
import { openAudit } from "../../agent/audit/open.ts";
import { evidenceSources, type ReportSources } from "../../agent/report.ts";
import {
  type AttestationKeyKind,
  type Challenge,
  collectEvidence,
  defaultQuotePcrs,
  type Enrolment,
  encodeEvidence,
  parseEvidence,
  type VerifiedEvidence,
  verifyEvidence,
} from "../../attest/index.ts";
import { toBase64, toHex, utf8 } from "../../policy/index.ts";
import { type Boot, FIRMWARE_LOG, LAUNCH_PIN, type LaunchBench } from "./launch-fixture.ts";

export interface Reporter {
  readonly sources: ReportSources;
  readonly enrolment: Enrolment;
}

/** What the agent gathers when it starts, and what a verifier knows of the machine. */
export async function openReporter(
  { directory }: Pick<LaunchBench, "directory">,
  { tpm, log, record, inputs }: Pick<Boot, "tpm" | "log" | "record" | "inputs">,
  kind?: AttestationKeyKind,
): Promise<Reporter> {
  const ak = await tpm.createAttestationKey(kind);
  const { name: ekName } = await tpm.endorsementKey("p384");
  const path = join(directory, `audit-${randomBytes(4).toString("hex")}`);
  const sources: ReportSources = {
    ...{ tpm, ak, ekName, log, record, inputs: inputs.partial, ekKind: "p384", system: "image" },
    audit: openAudit({ directory: path, now: Date.now, anchor: null }),
    ekCertificates: (await tpm.ekCertificates()).map(({ der }) => der),
    firmwareLog: FIRMWARE_LOG,
    bootSeed: new Uint8Array(randomBytes(16)),
    shims: async () => [],
    epoch: async () => 1n,
  };
  const keys = { ekName: toHex(ekName), akPublic: toBase64(ak.publicArea), akName: toHex(ak.name) };
  const how = { assurance: "software-tpm", ekCertificateSha256: null } as const;
  return { sources, enrolment: { version: 1, name: "bench-vm", ...keys, ...how } };
}

export const challengeFor = (bank: Challenge["bank"]): Challenge => ({
  ...{ bank, nonce: new Uint8Array(randomBytes(32)), pcrs: defaultQuotePcrs },
});

/** One report over the wire format, verified as a remote verifier does. */
export async function report(
  { sources, enrolment }: Reporter,
  bank: Challenge["bank"] = "sha256",
): Promise<VerifiedEvidence> {
  const challenge = challengeFor(bank);
  const { tpm, ak } = sources;
  const bytes = encodeEvidence(await collectEvidence(tpm, ak, evidenceSources(sources), challenge));
  const pin = utf8(LAUNCH_PIN);
  for (const form of [pin, utf8(toHex(pin)), utf8(toBase64(pin))]) {
    expect(Buffer.from(bytes).includes(form)).toBe(false); // I4
  }
  return verifyEvidence(parseEvidence(bytes), challenge, enrolment, null);
}
