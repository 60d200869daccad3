import * as z from "zod";
import { assuranceClasses, ekProfileNames, launchStates, maxChain, pcrBanks } from "../index.ts";
import { refusalCodes } from "./errors.ts";
import { flagNames, machineStates } from "./machine-state.ts";

// The one description of what goes in and out: it validates requests and answers, and the OpenAPI document is made of it.

const time = z.iso.datetime().meta({ description: "Time in UTC" });
const base64 = (max: number) => z.base64().max(Math.ceil(max / 3) * 4);
const hexName = z
  .string()
  .regex(/^(?:[0-9a-f]{2}){34,66}$/)
  .meta({ description: "TPM Name" });
const sha256 = z.string().regex(/^[0-9a-f]{64}$/);
const tier = z.enum(["affirming", "warning", "contraindicated"]);
const assurance = z.enum(assuranceClasses);
const text = z.string().max(1 << 16);

export const machineName = z
  .string()
  .regex(/^[\w.-]{1,64}$/, "expected 1 to 64 letters, digits, dots, dashes and underscores");
export const reportId = z.string().regex(/^[1-9][0-9]{0,14}$/, "expected the number of a report");
export const enrolmentId = z.string().regex(/^[A-Za-z0-9_-]{43}$/, "expected the id of an enrolment");

export const reasonSchema = z.object({ code: text, item: text, expected: text, got: text });

export const errorSchema = z.strictObject({
  error: z.strictObject({
    code: z.enum(refusalCodes as [(typeof refusalCodes)[number], ...(typeof refusalCodes)[number][]]),
    message: text,
    hint: text.optional(),
    /** Viewers and operators only. */
    reasons: z.array(reasonSchema).optional(),
  }),
});
export type ErrorBody = z.infer<typeof errorSchema>;

export const enrolmentTokenRequest = z.strictObject({ name: machineName, ttlSeconds: z.int().min(1).max(31_536_000) });
export const enrolmentToken = z.strictObject({ token: z.string(), name: machineName, expires: time });

export const beginRequest = z.strictObject({
  token: z.string().min(1).max(128),
  name: machineName,
  /** DER; the EK's first, then what stands between it and the CA. */
  ekCertificates: z
    .array(base64(1 << 14))
    .min(1)
    .max(maxChain),
  /** Template that the EK was made from; the usual one of its key, if absent. */
  ekProfile: z.enum(ekProfileNames).optional(),
  /** TPMT_PUBLIC. */
  akPublic: base64(1024),
});
export const begun = z.strictObject({
  enrolment: enrolmentId,
  credentialBlob: base64(1024),
  encryptedSecret: base64(1024),
  expires: time,
});
export const finishRequest = z.strictObject({ secret: base64(64) });
export const enrolled = z.strictObject({ name: machineName, ekName: hexName, akName: hexName, assurance });

export const challengeRequest = z.strictObject({ machine: machineName });
export const challengeAnswer = z.strictObject({
  nonce: base64(32),
  bank: z.enum(pcrBanks as ["sha256", "sha384"]),
  pcrs: z.array(z.int().min(0).max(23)),
  expires: time,
});

/** Attestation result as APPRAISAL.md section 2 has it. Newer fields pass: the result's own version says what is in it. */
export const resultSchema = z.looseObject({
  tier,
  findings: z.array(z.looseObject({ tier: z.enum(["warning", "contraindicated"]), ...reasonSchema.shape })),
  machine: machineName,
  assurance,
  launch: z.enum(launchStates),
  release: z.string().nullable(),
  at: time,
});

export const judged = z.strictObject({ tier, machine: machineName, ear: z.string(), result: resultSchema.optional() });

const fleetRow = {
  name: machineName,
  state: z.enum(machineStates),
  /** Of the last report that verified. */
  tier: tier.nullable(),
  assurance,
  release: z.string().nullable(),
  launch: z.enum(launchStates).nullable(),
  lastSeen: time.nullable(),
  violations: z.int().nonnegative(),
  flags: z.array(z.enum(flagNames)),
};
export const machineRow = z.strictObject(fleetRow);
export const fleet = z.array(machineRow);

export const continuityShape = z.looseObject({
  version: z.literal(2),
  clock: z.string(),
  resetCount: z.int(),
  restartCount: z.int(),
  bootSeed: z.string(),
});
export const machineEvent = z.strictObject({
  at: time,
  kind: z.string().max(64),
  /** What changed, in names and digests; `{}` where the kind says it all. */
  detail: z.record(z.string(), z.union([z.string(), z.number(), z.null()])),
});
export const machineDetail = z.strictObject({
  ...fleetRow,
  since: time,
  enrolment: z.strictObject({
    ekName: hexName,
    akName: hexName,
    assurance,
    ekCertificateSha256: sha256.nullable(),
    enrolledAt: time,
  }),
  continuity: continuityShape.nullable(),
  lastReport: reportId.nullable(),
  /** Of the last report; `null` where it did not verify, and then `reasons` say why. */
  result: resultSchema.nullable(),
  reasons: z.array(reasonSchema),
  /** Newest first. */
  events: z.array(machineEvent),
});

export const reportRow = z.strictObject({
  id: reportId,
  at: time,
  tier: z.enum([...tier.options, "refused"]),
  codes: z.array(text),
});
export const reportRows = z.array(reportRow);
export const storedJudgement = z.strictObject({
  result: resultSchema.nullable(),
  reasons: z.array(reasonSchema),
});

export const continuityRequest = z.strictObject({ accept: z.union([z.literal("reset"), reportId]) });
export const flagsRequest = z.strictObject({ clear: z.array(z.enum(flagNames)).min(1).max(flagNames.length) });

export const keySet = z.strictObject({
  keys: z.array(
    z.strictObject({
      kty: z.literal("EC"),
      crv: z.literal("P-256"),
      x: z.string(),
      y: z.string(),
      kid: z.string(),
      alg: z.literal("ES256"),
      use: z.literal("sig"),
    }),
  ),
});
export const health = z.strictObject({
  status: z.enum(["ok", "failing"]),
  store: z.boolean(),
  workers: z.int().nonnegative(),
});
