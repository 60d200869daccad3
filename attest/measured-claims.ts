import { equalBytes, toHex } from "../policy/index.ts";
import type { CelRecord } from "./cel.ts";
import type { Claims, LaunchStateName, MeasuredClaims } from "./claims.ts";
import { measureKey, measureToken } from "./claims-codec.ts";
import type { LaunchEvent, LaunchEventKind } from "./launch-events.ts";
import { listNames, type Reason, reason } from "./reason.ts";

/** The measured claims that a log supports: an attester takes them from here, so that they cannot differ. */
export function measuredClaims(launch: LaunchStateName, records: readonly CelRecord[]): MeasuredClaims {
  const single = (kind: LaunchEventKind) => eventsOf(records, kind)[0]?.sha256 ?? null;
  const closure = eventsOf(records, "closure").map((event) => [event.name, event.sha256] as const);
  return {
    launch,
    policy: single("policy"),
    profile: single("profile"),
    library: single("library"),
    closure: new Map(closure),
  };
}

/**
 * Where claims that call themselves measured differ from the log, and where tokens and keys differ from the events that
 * measured them. Establishes nothing about the log: its replay against a quote does.
 */
export function measuredClaimReasons(claims: Claims, records: readonly CelRecord[]): readonly Reason[] {
  const { measured, asserted } = claims;
  const tokens = asserted.tokens.map((token) => ({ name: token.name, sha256: measureToken(token) }));
  const keys = asserted.keys.map((key) => ({ name: key.name, sha256: measureKey(key) }));
  const closure = [...measured.closure].map(([name, sha256]) => ({ name, sha256 }));
  return [
    ...singleReasons("policy", measured.policy, records),
    ...singleReasons("profile", measured.profile, records),
    ...singleReasons("library", measured.library, records),
    ...listReasons("closure", closure, records),
    ...listReasons("token", tokens, records),
    ...listReasons("key", keys, records),
    ...launchReasons(measured.launch, records),
  ];
}

function singleReasons(
  kind: LaunchEventKind,
  claimed: Uint8Array | null,
  records: readonly CelRecord[],
): readonly Reason[] {
  const events = eventsOf(records, kind);
  if (events.length > 1) return [reason("claim-measured", kind, "one event", `${events.length}`)];
  const logged = events[0]?.sha256 ?? null;
  const same = logged === null || claimed === null ? logged === claimed : equalBytes(logged, claimed);
  return same ? [] : [reason("claim-measured", kind, describe(logged), describe(claimed))];
}

/** Differences that one reason spells out: a hostile report could have thousands. */
const maxShown = 8;

type Measured = Pick<LaunchEvent, "name" | "sha256">;

function listReasons(
  kind: LaunchEventKind,
  claimed: readonly Measured[],
  records: readonly CelRecord[],
): readonly Reason[] {
  const line = ({ name, sha256 }: Measured) => `${name}=${toHex(sha256)}`;
  const logged = eventsOf(records, kind).map(line).toSorted();
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

/** Those of `some` that are not among `others`, each once. Not `Set.difference`: Node 20 has none. */
function without(some: readonly string[], others: readonly string[]): readonly string[] {
  const known = new Set(others);
  return [...new Set(some)].filter((each) => !known.has(each));
}

function launchReasons(launch: LaunchStateName, records: readonly CelRecord[]): readonly Reason[] {
  const caps = eventsOf(records, "cap").map((event) => event.name);
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

function eventsOf(records: readonly CelRecord[], kind: LaunchEventKind): readonly LaunchEvent[] {
  return records.map((record) => record.event).filter((event) => event.kind === kind);
}

function describe(digest: Uint8Array | null): string {
  return digest === null ? "none" : toHex(digest);
}
