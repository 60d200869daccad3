import * as z from "zod";
import { fromHex } from "./bytes.ts";
import { encodeCanonicalJson, parseCanonicalJson } from "./canonical-json.ts";
import { delegationSchema, passAll, verifyApproval, verifyDelegation } from "./delegation.ts";
import { parseEnvelope, verifyEnvelope } from "./envelope.ts";
import { EPOCH_REF, MAX_EPOCH } from "./epoch.ts";
import { PolicyError } from "./errors.ts";
import { importVerificationKey } from "./keys.ts";
import { AGENT_PCR, BOOT_PCRS, RELEASE_REF, raiseSteps, releaseSteps, SEAL_PCRS } from "./sealing-policy.ts";
import type { PcrValues } from "./tpm-policy.ts";

/** DSSE payload type of a release. */
export const RELEASE_TYPE = "application/vnd.ironclaw.release+json";

const hex = (bytes: number) =>
  z.string().regex(new RegExp(`^[0-9a-f]{${2 * bytes}}$`), `expected ${bytes} bytes in lower-case hexadecimal`);
// 16 and 23 can be reset by any program, 17 to 22 from a locality: a release binds none of them.
const pcrIndex = z.string().regex(/^(?:[0-9]|1[0-5])$/, "expected a PCR index from 0 to 15");
/** UTC, ISO 8601 ending in Z. */
export const utcTime = z.iso.datetime({ offset: false });

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

const signature = z.string().max(512);

const releaseSchema = z
  .strictObject({
    version: z.literal(2),
    name: z.string().min(1).max(128),
    image: z.strictObject({
      id: hex(32),
      variant: z.enum(["demo", "dev", "installed", "release"]),
    }),
    epoch: z.int().min(0).max(MAX_EPOCH),
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
    unseal: signature,
    raise: signature.nullable(),
    releaseKey: z.string().max(4096),
    delegation: delegationSchema,
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
  })
  .refine(({ epoch, delegation }) => epoch <= delegation.lastEpoch, {
    path: ["epoch"],
    message: "expected an epoch for which the root has delegated",
  });

/**
 * The reference values of one image, library and policy together; digests are lower-case hexadecimal, keys PEM. `raise` is there
 * when the release ends all lower epochs: the agent then raises the epoch counter once this release serves.
 */
export type Release = z.infer<typeof releaseSchema>;

/** Reads a release document (the payload of its envelope). Verifies no signature: see `verifyRelease`. */
export function parseRelease(payload: Uint8Array): Release {
  return parseCanonicalJson(payload, releaseSchema, "ERR_RELEASE_MALFORMED", "release");
}

/** @throws PolicyError ERR_RELEASE_MALFORMED for a document that `parseRelease` would not take */
export function encodeRelease(release: Release): Uint8Array {
  return encodeCanonicalJson(release, releaseSchema, "ERR_RELEASE_MALFORMED", "release");
}

/** The SHA-256 values of the PCRs that a sealed credential depends on. */
export function sealPcrValues(release: Pick<Release, "pcrs">): PcrValues {
  return pcrValues(release, SEAL_PCRS);
}

/** Of these, the ones of the boot. */
export function bootPcrValues(release: Pick<Release, "pcrs">): PcrValues {
  return pcrValues(release, BOOT_PCRS);
}

function pcrValues(release: Pick<Release, "pcrs">, indices: readonly number[]): PcrValues {
  return new Map(
    indices.map((index) => [index, fromHex(release.pcrs.sha256[`${index}`] ?? "", `pcrs.sha256.${index}`)]),
  );
}

/**
 * Proves that the release root stands behind the release key, the release key behind the document, and that what both approved
 * for the TPM is exactly the document's seal PCRs and epoch and the Unseal command.
 * Does not establish that the values are those of any machine, that the epoch has not ended, that the document's dates include
 * today (see `requireCurrent`), nor that the events replay to the agent PCR.
 *
 * @throws PolicyError ERR_ENVELOPE_MALFORMED, ERR_RELEASE_MALFORMED, ERR_KEY_MALFORMED, ERR_ENVELOPE_SIGNATURE, ERR_RELEASE_SIGNATURE
 */
export async function verifyReleaseSignatures(bytes: Uint8Array, releaseRootPem: string): Promise<Release> {
  const envelope = parseEnvelope(bytes);
  const release = parseRelease(envelope.payload);
  const { releaseKey, epoch } = release;
  const key = await importVerificationKey(releaseKey);
  const unseal = { steps: releaseSteps(releaseRootPem, sealPcrValues(release), epoch), policyRef: RELEASE_REF };
  const raise = () => ({ steps: raiseSteps(releaseRootPem, bootPcrValues(release), epoch), policyRef: EPOCH_REF });
  await passAll([
    verifyDelegation(releaseRootPem, releaseKey, release.delegation),
    verifyEnvelope(envelope, RELEASE_TYPE, releaseKey),
    verifyApproval("unseal", key, unseal, release.unseal),
    ...(release.raise === null ? [] : [verifyApproval("raise", key, raise(), release.raise)]),
  ]);
  return release;
}

/**
 * `verifyReleaseSignatures`, then the dates.
 *
 * @param now defaults to the system's clock, which a host can set: the dates stop mistakes, the epoch stops rollback
 * @throws PolicyError as `verifyReleaseSignatures`, ERR_RELEASE_EXPIRED, ERR_RELEASE_NOT_YET_VALID
 */
export async function verifyRelease(bytes: Uint8Array, releaseRootPem: string, now = new Date()): Promise<Release> {
  const release = await verifyReleaseSignatures(bytes, releaseRootPem);
  requireCurrent(release, now);
  return release;
}

/** @throws PolicyError ERR_RELEASE_EXPIRED, ERR_RELEASE_NOT_YET_VALID; both ends belong to the release */
export function requireCurrent({ notBefore, notAfter }: Pick<Release, "notBefore" | "notAfter">, now: Date): void {
  const time = now.getTime();
  const dates = {
    expected: `a time from ${notBefore} to ${notAfter}`,
    got: Number.isNaN(time) ? "no time" : now.toISOString(),
  };
  if (!(time >= Date.parse(notBefore))) {
    const hint = "the release is not valid yet, or the clock is behind";
    throw new PolicyError("ERR_RELEASE_NOT_YET_VALID", "release dates", { ...dates, hint });
  }
  if (!(time <= Date.parse(notAfter))) {
    const hint = "sign the release again with a later end, or correct the clock";
    throw new PolicyError("ERR_RELEASE_EXPIRED", "release dates", { ...dates, hint });
  }
}
