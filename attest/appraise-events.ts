import { toHex } from "../policy/index.ts";
import type { AppraisalPolicyDocument } from "./appraisal-policy.ts";
import type { EventComparison } from "./attestation-result.ts";
import { contraindicated, type Finding, type ReferenceValues, warning } from "./finding.ts";
import { type DeviceViolation, type Incident, MAX_DEVICE_INCIDENTS } from "./incidents.ts";
import { capKind, isPreUnseal, type LaunchEvent, loginKinds } from "./launch-events.ts";
import { listNames } from "./reason.ts";
import type { VerifiedEvidence } from "./verify.ts";
import { violationsOf } from "./violations.ts";

interface EventAppraisal {
  readonly findings: readonly Finding[];
  readonly events: readonly EventComparison[];
}

/** Compare what was measured before the login with the release: every expected event in its place, and nothing else. */
export function appraiseExpectedEvents(verified: VerifiedEvidence, { events }: ReferenceValues): EventAppraisal {
  const measured = measuredBeforeLogin(verified);
  const extra = measured.slice(events.length).map((event) => {
    const got = toHex(event.sha256);
    return {
      line: { kind: event.kind, name: event.name, expected: null, got, agrees: false },
      finding: contraindicated("event-unknown", `${event.kind} ${event.name}`, "no such event", got),
    };
  });
  const compared = [...events.map((want, index) => compareEvent(want, measured[index])), ...extra];
  return {
    events: compared.map(({ line }) => line),
    findings: compared.flatMap(({ finding }) => (finding === null ? [] : [finding])),
  };
}

/** The same events where no release says what they should be: none of them agrees with anything. */
export function measuredWithoutRelease(verified: VerifiedEvidence): readonly EventComparison[] {
  return measuredBeforeLogin(verified).map((event) => ({ ...unreferenced(event), agrees: false }));
}

/** What has no reference value: tokens and keys are bound to the measured policy by the agent, the others happen later. */
export function unreferencedEvents({ agentLog }: VerifiedEvidence): readonly EventComparison[] {
  return agentLog.filter(({ event }) => !isPreUnseal(event)).map(({ event }) => unreferenced(event));
}

/** The phases of a launch follow each other, and it ends with one cap: measurements, tokens and keys, the cap, what may follow it. */
export function appraiseLogOrder(verified: VerifiedEvidence): readonly Finding[] {
  const log = verified.agentLog.map(({ event }) => event);
  return [...orderFindings(log), ...capFindings(verified, log)];
}

function measuredBeforeLogin({ agentLog }: VerifiedEvidence): readonly LaunchEvent[] {
  return agentLog.map(({ event }) => event).filter((event) => isPreUnseal(event));
}

function compareEvent(
  { kind, name, sha256: expected }: ReferenceValues["events"][number],
  event: LaunchEvent | undefined,
): { line: EventComparison; finding: Finding | null } {
  const got = event === undefined ? null : toHex(event.sha256);
  const same = event?.kind === kind && event.name === name;
  const agrees = same && got === expected;
  return {
    line: { kind, name, expected, got: same ? got : null, agrees },
    finding: agrees ? null : eventFinding(`${kind} ${name}`, expected, event, same),
  };
}

function eventFinding(item: string, expected: string, event: LaunchEvent | undefined, same: boolean): Finding {
  if (event === undefined) return contraindicated("event-missing", item, expected, "nothing");
  const got = toHex(event.sha256);
  if (same) return contraindicated("event-mismatch", item, expected, got);
  return contraindicated("event-order", item, expected, `${event.kind} ${event.name} ${got}`);
}

function unreferenced(event: LaunchEvent): EventComparison {
  return { kind: event.kind, name: event.name, expected: null, got: toHex(event.sha256), agrees: true };
}

/** The phases of a launch follow each other; an event out of its phase could hide what was measured before it. */
function orderFindings(log: readonly LaunchEvent[]): readonly Finding[] {
  const findings: Finding[] = [];
  let phase = 0;
  for (const event of log) {
    const own = phaseOf(event);
    if (own < phase)
      findings.push(
        contraindicated("event-order", `${event.kind} ${event.name}`, "an earlier place", "after a later phase"),
      );
    phase = Math.max(phase, own);
  }
  return findings;
}

function phaseOf(event: LaunchEvent): number {
  if (isPreUnseal(event)) return 0;
  if (isOneOf(loginKinds, event)) return 1;
  return event.kind === capKind ? 2 : 3;
}

/** One cap, and the one that belongs to the state; without it the PIN could be unsealed again in this boot. */
function capFindings({ claims }: VerifiedEvidence, log: readonly LaunchEvent[]): readonly Finding[] {
  const caps = log.filter((event) => event.kind === capKind).map((event) => event.name);
  const expected = claims.measured.launch === "refused" ? "refused" : "serving";
  if (caps.length === 1 && caps[0] === expected) return [];
  return [contraindicated("cap", "cap events", expected, listNames(caps, ", "))];
}

/** What the machine, its libraries and their shims did after the launch: devices first, so that no flood of calls leaves one out. */
export function appraiseLater(
  { claims }: VerifiedEvidence,
  { maxViolations }: AppraisalPolicyDocument,
): readonly Finding[] {
  const { devices, calls, callNames } = violationsOf(claims.asserted);
  return [
    ...devices.map(deviceFinding),
    ...roomFindings(devices),
    ...callFindings(calls, `violations (${callNames.slice(0, 8).join(", ")})`, maxViolations),
    ...claims.asserted.incidents.flatMap(replacementFinding),
  ];
}

/** A device that nobody measured can be the HSM's impostor or a keyboard: what is tolerated of calls says nothing about it. */
function deviceFinding({ device, change }: DeviceViolation): Finding {
  const make = change === "added" ? contraindicated : warning;
  return make("violations", `device ${device}`, "as when the launch measured it", change);
}

/** Devices that go are a warning each: enough of them, and one that comes would be told no more. */
function roomFindings({ length }: readonly DeviceViolation[]): readonly Finding[] {
  if (length < MAX_DEVICE_INCIDENTS) return [];
  const expected = `fewer recorded than the agent has room for (${MAX_DEVICE_INCIDENTS})`;
  return [contraindicated("violations", "devices", expected, `${length}`)];
}

function callFindings(calls: number, item: string, tolerated: number): readonly Finding[] {
  if (calls > tolerated) return [contraindicated("violations", item, `at most ${tolerated}`, `${calls}`)];
  return calls === 0 ? [] : [warning("violations", item, "none", `${calls}`)];
}

function replacementFinding(incident: Incident): readonly Finding[] {
  if (incident.what !== "replacement") return [];
  const { token, from, to, why } = incident;
  const got = `${to < 0 ? "none" : `shim ${to}`}: ${why}`;
  return [warning("shim-replaced", `shim of token ${token}`, `shim ${from}`, got)];
}

function isOneOf(kinds: readonly string[], event: LaunchEvent): boolean {
  return kinds.includes(event.kind);
}
