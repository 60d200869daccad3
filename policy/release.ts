import { z } from "zod";
import { equalBytes, fromBase64, fromHex, toHex } from "./bytes.ts";
import { encodeCanonicalJson, parseCanonicalJson } from "./canonical-json.ts";
import { parseEnvelope, verifyEnvelope } from "./envelope.ts";
import { PolicyError } from "./errors.ts";
import { parseVerificationKey, verifySignature } from "./keys.ts";
import {
  AGENT_PCR,
  encodePolicyApproval,
  measureDelegation,
  measurePolicy,
  type PcrValues,
  RELEASE_POLICY_REF,
  ROOT_POLICY_REF,
  releasePolicySteps,
  SEAL_PCRS,
} from "./tpm-policy.ts";

/** DSSE payload type of a release. */
export const RELEASE_TYPE = "application/vnd.ironclaw.release+json";

const hex = (bytes: number) =>
  z.string().regex(new RegExp(`^[0-9a-f]{${2 * bytes}}$`), `expected ${bytes} bytes in lower-case hexadecimal`);
// 16 and 23 can be reset by any program, 17 to 22 from a locality: a release binds none of them.
const pcrIndex = z.string().regex(/^(?:[0-9]|1[0-5])$/, "expected a PCR index from 0 to 15");
const utcTime = z.iso.datetime({ offset: false });

/**
 * Kinds of agent-PCR events before the unseal, in the order of a launch: what a release predicts. A later kind in a release
 * would describe a capped PCR.
 */
export const preUnsealKinds = [
  "config",
  "anchors",
  "policy",
  "profile",
  "library",
  "closure",
  "file",
  "environment",
  "devices",
] as const;

const approvalSchema = z.strictObject({
  policyRef: z.string().regex(/^(?:[0-9a-f]{2}){1,64}$/),
  approved: hex(32),
  signature: z.string().max(512),
});

const releaseSchema = z
  .strictObject({
    version: z.literal(1),
    name: z.string().min(1).max(128),
    image: z.strictObject({
      id: hex(32),
      variant: z.enum(["demo", "dev", "release"]),
    }),
    epoch: z.int().nonnegative(),
    notBefore: utcTime,
    notAfter: utcTime,
    agentPcr: z.literal(AGENT_PCR),
    pcrs: z.strictObject({
      sha256: z.record(pcrIndex, hex(32)),
      sha384: z.record(pcrIndex, hex(48)),
    }),
    events: z
      .array(
        z.strictObject({
          kind: z.enum(preUnsealKinds),
          name: z.string().min(1).max(4096),
          sha256: hex(32),
        }),
      )
      .min(1)
      .max(4096),
    tpmPolicy: approvalSchema,
    releaseKey: z.string().max(4096),
    delegation: approvalSchema,
  })
  .refine(({ pcrs }) => SEAL_PCRS.every((index) => `${index}` in pcrs.sha256), {
    path: ["pcrs", "sha256"],
    message: `expected PCRs ${SEAL_PCRS.join(" ")}`,
  })
  .refine(({ pcrs }) => Object.keys(pcrs.sha256).join() === Object.keys(pcrs.sha384).join(), {
    path: ["pcrs"],
    message: "expected the same indices in both banks",
  })
  .refine(({ notBefore, notAfter }) => Date.parse(notBefore) <= Date.parse(notAfter), {
    path: ["notAfter"],
    message: "expected a time after notBefore",
  });

/** The reference values of one image, library and policy together; digests are lower-case hexadecimal, keys PEM. */
export type Release = z.infer<typeof releaseSchema>;
/** A digest approved for TPM2_PolicyAuthorize. */
export type PolicyApproval = Release["tpmPolicy"];
/** An agent-PCR event that the release expects. */
export type ExpectedEvent = Release["events"][number];

/** Reads a release document (the payload of its envelope). Verifies no signature: see `verifyRelease`. */
export function parseRelease(payload: Uint8Array): Release {
  return parseCanonicalJson(payload, releaseSchema, "ERR_RELEASE_MALFORMED", "release");
}

/** @throws PolicyError ERR_RELEASE_MALFORMED for a document that `parseRelease` would not take */
export function encodeRelease(release: Release): Uint8Array {
  return encodeCanonicalJson(release, releaseSchema, "ERR_RELEASE_MALFORMED", "release");
}

/** The SHA-256 values of the PCRs that the sealed PIN depends on. */
export function sealPcrValues(release: Pick<Release, "pcrs">): PcrValues {
  return new Map(
    SEAL_PCRS.map((index) => [index, fromHex(release.pcrs.sha256[`${index}`] ?? "", `pcrs.sha256.${index}`)]),
  );
}

/**
 * Proves that the release root stands behind the release key, the release key behind the document, and that what it
 * approved for the TPM is exactly the document's seal PCRs and the Unseal command.
 * Does not establish that the values are those of any machine, that the epoch is current, nor that the events replay to the agent PCR.
 *
 * @param now defaults to the system's clock, which a host can set: the dates stop mistakes, the epoch stops rollback
 * @throws PolicyError ERR_ENVELOPE_MALFORMED, ERR_RELEASE_MALFORMED, ERR_KEY_MALFORMED, ERR_ENVELOPE_SIGNATURE, ERR_RELEASE_SIGNATURE
 */
export async function verifyRelease(bytes: Uint8Array, releaseRootPem: string, now = new Date()): Promise<Release> {
  const envelope = parseEnvelope(bytes);
  const release = parseRelease(envelope.payload);
  parseVerificationKey(release.releaseKey);
  const delegated = measureDelegation(release.releaseKey);
  await verifyApproval("delegation", release.delegation, releaseRootPem, ROOT_POLICY_REF, delegated);
  await verifyEnvelope(envelope, RELEASE_TYPE, release.releaseKey);
  const approved = measurePolicy(releasePolicySteps(sealPcrValues(release)));
  await verifyApproval("tpmPolicy", release.tpmPolicy, release.releaseKey, RELEASE_POLICY_REF, approved);
  verifyDates(release, now);
  return release;
}

async function verifyApproval(
  field: string,
  approval: PolicyApproval,
  keyPem: string,
  policyRef: Uint8Array,
  digest: Uint8Array,
): Promise<void> {
  const refuse = (what: string, expected: string, got: string) =>
    new PolicyError("ERR_RELEASE_SIGNATURE", `release ${field}.${what}`, {
      expected,
      got,
    });
  if (!equalBytes(fromHex(approval.policyRef), policyRef))
    throw refuse("policyRef", toHex(policyRef), approval.policyRef);
  if (approval.approved !== toHex(digest)) throw refuse("approved", toHex(digest), approval.approved);
  const signature = fromBase64(approval.signature, `release ${field}.signature`);
  if (!(await verifySignature(keyPem, encodePolicyApproval(digest, policyRef), signature))) {
    throw refuse("signature", "one that verifies under the key above it", "one that does not");
  }
}

function verifyDates(release: Release, now: Date): void {
  const time = now.getTime();
  if (time >= Date.parse(release.notBefore) && time <= Date.parse(release.notAfter)) return;
  throw new PolicyError("ERR_RELEASE_SIGNATURE", "release dates", {
    expected: `a time from ${release.notBefore} to ${release.notAfter}`,
    got: Number.isNaN(time) ? "no time" : now.toISOString(),
    hint: "the release is not valid yet or has expired, or the clock is wrong",
  });
}
