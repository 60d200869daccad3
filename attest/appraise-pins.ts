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
  const profiles = log.filter(({ kind }) => kind === "profile");
  return [...libraryFindings(log, policy), ...profileFindings(profiles, policy)];
}

function libraryFindings(log: readonly LaunchEvent[], { libraries }: AppraisalPolicyDocument): readonly Finding[] {
  if (libraries === "as-released") return [];
  const expected = libraries.map(({ name, sha256 }) => `${name} ${sha256}`).join(" or ") || "none";
  const closure = log.filter(({ kind }) => kind === "closure");
  const measured = measuredLibraries(log);
  if (measured.length === 0) return [contraindicated("library-not-accepted", "library", expected, "none measured")];
  return measured.flatMap(({ library: { name, sha256 }, own }) => {
    const same = libraries.filter((pin) => pin.name === name && pin.sha256 === toHex(sha256));
    if (same.length === 0)
      return [contraindicated("library-not-accepted", `library ${name}`, expected, `${name} ${toHex(sha256)}`)];
    // Two entries for one library are two closures that it may have.
    const differences = same.map((pin) => closureDifference(pin, own, closure));
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

interface MeasuredLibrary {
  readonly library: LaunchEvent;
  /** What was measured for it and not for one before it: the closure up to the next library, and for the first whatever stands before. */
  readonly own: readonly LaunchEvent[];
}

function measuredLibraries(log: readonly LaunchEvent[]): readonly MeasuredLibrary[] {
  const starts = log.flatMap(({ kind }, index) => (kind === "library" ? [index] : []));
  return starts.flatMap((start, index) => {
    const library = log[start];
    const slice = log.slice(index === 0 ? 0 : start, starts[index + 1]);
    return library === undefined ? [] : [{ library, own: slice.filter(({ kind }) => kind === "closure") }];
  });
}

/** `null`: the loader opens exactly what the pin lists. What two libraries share was measured once, for the first of them. */
function closureDifference(
  { closure }: PinnedLibrary,
  own: readonly LaunchEvent[],
  measured: readonly LaunchEvent[],
): string | null {
  if (closure === "as-released") return null;
  const pins = new Map(Object.entries(closure));
  const other = own.find(({ name, sha256 }) => pins.get(name) !== toHex(sha256));
  if (other !== undefined) return `${other.name} ${toHex(other.sha256)}`;
  const present = new Set(measured.map(({ name, sha256 }) => `${toHex(sha256)} ${name}`));
  const missing = [...pins].find(([name, digest]) => !present.has(`${digest} ${name}`));
  return missing === undefined ? null : `no ${missing[0]}`;
}

function profileFindings(measured: readonly LaunchEvent[], { profiles }: AppraisalPolicyDocument): readonly Finding[] {
  if (profiles === "as-released") return [];
  const expected = profiles.join(" or ") || "none";
  if (measured.length === 0) return [contraindicated("profile-not-accepted", "profile", expected, "none measured")];
  return measured
    .filter(({ sha256 }) => !profiles.includes(toHex(sha256)))
    .map(({ name, sha256 }) => contraindicated("profile-not-accepted", `profile ${name}`, expected, toHex(sha256)));
}
