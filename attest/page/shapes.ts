import * as z from "zod";
import type { DeepReadonly } from "../attestation-result.ts";

/** Answers of the service, as far as the page reads them; more fields are no fault, a missing one is. */
const text = z.string();
const finding = z.object({
  tier: z.enum(["warning", "contraindicated"]),
  code: text,
  item: text,
  expected: text,
  got: text,
});

export const resultSchema = z.object({
  version: z.literal(2),
  tier: z.enum(["affirming", "warning", "contraindicated"]),
  findings: z.array(finding),
  machine: text,
  assurance: text,
  launch: text,
  release: text.nullable(),
  policy: z.object({ name: text, sha256: text }),
  evidence: text,
  vector: z.record(text, z.number()),
  pcrs: z.array(z.object({ pcr: z.number(), expected: text.nullable(), got: text })),
  events: z.array(
    z.object({ kind: text, name: text, expected: text.nullable(), got: text.nullable(), agrees: z.boolean() }),
  ),
  notProven: z.array(z.object({ code: text, text: text })),
  at: text,
});

/** As wide as what a service of another version may say; an `AttestationResult` of this verifier is one. */
export type Result = DeepReadonly<z.infer<typeof resultSchema>>;
export type Finding = Result["findings"][number];

export const reasonSchema = finding.omit({ tier: true });
export type Reason = z.infer<typeof reasonSchema>;

const summary = z.object({
  name: text,
  state: text,
  tier: text.nullable(),
  assurance: text,
  release: text.nullable(),
  launch: text.nullable(),
  lastSeen: text.nullable(),
  violations: z.number().nullable(),
  flags: z.array(text),
});
export type Summary = z.infer<typeof summary>;
export const fleetSchema = z.array(summary);

const event = z.object({
  at: text,
  kind: text,
  detail: z.record(text, z.union([text, z.number(), z.null()])),
});
export type MachineEvent = z.infer<typeof event>;

const continuity = z.looseObject({ clock: text, resetCount: z.number(), restartCount: z.number(), bootSeed: text });
export type Continuity = z.infer<typeof continuity>;

export const machineSchema = z.object({
  ...summary.shape,
  since: text,
  enrolment: z.object({
    ekName: text,
    akName: text,
    assurance: text,
    ekCertificateSha256: text.nullable(),
    enrolledAt: text,
  }),
  continuity: continuity.nullable(),
  lastReport: text.nullable(),
  result: resultSchema.nullable(),
  reasons: z.array(reasonSchema),
  events: z.array(event),
});
export type Machine = z.infer<typeof machineSchema>;

const reportRow = z.object({ id: text, at: text, tier: text, codes: z.array(text) });
export type ReportRow = z.infer<typeof reportRow>;
export const reportRowsSchema = z.array(reportRow);

/** What was made of one report: a result, or the reasons why it did not verify. */
export interface Judgement {
  readonly result: Result | null;
  readonly reasons: readonly Reason[];
}
