import {
  type KeyClaim,
  type LaunchEvent,
  measureKey,
  measureToken,
  type Reason,
  reason,
  type TokenClaim,
} from "../../attest/index.ts";
import { type Policy, sha256Hex } from "../../policy/index.ts";
import type { KeyFlag, ShimKey } from "../shim-replies.ts";
import { spkiOf } from "./spki.ts";

export type TokenIdentity = TokenClaim;

/** A key that the policy names and the token holds exactly once. */
export interface ServedKey {
  readonly name: string;
  readonly handle: bigint;
  readonly does: Policy["keys"][string]["does"];
  readonly spki: Uint8Array;
  readonly spkiSha256: string;
  readonly id: Uint8Array;
  readonly label: string;
  /** What the token says of the key; a flag that it would not tell is absent. */
  readonly flags: ShimKey["flags"];
}

/**
 * Match the policy's keys, named by their public key, with the token's. None or two matches refuse, and so does a key
 * that could leave the token (I7): extractable, not sensitive, or of unknown history.
 */
export function findServedKeys(
  policy: Policy,
  tokenKeys: readonly ShimKey[],
): { keys: ServedKey[]; reasons: Reason[] } {
  const keys: ServedKey[] = [];
  const reasons: Reason[] = [];
  const candidates = tokenKeys.map((key) => ({ key, spki: spkiOf(key) }));
  for (const [name, wanted] of Object.entries(policy.keys)) {
    const matches = candidates.filter(({ spki }) => spki !== null && `sha256:${sha256Hex(spki)}` === wanted.spki);
    const [match] = matches;
    if (match === undefined || match.spki === null || matches.length !== 1) {
      reasons.push(reason("key-unknown", name, `exactly one object with ${wanted.spki}`, `${matches.length}`));
      continue;
    }
    reasons.push(...attributeReasons(name, wanted.does, match.key));
    keys.push({
      name,
      handle: match.key.handle,
      does: wanted.does,
      spki: match.spki,
      spkiSha256: sha256Hex(match.spki),
      id: match.key.id,
      label: match.key.label,
      flags: match.key.flags,
    });
  }
  keys.sort((a, b) => (a.name < b.name ? -1 : 1));
  return { keys, reasons };
}

function attributeReasons(name: string, does: ServedKey["does"], { flags }: ShimKey): Reason[] {
  const required: readonly (readonly [KeyFlag, boolean])[] = [
    ["sensitive", true],
    ["extractable", false],
    ["alwaysSensitive", true],
    ["neverExtractable", true],
    ["alwaysAuthenticate", false],
    [does, true],
  ];
  return required.flatMap(([flag, expected]) => {
    const got = flags.get(flag);
    return got === expected
      ? []
      : [reason("key-attributes", `${name} ${flag}`, `${expected}`, got === undefined ? "unknown" : `${got}`)];
  });
}

export function tokenEvent(token: TokenIdentity): LaunchEvent {
  return { kind: "token", name: token.label, sha256: measureToken(token) };
}

export function keyEvent(key: ServedKey): LaunchEvent {
  return { kind: "key", name: key.name, sha256: measureKey(keyClaim(key)) };
}

/** A key as reports carry it. */
export function keyClaim({ name, spkiSha256, does, flags }: ServedKey): KeyClaim {
  return { name, spki: spkiSha256, does, attributes: Object.fromEntries(flags) };
}
