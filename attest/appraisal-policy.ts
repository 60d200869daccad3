import { z } from "zod";
import { IronclawError, parseJson, utf8 } from "../policy/index.ts";
import { imageVariants } from "./claims.ts";
import { assuranceClasses } from "./enrolment.ts";
import { AttestError } from "./errors.ts";

const appraisalPolicySchema = z.strictObject({
  version: z.literal(1),
  /** Image variants that may run; an empty list refuses every machine. */
  acceptVariants: z.array(z.enum(imageVariants)),
  /** The lowest assurance class that is accepted. */
  minAssurance: z.enum(assuranceClasses),
  /** Denied calls of the library after the probe that are tolerated, with a warning. Absent means none. */
  maxViolations: z.int().nonnegative().optional(),
  /** Whether the agent PCR must have been capped. Only `true` has a meaning today. */
  requireCapped: z.literal(true),
  /** A written waiver: go without reference values of the firmware's PCRs. Absent: class hardware-ek needs those of 0, 2 and 7, the others are warned about. */
  waiveFirmwarePins: z.boolean().optional(),
});

export type AppraisalPolicy = z.infer<typeof appraisalPolicySchema>;

/** What a verifier without a policy of its own uses: release images on a TPM whose keys a provider or a chip holds. */
export const defaultAppraisalPolicy: AppraisalPolicy = {
  version: 1,
  acceptVariants: ["release"],
  minAssurance: "provider-ek",
  requireCapped: true,
};

/** @throws AttestError `ERR_APPRAISAL_POLICY` */
export function parseAppraisalPolicy(bytes: Uint8Array): AppraisalPolicy {
  const parsed = appraisalPolicySchema.safeParse(parseDocument(bytes));
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new AttestError(
    "ERR_APPRAISAL_POLICY",
    `appraisal policy ${issue?.path.join(".") ?? ""}: ${issue?.message ?? "malformed"}`,
  );
}

export function encodeAppraisalPolicy(policy: AppraisalPolicy): Uint8Array {
  return utf8(`${JSON.stringify(appraisalPolicySchema.parse(policy), null, 2)}\n`);
}

function parseDocument(bytes: Uint8Array): unknown {
  try {
    return parseJson(bytes, "appraisal policy", { maxBytes: 1 << 16, maxDepth: 4 });
  } catch (cause) {
    if (!(cause instanceof IronclawError)) throw cause;
    throw new AttestError("ERR_APPRAISAL_POLICY", cause.message, { cause });
  }
}
