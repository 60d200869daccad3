import * as z from "zod";
import { IronclawError, parseCommentedJson, sha256Hex, utf8 } from "../policy/index.ts";
import { imageVariants } from "./claims.ts";
import { assuranceClasses } from "./enrolment.ts";
import { AttestError } from "./errors.ts";
import { schemaError } from "./schema-issue.ts";

const MAX_POLICY_BYTES = 1 << 16;

const sha256Text = z.string().regex(/^[0-9a-f]{64}$/, "expected 64 lower-case hexadecimal digits");
const asReleased = z.literal("as-released");
const distinct = (values: readonly unknown[]) => new Set(values).size === values.length;

const librarySchema = z.strictObject({
  name: z.string().min(1).max(4096).describe("Name of the library's event: its absolute path in the guest."),
  sha256: sha256Text.describe("SHA-256 of the library's file."),
  closure: z
    .union([asReleased, z.record(z.string().min(1).max(4096), sha256Text)], {
      error: 'expected "as-released" or a map of path to SHA-256',
    })
    .describe(
      "What the loader opens for it: every path with its SHA-256, loader, libc and shim included, or as-released.",
    ),
});

/** Value that no policy may ask for otherwise: a key that could leave its token is not one to serve. */
export const fixedKeyAttributes: Readonly<Record<string, boolean>> = { sensitive: true, extractable: false };

const keepsFixedAttributes = (attributes: Readonly<Record<string, boolean>>) =>
  Object.entries(fixedKeyAttributes).every(([name, value]) => (attributes[name] ?? value) === value);

/** The document's fields, with the words that an editor shows. */
const appraisalPolicySchema = z.strictObject({
  version: z.literal(2).describe("Version of this format."),
  name: z
    .string()
    .regex(/^[\w.-]{1,64}$/, "expected 1 to 64 letters, digits, dots, dashes and underscores")
    .describe("Name of the policy, which every result repeats beside the digest of the file."),
  releases: z
    .union([z.literal("any"), z.array(z.string().min(1).max(128)).refine(distinct, "expected each name once")], {
      error: 'expected "any" or a list of release names',
    })
    .describe(
      'Names of accepted releases, or "any" that the release root signed. An empty list refuses every machine.',
    ),
  variants: z
    .array(z.enum(imageVariants))
    .refine(distinct, "expected each variant once")
    .describe("Image variants that may run. An empty list refuses every machine."),
  minAssurance: z
    .enum(assuranceClasses)
    .describe("The lowest class of TPM that is accepted, from software-tpm over provider-ek to hardware-ek."),
  freshness: z
    .strictObject({
      maxAgeSeconds: z.int().min(1).max(86_400).describe("Age of the challenge when its report is judged, in seconds."),
    })
    .describe("How old a report may be."),
  libraries: z
    .union([asReleased, z.array(librarySchema)], { error: 'expected "as-released" or a list of libraries' })
    .describe("PKCS#11 libraries that may be loaded, or as-released: whatever the matching release names."),
  profiles: z
    .union([asReleased, z.array(sha256Text).refine(distinct, "expected each digest once")], {
      error: 'expected "as-released" or a list of SHA-256 digests',
    })
    .describe("SHA-256 of the sandbox profiles that may run, or as-released: whatever the matching release names."),
  keyAttributes: z
    .record(z.string().regex(/^[a-z][A-Za-z]{0,63}$/, "expected a PKCS#11 attribute's name"), z.boolean())
    .refine(keepsFixedAttributes, "expected nothing but sensitive: true and extractable: false of these two")
    .describe(
      "What every served key must report, e.g. neverExtractable: true. sensitive: true and extractable: false always hold.",
    ),
  maxViolations: z
    .int()
    .min(0)
    .describe("Denied calls of the library after the escape probe that are tolerated, with a warning."),
  reboot: z
    .enum(["warn", "accept", "refuse"])
    .describe("What to make of a machine that has started again since its last report."),
  firmware: z
    .enum(["pinned", "warn", "waived"])
    .describe(
      "pinned: PCRs 0, 2 and 7 need reference values. warn: every firmware PCR without one is a warning. waived: go without them.",
    ),
});

/** The fields of an appraisal policy (APPRAISAL.md section 1). */
export type AppraisalPolicyDocument = z.infer<typeof appraisalPolicySchema>;

/** What a verifier accepts, with the SHA-256 of the bytes that said so: 64 lower-case hexadecimal digits. */
export interface AppraisalPolicy {
  readonly document: AppraisalPolicyDocument;
  readonly sha256: string;
}

/**
 * Reads an appraisal policy. Comments are allowed, a field that is absent, unknown or there twice is not.
 * @throws AttestError `ERR_APPRAISAL_POLICY`, with the path of the field
 */
export function parseAppraisalPolicy(bytes: Uint8Array): AppraisalPolicy {
  const parsed = appraisalPolicySchema.safeParse(parseDocument(bytes), { reportInput: true });
  if (!parsed.success) throw schemaError("ERR_APPRAISAL_POLICY", "appraisal policy", parsed.error);
  return { document: parsed.data, sha256: sha256Hex(bytes) };
}

/** Indented JSON. @throws AttestError `ERR_APPRAISAL_POLICY` for what `parseAppraisalPolicy` would not take */
export function encodeAppraisalPolicy(document: AppraisalPolicyDocument): Uint8Array {
  const bytes = utf8(`${JSON.stringify(document, null, 2)}\n`);
  parseAppraisalPolicy(bytes);
  return bytes;
}

/** A policy made in a program; its digest is that of `encodeAppraisalPolicy`. @throws as that */
export function makeAppraisalPolicy(document: AppraisalPolicyDocument): AppraisalPolicy {
  return parseAppraisalPolicy(encodeAppraisalPolicy(document));
}

/** What a verifier without a policy of its own uses: release images, and a TPM whose keys a provider or a chip holds. */
export const defaultAppraisalPolicy: AppraisalPolicy = makeAppraisalPolicy({
  version: 2,
  name: "default",
  releases: "any",
  variants: ["release"],
  minAssurance: "provider-ek",
  freshness: { maxAgeSeconds: 300 },
  libraries: "as-released",
  profiles: "as-released",
  keyAttributes: { ...fixedKeyAttributes },
  maxViolations: 0,
  reboot: "warn",
  firmware: "pinned",
});

/** JSON Schema of the document, draft 2020-12. */
export function appraisalPolicyJsonSchema(): Readonly<Record<string, unknown>> {
  return {
    ...z.toJSONSchema(appraisalPolicySchema),
    title: "IronClaw appraisal policy, version 2",
    description: "What a verifier accepts. Every field is required; attest/APPRAISAL.md says what each refuses.",
  };
}

function parseDocument(bytes: Uint8Array): unknown {
  const limits = { maxBytes: MAX_POLICY_BYTES, maxDepth: 5 };
  try {
    return parseCommentedJson(bytes, "appraisal policy", limits);
  } catch (cause) {
    if (!(cause instanceof IronclawError)) throw cause;
    throw new AttestError("ERR_APPRAISAL_POLICY", cause.message, { cause });
  }
}
