import * as z from "zod";
import { IronclawError, parseJson, utf8 } from "../policy/index.ts";
import { parsePemCertificate, type TrustAnchor } from "./endorsement-chain.ts";
import { assuranceClasses } from "./enrolment.ts";
import { AttestError } from "./errors.ts";

const maxBytes = 1 << 20;
const maxAnchors = 256;

const anchorSchema = z.strictObject({
  name: z
    .string()
    .regex(/^[\w. ()-]{1,64}$/, "expected 1 to 64 letters, digits, spaces, dots, dashes, underscores and parentheses")
    .describe("how reports and errors call it"),
  pem: z.string().max(16_384).describe("one CA certificate; it need not be self-signed"),
  assurance: z.enum(assuranceClasses).describe("what an endorsement key under it is worth"),
  requireEkPurpose: z.boolean().describe("whether an EK certificate must name tcg-kp-EKCertificate (2.23.133.8.1)"),
  manufacturers: z
    .union([
      z.literal("any"),
      z
        .array(z.string().regex(/^id:[0-9A-F]{8}$/, "expected id: and eight upper-case hexadecimal digits"))
        .min(1)
        .max(64),
    ])
    .describe('TPM manufacturers that it certifies; "any" also lets a certificate without one pass'),
});

/** Exported for the JSON Schema beside it, which a test compares. */
export const endorsementAnchorsSchema = z.strictObject({
  version: z.literal(1),
  anchors: z.array(anchorSchema).min(1).max(maxAnchors),
});

/**
 * Reads a document of trust anchors (ENROLMENT.md, section 4): which authorities' EK certificates a verifier takes, and as what. Every
 * certificate in it is read and may issue; dates are looked at when an endorsement is verified.
 * Does not establish that its authorities deserve the class written there: whoever keeps the document does.
 * @throws AttestError `ERR_TRUST_ANCHORS`
 */
export function parseEndorsementAnchors(bytes: Uint8Array): readonly TrustAnchor[] {
  return checkAnchors(parseDocument(bytes));
}

/** @throws AttestError `ERR_TRUST_ANCHORS` */
export function encodeEndorsementAnchors(anchors: readonly TrustAnchor[]): Uint8Array {
  return utf8(`${JSON.stringify({ version: 1, anchors: checkAnchors({ version: 1, anchors }) }, null, 2)}\n`);
}

function parseDocument(bytes: Uint8Array): unknown {
  try {
    return parseJson(bytes, "trust anchors", { maxBytes, maxDepth: 4 });
  } catch (cause) {
    if (!(cause instanceof IronclawError)) throw cause;
    throw new AttestError("ERR_TRUST_ANCHORS", cause.message, { cause });
  }
}

function checkAnchors(value: unknown): readonly TrustAnchor[] {
  const parsed = endorsementAnchorsSchema.safeParse(value);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw malformed(`${issue?.path.join(".") ?? ""}: ${issue?.message ?? "malformed"}`);
  }
  const { anchors } = parsed.data;
  const names = new Set<string>();
  const certificates = new Map<string, string>();
  for (const [index, anchor] of anchors.entries()) {
    if (names.has(anchor.name)) throw malformed(`anchors.${index}.name`, "each name once", anchor.name);
    names.add(anchor.name);
    const fingerprint = checkCertificate(anchor, index);
    const earlier = certificates.get(fingerprint);
    // With two, the order of the document would decide what an EK is worth.
    if (earlier !== undefined) throw malformed(`anchors.${index}.pem`, "each certificate once", `that of ${earlier}`);
    certificates.set(fingerprint, anchor.name);
  }
  return anchors;
}

function checkCertificate({ pem, name }: TrustAnchor, index: number): string {
  const what = `anchors.${index}.pem (${name})`;
  try {
    const { x509, fields } = parsePemCertificate(pem);
    if (fields.authority && fields.mayIssue) return x509.fingerprint256;
  } catch (cause) {
    if (!(cause instanceof IronclawError)) throw cause;
    throw new AttestError("ERR_TRUST_ANCHORS", `trust anchors ${what}: ${cause.message}`, { cause });
  }
  throw malformed(what, "a certificate authority", "a certificate that may not issue");
}

function malformed(what: string, expected?: string, got?: string): AttestError {
  return new AttestError("ERR_TRUST_ANCHORS", `trust anchors ${what}`, {
    ...(expected === undefined ? {} : { expected }),
    ...(got === undefined ? {} : { got }),
  });
}
