import * as z from "zod";
import { toBase64Url, utf8 } from "../policy/index.ts";
import { type AttestationResult, type Tier, tiers } from "./attestation-result.ts";
import { launchStates } from "./claims.ts";
import { assuranceClasses } from "./enrolment.ts";
import { MAX_EAR, parseEarJson } from "./jws.ts";
import { cutText } from "./reason.ts";
import { schemaError } from "./schema-issue.ts";
import { trustVectorSchema } from "./trust-vector.ts";

/** The profile that deployed readers of EAR know (draft-ietf-rats-ear before its names changed). */
export const earProfile = "tag:github.com,2023:veraison/ear";

/** The only submodule: everything that one report is about. */
export const earSubmodule = "ironclaw";

/** Who judged. `build` is the version of the judgement (of policy and result), not of a program that calls it. */
const earVerifierId = {
  developer: "tag:ironclaw,2026:verifier",
  build: "appraisal 2",
} as const;

/** A long list of findings says no more to a relying party than its beginning: the tier counts all of them. */
const MAX_FINDINGS = 64;

const text = z.string().max(256);
const sha256Text = z.string().regex(/^[0-9a-f]{64}$/, "expected 64 lower-case hexadecimal digits");
const seconds = z.int().min(0).max(Number.MAX_SAFE_INTEGER);

const submoduleFields = z.strictObject({
  "ear.status": z.enum(tiers),
  "ear.trustworthiness-vector": trustVectorSchema,
  "ear.appraisal-policy-id": z.string().max(256),
  /** The verdict of the appraisal policy, which `ear.status` may only lower. */
  "ironclaw.tier": z.enum(tiers),
  "ironclaw.machine": text,
  "ironclaw.assurance": z.enum(assuranceClasses),
  "ironclaw.launch": z.enum(launchStates),
  "ironclaw.release": text.nullable(),
  "ironclaw.evidence-sha256": sha256Text,
  "ironclaw.findings": z.array(text).max(MAX_FINDINGS),
  "ironclaw.not-proven": z.array(text).max(32),
});

const submoduleSchema = submoduleFields.refine(
  (made) =>
    made["ear.status"] === earStatus({ tier: made["ironclaw.tier"], vector: made["ear.trustworthiness-vector"] }),
  { path: ["ear.status"], message: "expected the worst of ironclaw.tier and the trustworthiness vector" },
);

const claimsSchema = z.strictObject({
  eat_profile: z.literal(earProfile),
  iat: seconds,
  exp: seconds,
  "ear.verifier-id": z.strictObject({ developer: text, build: text }),
  /** The challenge's nonce, 32 bytes in base64url. Absent in a token that answers no challenge. */
  eat_nonce: z
    .string()
    .regex(/^[A-Za-z0-9_-]{43}$/, "expected 32 bytes in base64url")
    .optional(),
  submods: z.strictObject({ [earSubmodule]: submoduleSchema }),
});

/** Payload of a token (APPRAISAL.md section 3). */
export type EarClaims = Readonly<z.infer<typeof claimsSchema>>;

export function encodeEarClaims(
  result: AttestationResult,
  { iat, ttlSeconds, nonce }: { readonly iat: number; readonly ttlSeconds: number; readonly nonce: Uint8Array | null },
): Uint8Array {
  if (nonce !== null && nonce.length !== 32) throw new TypeError(`EAR nonce: ${nonce.length} bytes, not 32`);
  const { policy } = result;
  return utf8(
    JSON.stringify({
      eat_profile: earProfile,
      iat,
      exp: iat + ttlSeconds,
      "ear.verifier-id": earVerifierId,
      ...(nonce === null ? {} : { eat_nonce: toBase64Url(nonce) }),
      submods: {
        [earSubmodule]: {
          "ear.status": earStatus(result),
          "ear.trustworthiness-vector": result.vector,
          "ear.appraisal-policy-id": `${policy.name}:sha256:${policy.sha256}`,
          "ironclaw.tier": result.tier,
          "ironclaw.machine": result.machine,
          "ironclaw.assurance": result.assurance,
          "ironclaw.launch": result.launch,
          "ironclaw.release": result.release,
          "ironclaw.evidence-sha256": result.evidence,
          "ironclaw.findings": [
            ...new Set(result.findings.map(({ tier, code }) => `${tier} ${findingCode(code)}`)),
          ].slice(0, MAX_FINDINGS),
          "ironclaw.not-proven": result.notProven.map(({ code }) => code),
        },
      },
    } satisfies EarClaims),
  );
}

/** A code of ours is one word. Anything else is not spelled out, so that no result is too long for a token. */
function findingCode(code: string): string {
  return /^[\w-]+$/.test(code) ? cutText(code, 200) : "other";
}

/** @throws AttestError `ERR_EAR_MALFORMED` */
export function parseEarClaims(bytes: Uint8Array): EarClaims {
  const parsed = claimsSchema.safeParse(parseEarJson(bytes, "EAR payload", MAX_EAR), { reportInput: true });
  if (parsed.success) return parsed.data;
  throw schemaError("ERR_EAR_MALFORMED", "EAR payload", parsed.error);
}

/** EAR allows no better status than the worst claim of the vector: a TPM that somebody else runs is never affirming here. */
export function earStatus({ tier, vector }: Pick<AttestationResult, "tier" | "vector">): Tier {
  const worst = Math.max(tiers.indexOf(tier), ...Object.values(vector).map((value) => tiers.indexOf(tierOf(value))));
  return tiers[worst] ?? "contraindicated";
}

/** AR4SI section 2.3.2: 2 to 31 affirming, 32 to 95 warning, 96 to 127 contraindicated, and the same below zero; -1 to 1 claim nothing. */
function tierOf(value: number): Tier {
  if (value >= 96 || value <= -97) return "contraindicated";
  return value >= 32 || value <= -33 ? "warning" : "affirming";
}
