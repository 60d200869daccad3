import * as z from "zod";
import { equalBytes, fromBase64, fromHex, IronclawError, parseJson, toHex, utf8 } from "../policy/index.ts";
import { attestationKeyReasons } from "./attestation-key.ts";
import { AttestError } from "./errors.ts";
import { parseTpmPublic, tpmName } from "./tpm-structures.ts";

/** Who owns the keys of the TPM, from weakest to strongest. A software TPM's state can be copied by its host. */
export const assuranceClasses = ["software-tpm", "provider-ek", "hardware-ek"] as const;
export type AssuranceClass = (typeof assuranceClasses)[number];

/** u16 nameAlg and a digest. */
const name = z
  .string()
  .regex(/^(?:000b[0-9a-f]{64}|000c[0-9a-f]{96}|000d[0-9a-f]{128})$/, "expected a TPM Name in hexadecimal");

const enrolmentSchema = z.strictObject({
  version: z.literal(1),
  name: z.string().regex(/^[\w.-]{1,64}$/, "expected 1 to 64 letters, digits, dots, dashes and underscores"),
  ekName: name,
  akPublic: z.string().max(1024),
  akName: name,
  assurance: z.enum(assuranceClasses),
  /** `null` where the EK was pinned by its Name and has no certificate. */
  ekCertificateSha256: z
    .string()
    .regex(/^[0-9a-f]{64}$/)
    .nullable(),
});

/**
 * What a verifier keeps of a machine: Names in lower-case hexadecimal, `akPublic` base64 of TPMT_PUBLIC. It is made
 * once, after TPM2_ActivateCredential proved that AK and EK are in one TPM, and a name never moves to another EK.
 */
export type Enrolment = z.infer<typeof enrolmentSchema>;

/**
 * Reads an enrolment document and checks that it agrees with itself: the AK's Name is that of its public area and the
 * AK is one that the agent makes. Does not establish that the TPM was asked: the document's keeper did.
 * @throws AttestError `ERR_ENROLMENT_MALFORMED`
 */
export function parseEnrolment(bytes: Uint8Array): Enrolment {
  return checkEnrolment(parseDocument(bytes));
}

export function encodeEnrolment(enrolment: Enrolment): Uint8Array {
  return utf8(`${JSON.stringify(checkEnrolment(enrolment), null, 2)}\n`);
}

function parseDocument(bytes: Uint8Array): unknown {
  try {
    return parseJson(bytes, "enrolment", { maxBytes: 1 << 16, maxDepth: 4 });
  } catch (cause) {
    if (!(cause instanceof IronclawError)) throw cause;
    throw new AttestError("ERR_ENROLMENT_MALFORMED", cause.message, { cause });
  }
}

function checkEnrolment(value: unknown): Enrolment {
  const parsed = enrolmentSchema.safeParse(value);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    throw malformed(`${issue?.path.join(".") ?? ""}: ${issue?.message ?? "malformed"}`);
  }
  const enrolment = parsed.data;
  try {
    const akPublic = fromBase64(enrolment.akPublic, "akPublic");
    const [unsuitable] = attestationKeyReasons(parseTpmPublic(akPublic));
    if (unsuitable !== undefined) throw malformed(unsuitable.item, unsuitable.expected, unsuitable.got);
    const computed = tpmName(akPublic);
    if (!equalBytes(computed, fromHex(enrolment.akName))) throw malformed("akName", toHex(computed), enrolment.akName);
  } catch (cause) {
    if (!(cause instanceof IronclawError) || cause.code === "ERR_ENROLMENT_MALFORMED") throw cause;
    throw new AttestError("ERR_ENROLMENT_MALFORMED", `enrolment akPublic: ${cause.message}`, { cause });
  }
  return enrolment;
}

function malformed(what: string, expected?: string, got?: string): AttestError {
  return new AttestError("ERR_ENROLMENT_MALFORMED", `enrolment ${what}`, {
    ...(expected === undefined ? {} : { expected }),
    ...(got === undefined ? {} : { got }),
  });
}
