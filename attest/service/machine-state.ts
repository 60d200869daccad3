import type { AttestationResult, Continuity, Reason } from "../index.ts";

/** Exactly one at a time. */
export const machineStates = ["enrolled", "affirming", "warning", "contraindicated", "refused", "silent"] as const;
export type MachineState = (typeof machineStates)[number];

/** Any number at a time; they stay until an operator takes them away. */
export const flagNames = ["rebooted", "changed", "violation", "clone", "rolled-back"] as const;
export type FlagName = (typeof flagNames)[number];

/** Kinds of events in a machine's history, besides the names of states and flags. */
const otherKinds = [
  "enrolled-again",
  "rejected",
  "flags-cleared",
  "continuity-accepted",
  "continuity-reset",
  "retired",
] as const;
export const eventKinds = [...machineStates, ...flagNames, ...otherKinds] as const;
export type EventKind = (typeof eventKinds)[number];

export interface MachineEvent {
  readonly at: string;
  readonly kind: EventKind;
  readonly detail: Readonly<Record<string, string | number | null>>;
}

/** What ran at the last verified report: a difference from it raises the flag `changed`. */
export interface Fingerprint {
  readonly release: string | null;
  readonly policy: string | null;
  readonly profile: string | null;
  readonly library: string | null;
  /** One digest over the whole closure. */
  readonly closure: string | null;
}

/** The part of a machine's record that reports change. */
export interface MachineView {
  readonly state: MachineState;
  readonly since: string;
  readonly tier: AttestationResult["tier"] | null;
  readonly release: string | null;
  readonly launch: AttestationResult["launch"] | null;
  readonly lastSeen: string | null;
  /** When the last report came that was affirming. Absent where nothing is known: a store from before there was this field. */
  readonly lastAffirming?: string | null;
  readonly violations: number;
  readonly flags: readonly FlagName[];
  readonly fingerprint: Fingerprint | null;
  readonly continuity: Continuity | null;
}

export interface Verified {
  readonly kind: "judged";
  readonly result: AttestationResult;
  readonly continuity: Continuity;
  readonly fingerprint: Fingerprint;
  readonly violations: number;
}

/** Evidence that did not verify. `authentic`: the enrolled key did sign it over the nonce, so it is this machine that says so. */
export interface Refused {
  readonly kind: "refused";
  readonly reasons: readonly Reason[];
  readonly authentic: boolean;
}

export type Outcome = Verified | Refused;

export interface Transition {
  readonly view: MachineView;
  readonly events: readonly MachineEvent[];
}

/** Codes of continuity's refusals (continuity.ts). */
const wentBack: ReadonlySet<string> = new Set([
  "tpm-rolled-back",
  "boot-forked",
  "clock-went-back",
  "epoch-went-back",
  "audit-rolled-back",
  "audit-forked",
]);

/** A fresh machine's view. */
export function enrolledView(at: string): MachineView {
  const nothing = { tier: null, release: null, launch: null, lastSeen: null, fingerprint: null, continuity: null };
  return { state: "enrolled", since: at, violations: 0, flags: [], ...nothing };
}

/** What a judged or refused report of this machine makes of it. Pure. */
export function afterReport(before: MachineView, outcome: Outcome, at: string): Transition {
  return outcome.kind === "judged" ? afterJudged(before, outcome, at) : afterRefused(before, outcome, at);
}

function afterJudged(before: MachineView, outcome: Verified, at: string): Transition {
  const { result, continuity, fingerprint, violations } = outcome;
  const raised: [FlagName, MachineEvent["detail"]][] = [];
  if (before.continuity !== null && bootOf(before.continuity) !== bootOf(continuity))
    raised.push(["rebooted", { from: bootOf(before.continuity), to: bootOf(continuity) }]);
  for (const item of changedItems(before.fingerprint, fingerprint))
    raised.push(["changed", { item, from: before.fingerprint?.[item] ?? null, to: fingerprint[item] }]);
  const sameBoot = before.continuity !== null && bootOf(before.continuity) === bootOf(continuity);
  if (violations > (sameBoot ? before.violations : 0)) raised.push(["violation", { count: violations }]);
  const { release, launch } = result;
  const ran = { fingerprint: mergeFingerprint(before.fingerprint, fingerprint), continuity };
  const lastAffirming = result.tier === "affirming" ? at : (before.lastAffirming ?? null);
  const seen = { tier: result.tier, release, launch, violations, lastSeen: at, lastAffirming, ...ran };
  const view = {
    ...before,
    ...seen,
    flags: withFlags(
      before.flags,
      raised.map(([flag]) => flag),
    ),
  };
  const [worst] = result.findings.toSorted((a, b) => rank(a.tier) - rank(b.tier));
  const detail = worst === undefined ? {} : { code: worst.code };
  const moved = moveTo(view, result.tier, at, detail);
  return {
    view: moved.view,
    events: [...raised.map(([kind, about]) => ({ at, kind, detail: about })), ...moved.events],
  };
}

const rank = (tier: "warning" | "contraindicated") => (tier === "contraindicated" ? 0 : 1);

/**
 * Only what the enrolled key signed over this nonce says anything about the machine. Whoever asks for a nonce in its name and answers
 * with something else must not be able to change how it looks.
 */
function afterRefused(before: MachineView, { reasons, authentic }: Refused, at: string): Transition {
  const code = reasons[0]?.code ?? null;
  if (!authentic) return { view: before, events: [] };
  const back = reasons.find((found) => wentBack.has(found.code));
  const flags = withFlags(before.flags, back === undefined ? [] : ["rolled-back"]);
  const moved = moveTo({ ...before, flags, lastSeen: at }, "refused", at, { code });
  if (back === undefined) return moved;
  const event = {
    at,
    kind: "rolled-back",
    detail: { code: back.code, expected: back.expected, got: back.got },
  } as const;
  return { view: moved.view, events: [event, ...moved.events] };
}

/** A machine that sent nothing for the interval. `null` while it is in time, or silent already. */
export function afterSilence(before: MachineView, now: Date, intervalSeconds: number): Transition | null {
  if (before.state === "silent") return null;
  const last = Date.parse(before.lastSeen ?? before.since);
  if (now.getTime() - last <= 1000 * intervalSeconds) return null;
  return moveTo(before, "silent", now.toISOString(), { lastSeen: before.lastSeen });
}

/** Its TPM answered under another name, or another machine's under this one. */
export function afterClone(before: MachineView, other: string, at: string): Transition {
  return {
    view: { ...before, flags: withFlags(before.flags, ["clone"]) },
    events: [{ at, kind: "clone", detail: { other } }],
  };
}

function moveTo(view: MachineView, state: MachineState, at: string, detail: MachineEvent["detail"]): Transition {
  if (view.state === state) return { view, events: [] };
  return {
    view: { ...view, state, since: at },
    events: [{ at, kind: state, detail: { from: view.state, ...detail } }],
  };
}

function withFlags(flags: readonly FlagName[], raised: readonly FlagName[]): readonly FlagName[] {
  return flagNames.filter((flag) => flags.includes(flag) || raised.includes(flag));
}

const fingerprintItems = ["release", "policy", "profile", "library", "closure"] as const;

/** A launch that did not come as far as an item says nothing about it: its state tells. */
function changedItems(before: Fingerprint | null, now: Fingerprint): readonly (keyof Fingerprint)[] {
  return fingerprintItems.filter((item) => {
    const known = before?.[item] ?? null;
    return known !== null && now[item] !== null && known !== now[item];
  });
}

function mergeFingerprint(before: Fingerprint | null, now: Fingerprint): Fingerprint {
  const item = (name: keyof Fingerprint) => now[name] ?? before?.[name] ?? null;
  return {
    ...{ release: item("release"), policy: item("policy"), profile: item("profile") },
    ...{ library: item("library"), closure: item("closure") },
  };
}

function bootOf({ resetCount, restartCount }: Continuity): string {
  return `resetCount ${resetCount}, restartCount ${restartCount}`;
}
