import * as z from "zod";
import type { AssuranceClass } from "./enrolment.ts";
import type { Finding } from "./finding.ts";

/** Claims of the AR4SI trustworthiness vector (draft-ietf-rats-ar4si section 2.3), in the order of their keys. */
export const trustClaims = [
  "instance-identity",
  "configuration",
  "executables",
  "file-system",
  "hardware",
  "runtime-opaque",
  "storage-opaque",
  "sourced-data",
] as const;
export type TrustClaim = (typeof trustClaims)[number];
export type TrustVector = Readonly<Record<TrustClaim, number>>;

const trustValue = z.int().min(-128).max(127);
export const trustVectorSchema = z.strictObject({
  "instance-identity": trustValue,
  configuration: trustValue,
  executables: trustValue,
  "file-system": trustValue,
  hardware: trustValue,
  "runtime-opaque": trustValue,
  "storage-opaque": trustValue,
  "sourced-data": trustValue,
} satisfies Record<TrustClaim, typeof trustValue>);

const noClaim = 0;
const affirming = 2;
/** Executables: only recognised ones were loaded during the boot; what runs afterwards is for other claims. */
const approvedBoot = 3;
/** Hardware whose keys others hold, and secrets under such keys. */
const warned = 32;
const refused = 96;

const boot: readonly TrustClaim[] = ["configuration", "executables", "file-system"];

/** Which claims a finding is about. Codes that begin `event-` go by the kind of the event, those that begin `launch-` by that word. */
const claimsOfCode: Readonly<Record<string, readonly TrustClaim[]>> = {
  "release-not-accepted": boot,
  "release-dates": boot,
  "image-variant": boot,
  "image-id": boot,
  "installed-system": boot,
  "debug-status": ["configuration"],
  "pcr-mismatch": boot,
  "pcr-no-reference": boot,
  "pcr-not-quoted": boot,
  "pcr-unextended": boot,
  "firmware-unpinned": ["hardware"],
  "firmware-separator": ["hardware"],
  "tpm-firmware": ["hardware"],
  assurance: ["hardware"],
  stale: ["instance-identity"],
  rebooted: ["instance-identity"],
  "clock-unsafe": ["instance-identity"],
  "clock-lags": ["instance-identity"],
  cap: ["executables"],
  "library-not-accepted": ["executables"],
  "profile-not-accepted": ["configuration"],
  violations: ["executables"],
  "shim-replaced": ["executables"],
  "profile-exception": ["configuration"],
  "sandbox-weaker": ["configuration"],
  "shim-process": ["configuration"],
  "probe-missing": ["configuration"],
  "probe-succeeded": ["configuration"],
  "probe-unwitnessed": ["configuration"],
  token: ["storage-opaque"],
  "key-attributes": ["storage-opaque"],
};

const claimsOfEvent: Readonly<Record<string, readonly TrustClaim[]>> = {
  library: ["executables"],
  closure: ["executables"],
  file: ["file-system"],
  token: ["storage-opaque"],
  key: ["storage-opaque"],
};

/** Claims that a finding lowers. One whose code has no row lowers the three of the boot: nothing is lost between the two tables. */
export function claimsOfFinding({ code, item }: Pick<Finding, "code" | "item">): readonly TrustClaim[] {
  if (code.startsWith("event-")) return own(claimsOfEvent, item.split(" ", 1)[0] ?? "") ?? ["configuration"];
  if (code.startsWith("launch-")) return ["configuration"];
  return own(claimsOfCode, code) ?? boot;
}

/**
 * The vector of a judgement: what a verified report of this class stands for, lowered by each finding. Values are those of AR4SI: 0 no claim, 2 and 3
 * affirming, 32 warning, 96 contraindicated. Nothing here can vouch for memory or for data from elsewhere: these two never rise above 0.
 */
export function trustVector(assurance: AssuranceClass, serving: boolean, findings: readonly Finding[]): TrustVector {
  const hardware = assurance === "hardware-ek" ? affirming : warned;
  const vector: Record<TrustClaim, number> = {
    "instance-identity": affirming,
    configuration: affirming,
    executables: approvedBoot,
    "file-system": affirming,
    hardware,
    "runtime-opaque": noClaim,
    "storage-opaque": serving ? hardware : noClaim,
    "sourced-data": noClaim,
  };
  for (const finding of findings) {
    const value = finding.tier === "warning" ? warned : refused;
    for (const claim of claimsOfFinding(finding)) vector[claim] = Math.max(vector[claim], value);
  }
  return vector;
}

function own<T>(table: Readonly<Record<string, T>>, key: string): T | undefined {
  return Object.hasOwn(table, key) ? table[key] : undefined;
}
