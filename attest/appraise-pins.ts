import { toHex } from "../policy/index.ts";
import type { AppraisalPolicyDocument } from "./appraisal-policy.ts";
import { contraindicated, type Finding } from "./finding.ts";
import type { LaunchEvent } from "./launch-events.ts";
import type { VerifiedEvidence } from "./verify.ts";

type PinnedLibrary = Exclude<AppraisalPolicyDocument["libraries"], "as-released">[number];

/**
 * Judge library and sandbox profile by the policy's own lists, which narrow what the release names. Only what was hashed into the agent PCR counts: a
 * launch that measured none is refused by a list, and a second one must be in it too.
 */
export function appraisePins(verified: VerifiedEvidence, policy: AppraisalPolicyDocument): readonly Finding[] {
  const log = verified.agentLog.map(({ event }) => event);
  const ofKind = (kind: LaunchEvent["kind"]) => log.filter((event) => event.kind === kind);
  return [
    ...libraryFindings(ofKind("library"), ofKind("closure"), policy),
    ...profileFindings(ofKind("profile"), policy),
  ];
}

function libraryFindings(
  measured: readonly LaunchEvent[],
  closure: readonly LaunchEvent[],
  { libraries }: AppraisalPolicyDocument,
): readonly Finding[] {
  if (libraries === "as-released") return [];
  const expected = libraries.map(({ name, sha256 }) => `${name} ${sha256}`).join(" or ") || "none";
  if (measured.length === 0) return [contraindicated("library-not-accepted", "library", expected, "none measured")];
  return measured.flatMap(({ name, sha256 }) => {
    const same = libraries.filter((pin) => pin.name === name && pin.sha256 === toHex(sha256));
    if (same.length === 0)
      return [contraindicated("library-not-accepted", `library ${name}`, expected, `${name} ${toHex(sha256)}`)];
    // Two entries for one library are two closures that it may have.
    const differences = same.map((pin) => closureDifference(pin, closure));
    if (differences.includes(null)) return [];
    return [
      contraindicated(
        "library-not-accepted",
        `closure of ${name}`,
        "the policy's closure",
        differences[0] ?? "another",
      ),
    ];
  });
}

/** `null`: the loader opens exactly what the pin lists. */
function closureDifference({ closure }: PinnedLibrary, measured: readonly LaunchEvent[]): string | null {
  if (closure === "as-released") return null;
  const pins = new Map(Object.entries(closure));
  const other = measured.find(({ name, sha256 }) => pins.get(name) !== toHex(sha256));
  if (other !== undefined) return `${other.name} ${toHex(other.sha256)}`;
  const names = new Set(measured.map(({ name }) => name));
  const missing = [...pins.keys()].find((name) => !names.has(name));
  return missing === undefined ? null : `no ${missing}`;
}

function profileFindings(measured: readonly LaunchEvent[], { profiles }: AppraisalPolicyDocument): readonly Finding[] {
  if (profiles === "as-released") return [];
  const expected = profiles.join(" or ") || "none";
  if (measured.length === 0) return [contraindicated("profile-not-accepted", "profile", expected, "none measured")];
  return measured
    .filter(({ sha256 }) => !profiles.includes(toHex(sha256)))
    .map(({ name, sha256 }) => contraindicated("profile-not-accepted", `profile ${name}`, expected, toHex(sha256)));
}
