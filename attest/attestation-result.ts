import * as z from "zod";
import { IronclawError, parseJson, utf8 } from "../policy/index.ts";
import { launchStates } from "./claims.ts";
import { assuranceClasses } from "./enrolment.ts";
import { AttestError } from "./errors.ts";
import { schemaError } from "./schema-issue.ts";
import { trustVectorSchema } from "./trust-vector.ts";

/** Logs and claims of a report have up to 1.25 MiB together; a result repeats their text up to three times, and JSON escapes a character by six. */
const MAX_RESULT_BYTES = 32 << 20;

export const tiers = ["affirming", "warning", "contraindicated"] as const;
export type Tier = (typeof tiers)[number];

const text = z.string();
const sha256Text = z.string().regex(/^[0-9a-f]{64}$/, "expected 64 lower-case hexadecimal digits");
const hexText = z.string().regex(/^(?:[0-9a-f]{2})+$/, "expected lower-case hexadecimal");

const findingSchema = z.strictObject({
  tier: z.enum(["warning", "contraindicated"]),
  code: text,
  item: text,
  expected: text,
  got: text,
});

const pcrSchema = z.strictObject({
  pcr: z.int().min(0).max(23),
  /** `null`: the release has no value for it. The agent PCR is compared event by event instead. */
  expected: hexText.nullable(),
  got: hexText,
});

/** One line of the comparison between release and log; `null` where one side has nothing. */
const eventSchema = z.strictObject({
  kind: text,
  name: text,
  expected: hexText.nullable(),
  got: hexText.nullable(),
  agrees: z.boolean(),
});

const resultSchema = z.strictObject({
  version: z.literal(2),
  tier: z.enum(tiers),
  findings: z.array(findingSchema),
  /** The enrolled name. */
  machine: text,
  assurance: z.enum(assuranceClasses),
  launch: z.enum(launchStates),
  /** `null`: no release was given, or none that the policy accepts. */
  release: text.nullable(),
  policy: z.strictObject({ name: text, sha256: sha256Text }),
  /** SHA-256 of the report. */
  evidence: sha256Text,
  vector: trustVectorSchema,
  pcrs: z.array(pcrSchema),
  events: z.array(eventSchema),
  notProven: z.array(z.strictObject({ code: text, text })),
  at: z.iso.datetime(),
});

/** Of what a schema reads, which nobody changes afterwards. */
export type DeepReadonly<T> = T extends readonly (infer Item)[]
  ? readonly DeepReadonly<Item>[]
  : T extends object
    ? { readonly [Key in keyof T]: DeepReadonly<T[Key]> }
    : T;

/** The judgement on one report, with everything a person needs to see why (APPRAISAL.md section 2). */
export type AttestationResult = DeepReadonly<z.infer<typeof resultSchema>>;
export type PcrComparison = AttestationResult["pcrs"][number];
export type EventComparison = AttestationResult["events"][number];

/**
 * Reads a result that was stored. Does not establish that a verifier made it: an EAR has a signature, a result has none.
 * @throws AttestError `ERR_RESULT_MALFORMED`
 */
export function parseAttestationResult(bytes: Uint8Array): AttestationResult {
  return checkResult(parseDocument(bytes));
}

/** JSON without white space. @throws AttestError `ERR_RESULT_MALFORMED` */
export function encodeAttestationResult(result: AttestationResult): Uint8Array {
  return utf8(JSON.stringify(checkResult(result)));
}

function checkResult(value: unknown): AttestationResult {
  const parsed = resultSchema.safeParse(value, { reportInput: true });
  if (parsed.success) return parsed.data;
  throw schemaError("ERR_RESULT_MALFORMED", "attestation result", parsed.error);
}

function parseDocument(bytes: Uint8Array): unknown {
  try {
    return parseJson(bytes, "attestation result", { maxBytes: MAX_RESULT_BYTES, maxDepth: 4 });
  } catch (cause) {
    if (!(cause instanceof IronclawError)) throw cause;
    throw new AttestError("ERR_RESULT_MALFORMED", cause.message, { cause });
  }
}
