import { contraindicated, type Finding, warning } from "./finding.ts";
import type { VerifiedEvidence } from "./verify.ts";

/** No socket and no device: what needs no explanation. */
const narrowestProfile = "local";
/** Filters of a shim's own once it serves: for loading, locked for good, for serving (SHIM.md). */
export const ownFilters = 3;

/**
 * What the libraries reach beyond their own files. Nothing is wrong with it, and it is the first thing to know about a sandbox. The agent's
 * lines say what is reached; that a profile is not the narrowest one is in the measured log, whatever they say.
 */
export function appraiseExceptions({ claims, agentLog }: VerifiedEvidence): readonly Finding[] {
  const wider = agentLog.filter(({ event }) => event.kind === "profile" && event.name !== narrowestProfile);
  const names = [...new Set(wider.map(({ event }) => event.name))];
  return [
    ...claims.asserted.exceptions.map((line) => warning("profile-exception", line, "its own files only", "more")),
    ...names.map((name) =>
      warning("profile-exception", `profile ${name}`, `profile ${narrowestProfile}`, "a wider one"),
    ),
  ];
}

/** Features of the kernel that the sandbox had to do without, where the policy accepts that. */
export function appraiseLacks({ claims }: VerifiedEvidence): readonly Finding[] {
  return claims.asserted.lacks.map((feature) => warning("sandbox-weaker", feature, "a kernel that has it", "none"));
}

/** The shims of a serving launch, as the spawner saw their processes. */
export function appraiseShims({ claims }: VerifiedEvidence): readonly Finding[] {
  if (claims.measured.launch !== "serving") return [];
  const { shims, tokens } = claims.asserted;
  const known = new Set(tokens.map(({ name }) => name));
  const active = new Set(shims.filter(({ role }) => role === "active").map(({ token }) => token));
  const running = shims.filter(({ role }) => role !== "ended");
  return [
    ...[...known]
      .filter((name) => !active.has(name))
      .map((name) => contraindicated("shim-process", `shim of token ${name}`, "an active one", "none")),
    ...running
      .filter(({ token }) => !known.has(token))
      .map(({ id, token }) => contraindicated("shim-process", `shim ${id}`, "a shim of a named token", token)),
    ...running.flatMap(processFindings),
  ];
}

type Shim = VerifiedEvidence["claims"]["asserted"]["shims"][number];

function processFindings({ id, process }: Shim): readonly Finding[] {
  if (process === null) return [contraindicated("shim-process", `shim ${id}`, "the spawner's view of it", "nothing")];
  const { uid, seccompFilters, inheritedFilters, capabilities } = process;
  const findings: Finding[] = [];
  if (uid === 0) findings.push(contraindicated("shim-process", `shim ${id} uid`, "not 0", "0"));
  // One too many is as wrong as one too few: nobody but the shim itself may have put it there.
  if (seccompFilters - inheritedFilters !== ownFilters)
    findings.push(
      contraindicated(
        "shim-process",
        `shim ${id} seccomp filters`,
        `${ownFilters} besides the ${inheritedFilters} inherited`,
        `${seccompFilters}`,
      ),
    );
  if (!/^0+$/.test(capabilities))
    findings.push(contraindicated("shim-process", `shim ${id} capabilities`, "none", capabilities));
  return findings;
}
