import { defaultAppraisalPolicy, encodeAppraisalPolicy, parseAppraisalPolicy } from "../../attest/appraisal-policy.ts";
import { appraise } from "../../attest/appraise.ts";
import type { AttestationResult } from "../../attest/attestation-result.ts";
import { measureKey } from "../../attest/claims-codec.ts";
import { EvidenceRefused } from "../../attest/errors.ts";
import { type Evidence, encodeEvidence } from "../../attest/evidence.ts";
import { launchEvent } from "../../attest/launch-events.ts";
import type { Reason } from "../../attest/reason.ts";
import { verifyEvidence } from "../../attest/verify.ts";
import { sha256, utf8 } from "../../policy/index.ts";
import { attempt, device, replacement } from "./appraisal-rows.ts";
import {
  inTime,
  makeEvidence,
  makeReference,
  type Scene,
  servedKey,
  servingEvents,
  shim,
  shimProcess,
} from "./evidence-maker.ts";
import { type PageServer, Refused } from "./page-server.ts";

export interface MadeReport {
  readonly bytes: Uint8Array;
  readonly evidence: Evidence;
  readonly result: AttestationResult | null;
  readonly reasons: readonly Reason[];
}

/** A report of a machine, and what the verifier itself says of it. */
export async function makeReport(name: string, changes: Partial<Scene> = {}): Promise<MadeReport> {
  const { evidence, challenge, enrolment } = await makeEvidence(changes);
  const bytes = encodeEvidence(evidence);
  const policy = parseAppraisalPolicy(
    encodeAppraisalPolicy({ ...defaultAppraisalPolicy.document, name: "production" }),
  );
  try {
    const verified = await verifyEvidence(evidence, challenge, { ...enrolment, name }, null);
    const result = appraise(verified, [makeReference()], policy, { now: inTime, challenged: inTime });
    return { bytes, evidence, result, reasons: [] };
  } catch (error) {
    if (error instanceof EvidenceRefused) return { bytes, evidence, result: null, reasons: error.reasons };
    throw error;
  }
}

/** Another library than the release's, and a call that the sandbox denied. */
export function tamperedScene(): Partial<Scene> {
  const events = servingEvents().map((event) =>
    event.kind === "library" ? launchEvent("library", event.name, sha256(utf8("another library"))) : event,
  );
  return {
    events,
    incidents: [attempt("connect")],
    asserted: { violations: new Map([["connect", 3]]) },
  };
}

/** A machine whose library reaches far, on a lesser kernel, and of which much is told: a process that ended, incidents of every kind, a key of unknown history. */
export function wideScene(): Partial<Scene> {
  const key = { ...servedKey, attributes: { sensitive: true, extractable: false, neverExtractable: false } };
  const measured = launchEvent("key", key.name, measureKey(key));
  const all = (1n << 64n) - 1n;
  return {
    events: servingEvents().map((event) => (event.kind === "key" ? measured : event)),
    incidents: [
      attempt("ptrace"),
      { ...attempt("clone3"), args: [all, all, all, all, all, all], count: 2 },
      ...[device("added"), device("removed"), replacement],
    ],
    asserted: {
      keys: [key],
      exceptions: ["module nethsm: tcp 192.0.2.7:1500 through the relay", "module card: device node usb:08e6:4433"],
      lacks: ["landlock-tcp", "landlock-scope"],
      violations: new Map([
        ["ptrace", 1],
        ["clone3", 12],
      ]),
      shims: [
        { ...shim, role: "ended", process: null },
        { ...shim, id: 1 },
        { ...shim, id: 2, role: "spare", process: { ...shimProcess, uid: 0, seccompFilters: 3, inheritedFilters: 1 } },
        { ...shim, id: 3, role: "spare", process: null },
      ],
    },
  };
}

export interface MachineChanges {
  readonly [field: string]: unknown;
}

/** Puts a machine with one report behind the interface. */
export function addMachine(
  server: PageServer,
  name: string,
  report: MadeReport | null,
  changes: MachineChanges = {},
): void {
  const result = report?.result ?? null;
  const row = {
    name,
    state: report === null ? "enrolled" : (result?.tier ?? "refused"),
    tier: result?.tier ?? null,
    assurance: "provider-ek",
    release: result?.release ?? null,
    launch: result?.launch ?? null,
    lastSeen: report === null ? null : "2026-06-01T00:00:00.000Z",
    violations: 0,
    flags: [],
    ...changes,
  };
  const fleet = (server.answers.get("machines") ?? []) as readonly { readonly name: string }[];
  server.answers.set("machines", [...fleet.filter((other) => other.name !== name), row]);
  const path = `machines/${encodeURIComponent(name.toWellFormed())}`;
  const codes = [...(result?.findings ?? report?.reasons ?? [])].map(({ code }) => code);
  server.answers.set(path, {
    ...row,
    since: "2026-05-01T00:00:00.000Z",
    enrolment: {
      ekName: `000b${"11".repeat(32)}`,
      akName: `000b${"22".repeat(32)}`,
      assurance: "provider-ek",
      ekCertificateSha256: "33".repeat(32),
      enrolledAt: "2026-05-01T00:00:00.000Z",
    },
    continuity:
      report === null || result === null
        ? null
        : {
            version: 2,
            clock: "123456",
            resetCount: 3,
            restartCount: 0,
            bootSeed: "b0".repeat(16),
            firmwareVersion: "0000000020191023",
            epoch: "1",
            audit: { seq: 7, hash: "44".repeat(32) },
          },
    lastReport: report === null ? null : "1",
    result,
    reasons: report?.reasons ?? [],
    events:
      report === null
        ? []
        : [
            {
              at: "2026-06-01T00:00:00.000Z",
              kind: row.state,
              detail: { from: "enrolled", ...(codes[0] === undefined ? {} : { code: codes[0] }) },
            },
          ],
  });
  server.answers.set(
    `${path}/reports`,
    report === null ? [] : [{ id: "1", at: "2026-06-01T00:00:00.000Z", tier: result?.tier ?? "refused", codes }],
  );
  if (report === null) return;
  server.answers.set(`${path}/reports/1`, report.bytes);
  const refused = { code: "evidence-refused", message: "the evidence does not verify", reasons: report.reasons };
  const judged = result ?? new Refused(422, refused);
  server.answers.set(`${path}/reports/1/result`, judged);
  server.answers.set(`${path}/reports/1/appraisal`, judged);
}
