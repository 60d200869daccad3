import { createPublicKey, verify } from "node:crypto";
import { parseTpmPublic, parseTpmSignature } from "../../attest/index.ts";
import { type LaunchEvent, launchEvent } from "../../attest/launch-events.ts";
import {
  type AppraisalPolicy,
  appraise,
  defaultAppraisalPolicy,
  type Enrolment,
  expectedLog,
  type KnownLog,
  parseAnchors,
  parseEnrolment,
  parseEvidence,
  type Release,
  verifyEvidence,
  verifyRelease,
} from "../../attest/verifier.ts";
import {
  bootPcrValues,
  concatBytes,
  decodeCbor,
  decodeSpkiPem,
  delegatedPolicies,
  EPOCH_REF,
  encodePolicyApproval,
  encodePreAuthentication,
  fromBase64,
  fromHex,
  measurePolicy,
  type PolicyStep,
  parseEnvelope,
  RELEASE_REF,
  RELEASE_TYPE,
  raiseSteps,
  releaseSteps,
  sealPcrValues,
  sha256,
  utf8,
} from "../../policy/index.ts";
import { referenceEvents, servingEvents } from "../support/evidence-maker.ts";
import { hostileCbor } from "../support/hostile-cbor.ts";
import { makeSignedReport, type SignedReport } from "../support/signed-report.ts";
import { compareTimes, type Row, type Suite, timeRow } from "./bench.ts";

const KIB = 1024;
const SIZES = [16, 64, 256, 1024] as const;
const WHAT = {
  "verify-report":
    "parse, verify and appraise a report with a 16 KiB agent log and its release, vs all signatures of both in node:crypto",
  "verify-report-known-release":
    "the same by whoever verified the release before, vs the quote's signature in node:crypto",
  "verify-report-linear": "a report with 1 MiB of agent log, vs sixteen with 64 KiB",
  "cbor-hostile": "the slowest of the hostile CBOR inputs of up to 1 MiB, in ms",
} as const;
const TARGET: Readonly<Record<keyof typeof WHAT, number>> = {
  "verify-report": 3,
  "verify-report-known-release": 3,
  "verify-report-linear": 1.3,
  "cbor-hostile": 50,
};
type Id = keyof typeof WHAT;
const row = (id: Id) => ({ id, what: WHAT[id], target: TARGET[id] });

/** The verifier as a library: no HTTP, no files. */
export const verifySuite: Suite = {
  ids: Object.keys(WHAT),
  run: async (wanted, { iterations }) => {
    const rows: Row[] = [];
    for (const [id, measure] of Object.entries(MEASURES)) if (wanted.has(id)) rows.push(await measure(iterations));
    return rows;
  },
};

const MEASURES: Readonly<Record<Id, (iterations: number) => Promise<Row>>> = {
  "verify-report": (iterations) => measureReport("verify-report", iterations),
  "verify-report-known-release": (iterations) => measureReport("verify-report-known-release", iterations),
  "verify-report-linear": measureLinear,
  "cbor-hostile": measureHostileCbor,
};

/** What a service holds before a report comes. */
export interface Held {
  readonly made: SignedReport;
  readonly enrolment: Enrolment;
  readonly release: Release;
  /** How the log of a machine that runs it begins; none where the release is not verified before the report comes. */
  readonly known: readonly KnownLog[];
  readonly root: string;
  readonly policy: AppraisalPolicy;
}

export async function hold(agentLogKib: number): Promise<Held> {
  const made = await makeSignedReport({ events: eventsOf(agentLogKib * KIB, 40) });
  const root = parseAnchors(made.anchors).releaseRoot;
  const release = await verifyRelease(made.release, root);
  return {
    made,
    root,
    release,
    known: [expectedLog(release)],
    enrolment: parseEnrolment(made.enrolment),
    policy: defaultAppraisalPolicy,
  };
}

/** A launch with a library of so many more files, then records of the audit log's head, as they come while a machine serves. */
export function eventsOf(bytes: number, files: number): readonly LaunchEvent[] {
  const launched = servingEvents();
  const at = referenceEvents().findIndex(({ kind }) => kind === "file");
  const closure = Array.from({ length: files }, (_, index) =>
    launchEvent(
      "closure",
      `/usr/lib/x86_64-linux-gnu/libvendor-${`${index}`.padStart(2, "0")}.so.1`,
      someDigest(index),
    ),
  );
  const events = [...launched.slice(0, at), ...closure, ...launched.slice(at)];
  let size = events.reduce((sum, event) => sum + recordSize(event), 0);
  for (let index = 0; ; index++) {
    const event = launchEvent("anchor", `audit record ${1000 * index}`, someDigest(index));
    if (size + recordSize(event) > bytes) return events;
    size += recordSize(event);
    events.push(event);
  }
}

/** Heads, two digests, and the content with its 32-byte digest. */
function recordSize({ kind, name }: LaunchEvent): number {
  return 172 + kind.length + name.length;
}

function someDigest(index: number): Uint8Array {
  return sha256(utf8(`file ${index}`));
}

export async function judge({ made, enrolment, release, known, policy }: Held): Promise<void> {
  const now = new Date();
  const verified = await verifyEvidence(parseEvidence(made.report), made.challenge, enrolment, null, known);
  const { tier } = appraise(verified, [release], policy, { now, challenged: now });
  if (tier !== "affirming") throw new Error(`the report is ${tier}`);
}

/** As many turns as are counted come before them: the peer is machine code, and a verifier that runs is by then, too. */
async function measureReport(id: "verify-report" | "verify-report-known-release", iterations: number): Promise<Row> {
  const held = await hold(16);
  const quote = quoteCheck(held.made.report);
  const checks = id === "verify-report" ? [quote, ...releaseChecks(held)] : [quote];
  const ours =
    id === "verify-report"
      ? async () => judge({ ...held, known: [], release: await verifyRelease(held.made.release, held.root) })
      : () => judge(held);
  const peer = async () => checks.forEach(requireVerified);
  const compared = await compareTimes({ ours, peer }, 10 * iterations, 10 * iterations);
  return timeRow(row(id), compared);
}

interface Check {
  /** SubjectPublicKeyInfo: the report and the release bring their keys as bytes. */
  readonly spki: Buffer;
  readonly data: Uint8Array;
  readonly signature: Uint8Array;
}

function requireVerified({ spki, data, signature }: Check): void {
  const key = createPublicKey({ key: spki, format: "der", type: "spki" });
  if (!verify("sha256", data, { key, dsaEncoding: "ieee-p1363" }, signature))
    throw new Error("a signature that verifies");
}

function quoteCheck(report: Uint8Array): Check {
  const { ak, quote, signature } = parseEvidence(report);
  const area = parseTpmPublic(ak);
  const signed = parseTpmSignature(signature);
  if (area.kind !== "ecc" || signed.kind !== "ecdsa") throw new Error("a P-256 key");
  const spki = concatBytes(fromHex("3059301306072a8648ce3d020106082a8648ce3d03010703420004"), area.x, area.y);
  return { spki: Buffer.from(spki), data: quote, signature: concatBytes(signed.r, signed.s) };
}

/** Every signature that verifying the release checks: the root's delegation to the release key, that key's envelope and its approvals for the TPM. */
function releaseChecks({ made, release, root }: Held): readonly Check[] {
  const { releaseKey, delegation, epoch } = release;
  const envelope = parseEnvelope(made.release);
  const credentials = delegation.credentials.map(({ name }) => name);
  const delegated = delegatedPolicies(root, releaseKey, { lastEpoch: delegation.lastEpoch, credentials });
  const byRoot = [...delegation.credentials.map((entry) => entry.signature), delegation.first, delegation.raise];
  const unseal = releaseSteps(root, sealPcrValues(release), epoch);
  const raise = raiseSteps(root, bootPcrValues(release), epoch);
  const approved = (steps: readonly PolicyStep[], policyRef: Uint8Array) =>
    encodePolicyApproval(measurePolicy(steps), policyRef);
  const check = (pem: string, data: Uint8Array, signature: Uint8Array): Check => ({
    spki: Buffer.from(decodeSpkiPem(pem)),
    data,
    signature,
  });
  return [
    ...delegated.map(({ steps, policyRef }, index) =>
      check(root, approved(steps, policyRef), fromBase64(byRoot[index] ?? "")),
    ),
    check(releaseKey, encodePreAuthentication(RELEASE_TYPE, envelope.payload), envelope.signature.sig),
    check(releaseKey, approved(unseal, RELEASE_REF), fromBase64(release.unseal)),
    ...(release.raise === null ? [] : [check(releaseKey, approved(raise, EPOCH_REF), fromBase64(release.raise))]),
  ];
}

/** One report of 1 MiB takes turns with sixteen of 64 KiB, which is as much log; the other sizes are only told. */
async function measureLinear(iterations: number): Promise<Row> {
  const rounds = Math.ceil(iterations / 8);
  const held = new Map<number, Held>();
  for (const size of SIZES) held.set(size, await hold(size));
  const judged = (size: number, times: number) => async () => {
    for (let time = 0; time < times; time++) await judge(held.get(size) ?? (await hold(size)));
  };
  const compared = await compareTimes({ ours: judged(1024, 1), peer: judged(64, 16) }, rounds);
  const others = await compareTimes({ ours: judged(256, 4), peer: judged(16, 64) }, rounds);
  const perKib = { 16: others.peer, 64: compared.peer, 256: others.ours, 1024: compared.ours };
  const told = Object.entries(perKib).map(([size, time]) => `${size} KiB ${((1000 * time) / 1024).toFixed(1)} us`);
  const what = `${WHAT["verify-report-linear"]} (per KiB: ${told.join(", ")})`;
  return timeRow({ ...row("verify-report-linear"), what }, compared);
}

/** The peer is one millisecond, so that the target is one of time. Of each input the best run counts: it is the decoder's own time. */
async function measureHostileCbor(iterations: number): Promise<Row> {
  let slowest = 0;
  for (const { bytes } of hostileCbor()) {
    let best = Number.POSITIVE_INFINITY;
    for (let run = 0; run < Math.max(1, Math.ceil(iterations / 8)); run++) {
      const start = performance.now();
      try {
        decodeCbor(bytes);
      } catch {
        // a refusal is what most of them are for
      }
      best = Math.min(best, performance.now() - start);
    }
    slowest = Math.max(slowest, best);
  }
  return timeRow(row("cbor-hostile"), { ours: slowest, peer: 1 });
}
