import { equalBytes, toHex } from "../policy/index.ts";
import type { CelRecord } from "./cel.ts";
import type { Claims, LaunchStateName, MeasuredClaims } from "./claims.ts";
import { measureKey, measureToken } from "./claims-codec.ts";
import { type Incident, incidentEvent, incidentKinds } from "./incidents.ts";
import type { LaunchEvent, LaunchEventKind } from "./launch-events.ts";
import { listNames, type Reason, reason } from "./reason.ts";

/** The measured claims that a log supports: an attester takes them from here, so that they cannot differ. */
export function measuredClaims(launch: LaunchStateName, records: readonly CelRecord[]): MeasuredClaims {
  const log = byKind(records);
  const single = (kind: LaunchEventKind) => eventsOf(log, kind)[0]?.sha256 ?? null;
  return {
    launch,
    policy: single("policy"),
    profiles: latest(log, "profile"),
    libraries: latest(log, "library"),
    closure: latest(log, "closure"),
  };
}

/**
 * Where claims that call themselves measured differ from the log, and where tokens and keys differ from the events that
 * measured them. Establishes nothing about the log: its replay against a quote does.
 */
export function measuredClaimReasons(claims: Claims, records: readonly CelRecord[]): readonly Reason[] {
  const { measured, asserted } = claims;
  const log = byKind(records);
  const tokens = asserted.tokens.map((token) => ({ name: token.name, sha256: measureToken(token) }));
  const keys = asserted.keys.map((key) => ({ name: key.name, sha256: measureKey(key) }));
  return [
    ...singleReasons("policy", measured.policy, log),
    ...mapReasons("profile", measured.profiles, log),
    ...mapReasons("library", measured.libraries, log),
    ...mapReasons("closure", measured.closure, log),
    ...listReasons("token", tokens, eventsOf(log, "token")),
    ...listReasons("key", keys, eventsOf(log, "key")),
    ...incidentReasons(asserted.incidents, records),
    ...launchReasons(measured.launch, log),
  ];
}

function singleReasons(kind: LaunchEventKind, claimed: Uint8Array | null, log: EventsByKind): readonly Reason[] {
  const events = eventsOf(log, kind);
  if (events.length > 1) return [reason("claim-measured", kind, "one event", `${events.length}`)];
  const logged = events[0]?.sha256 ?? null;
  const same = logged === null || claimed === null ? logged === claimed : equalBytes(logged, claimed);
  return same ? [] : [reason("claim-measured", kind, describe(logged), describe(claimed))];
}

/** Differences that one reason spells out: a hostile report could have thousands. */
const maxShown = 8;

type Measured = Pick<LaunchEvent, "name" | "sha256">;

/**
 * By name: where the log has two digests of one thing, which no release has, the claim is about the later. One digest twice is nothing
 * that an agent measures.
 */
function mapReasons(
  kind: LaunchEventKind,
  claimed: ReadonlyMap<string, Uint8Array>,
  log: EventsByKind,
): readonly Reason[] {
  if (areThose(eventsOf(log, kind), claimed)) return [];
  const last = latest(log, kind);
  const events = eventsOf(log, kind).filter(({ name, sha256 }) => equalBytes(last.get(name) ?? sha256, sha256));
  return listReasons(
    kind,
    [...claimed].map(([name, sha256]) => ({ name, sha256 })),
    events,
  );
}

/** Each event claimed with its digest, and no name twice: the usual case. */
function areThose(events: readonly LaunchEvent[], claimed: ReadonlyMap<string, Uint8Array>): boolean {
  if (events.length !== claimed.size) return false;
  const names = new Set<string>();
  for (const { name, sha256 } of events) {
    const found = claimed.get(name);
    if (found === undefined || !equalBytes(found, sha256)) return false;
    names.add(name);
  }
  return names.size === events.length;
}

function latest(log: EventsByKind, kind: LaunchEventKind): ReadonlyMap<string, Uint8Array> {
  return new Map(eventsOf(log, kind).map(({ name, sha256 }) => [name, sha256]));
}

/**
 * The claimed incidents are those of the log, one to one and in its order: one that is left out, changed, moved or made up is not
 * what was measured when it happened.
 */
function incidentReasons(claimed: readonly Incident[], records: readonly CelRecord[]): readonly Reason[] {
  const logged: LaunchEvent[] = [];
  for (const { event } of records) if (isIncidentKind(event.kind)) logged.push(event);
  if (logged.length === 0 && claimed.length === 0) return [];
  const found = claimed.map(incidentEvent);
  const at = Array.from({ length: Math.max(logged.length, found.length) }, (_, index) => index).find(
    (index) => !sameEvent(logged[index], found[index]),
  );
  if (at === undefined) return [];
  return [reason("claim-measured", `incident ${at}`, describeEvent(logged[at]), describeEvent(found[at]))];
}

function isIncidentKind(kind: LaunchEventKind): boolean {
  return (incidentKinds as readonly LaunchEventKind[]).includes(kind);
}

function sameEvent(a: LaunchEvent | undefined, b: LaunchEvent | undefined): boolean {
  return a !== undefined && b !== undefined && a.kind === b.kind && a.name === b.name && equalBytes(a.sha256, b.sha256);
}

function describeEvent(event: LaunchEvent | undefined): string {
  return event === undefined ? "none" : `${event.kind} ${event.name}=${toHex(event.sha256)}`;
}

function listReasons(
  kind: LaunchEventKind,
  claimed: readonly Measured[],
  events: readonly Measured[],
): readonly Reason[] {
  if (sameOnes(events, claimed)) return [];
  const line = ({ name, sha256 }: Measured) => `${name}=${toHex(sha256)}`;
  const logged = events.map(line).toSorted();
  const found = claimed.map(line).toSorted();
  const missing = without(logged, found).slice(0, maxShown);
  const extra = without(found, logged).slice(0, maxShown);
  if (missing.length + extra.length === 0 && logged.length === found.length) return [];
  return [
    reason(
      "claim-measured",
      kind,
      missing.join(" ") || `${logged.length} events`,
      extra.join(" ") || `${found.length} claims`,
    ),
  ];
}

/** Each of one among the others, in any order, and no name twice: the usual case, without a text and a sort for each. Another case is for `listReasons`. */
function sameOnes(logged: readonly Measured[], claimed: readonly Measured[]): boolean {
  if (logged.length !== claimed.length) return false;
  const left = new Map<string, Uint8Array>();
  for (const { name, sha256 } of claimed) left.set(name, sha256);
  for (const { name, sha256 } of logged) {
    const found = left.get(name);
    if (found === undefined || !equalBytes(found, sha256)) return false;
    left.delete(name);
  }
  return left.size === 0;
}

/** Those of `some` that are not among `others`, each once. Not `Set.difference`: Node 20 has none. */
function without(some: readonly string[], others: readonly string[]): readonly string[] {
  const known = new Set(others);
  return [...new Set(some)].filter((each) => !known.has(each));
}

function launchReasons(launch: LaunchStateName, log: EventsByKind): readonly Reason[] {
  const caps = eventsOf(log, "cap").map((event) => event.name);
  const expected = expectedCaps(launch);
  if (expected === null || expected.includes(caps.join("+"))) return [];
  return [reason("claim-measured", `launch ${launch}`, `cap ${expected.join(" or ")}`, `cap ${listNames(caps, "+")}`)];
}

/** `null`: the state says nothing about the cap. */
function expectedCaps(launch: LaunchStateName): readonly string[] | null {
  switch (launch) {
    case "serving":
    case "draining":
      return ["serving"];
    case "refused":
      return ["refused"];
    case "capping":
    case "stopped":
      return null;
    default:
      return [""];
  }
}

type EventsByKind = ReadonlyMap<LaunchEventKind, readonly LaunchEvent[]>;

function byKind(records: readonly CelRecord[]): EventsByKind {
  const kinds = new Map<LaunchEventKind, LaunchEvent[]>();
  for (const { event } of records) {
    const events = kinds.get(event.kind);
    if (events === undefined) kinds.set(event.kind, [event]);
    else events.push(event);
  }
  return kinds;
}

function eventsOf(log: EventsByKind, kind: LaunchEventKind): readonly LaunchEvent[] {
  return log.get(kind) ?? [];
}

function describe(digest: Uint8Array | null): string {
  return digest === null ? "none" : toHex(digest);
}
