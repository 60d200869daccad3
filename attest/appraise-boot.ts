import { AGENT_PCR, EXTENDED_PCRS, toHex } from "../policy/index.ts";
import type { AppraisalPolicyDocument } from "./appraisal-policy.ts";
import { contraindicated, type Finding, type ReferenceValues, warning } from "./finding.ts";
import { pcrsWithoutOneSeparator } from "./firmware-log.ts";
import type { VerifiedEvidence } from "./verify.ts";

/** Boot PCRs that a release must pin: firmware's boot decision, initrd, unified kernel image, command line. */
const releasePcrs: readonly number[] = [4, 9, 11, 12];
/** What a policy can ask for besides: firmware code, option ROMs, secure boot state. */
const firmwarePcrs: readonly number[] = [0, 2, 7];

/** Compare every quoted PCR but the agent's with the release. */
export function appraisePcrs(verified: VerifiedEvidence, reference: ReferenceValues): readonly Finding[] {
  const pinned = Object.keys(reference.pcrs[verified.challenge.bank]).map(Number);
  const missing = [...new Set([...releasePcrs, AGENT_PCR, ...pinned])].filter((pcr) => !verified.pcrs.has(pcr));
  const compared = [...verified.pcrs].filter(([pcr]) => pcr !== AGENT_PCR);
  return [
    ...missing.map((pcr) => contraindicated("pcr-not-quoted", `PCR ${pcr}`, "quoted", "not asked for")),
    ...compared.flatMap(([pcr, value]) => comparePcr(verified, reference, pcr, value)),
  ];
}

/** Firmware PCRs without reference values, as the policy wants it. The log explains their values, and nobody says that they are good. */
export function appraiseFirmware(
  verified: VerifiedEvidence,
  reference: ReferenceValues,
  { firmware }: AppraisalPolicyDocument,
): readonly Finding[] {
  if (firmware === "waived") return [];
  const required = firmware === "pinned" ? firmwarePcrs : [];
  const without = (pcr: number) => reference.pcrs[verified.challenge.bank][`${pcr}`] === undefined;
  const refused = required.filter(without);
  const warned = [...verified.pcrs.keys()]
    .filter((pcr) => pcr !== AGENT_PCR && !releasePcrs.includes(pcr) && !required.includes(pcr))
    .filter(without);
  return [
    ...(refused.length === 0
      ? []
      : [contraindicated("firmware-unpinned", list(refused), "reference values, or another policy", "none")]),
    ...(warned.length === 0
      ? []
      : [warning("firmware-unpinned", list(warned), "reference values", "replayed from the log only")]),
  ];
}

/** A firmware PCR should have one separator, where the firmware ended and the boot loader began. */
export function appraiseSeparators(verified: VerifiedEvidence): readonly Finding[] {
  const found = pcrsWithoutOneSeparator(verified.firmwareLog, verified.challenge.bank).filter((pcr) =>
    verified.pcrs.has(pcr),
  );
  if (found.length === 0) return [];
  return [warning("firmware-separator", list(found), "one separator each", "none or several")];
}

/** `null`: there is no reference, or it is the agent PCR, which is compared event by event. */
export function expectedPcr(
  { challenge }: VerifiedEvidence,
  reference: ReferenceValues | null,
  pcr: number,
): string | null {
  return pcr === AGENT_PCR ? null : (reference?.pcrs[challenge.bank][`${pcr}`] ?? null);
}

function comparePcr(
  verified: VerifiedEvidence,
  reference: ReferenceValues,
  pcr: number,
  value: Uint8Array,
): readonly Finding[] {
  const expected = expectedPcr(verified, reference, pcr);
  const got = toHex(value);
  const item = `PCR ${pcr} (${verified.challenge.bank})`;
  const pinned = releasePcrs.includes(pcr);
  // Firmware that leaves a bank alone would match a release made on such a machine, and everybody can have zeros.
  if (EXTENDED_PCRS.includes(pcr) && value.every((byte) => byte === 0))
    return [contraindicated("pcr-unextended", item, "an extended PCR", "zeros")];
  if (expected === null) return pinned ? [contraindicated("pcr-no-reference", item, "a reference value", "none")] : [];
  return expected === got ? [] : [contraindicated("pcr-mismatch", item, expected, got)];
}

function list(pcrs: readonly number[]): string {
  return `PCRs ${pcrs.join(", ")}`;
}
