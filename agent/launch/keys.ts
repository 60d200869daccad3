import {
  type KeyClaim,
  type LaunchEvent,
  measureKey,
  measureToken,
  type Reason,
  reason,
  type TokenClaim,
} from "../../attest/index.ts";
import { type Policy, type PolicyKey, sha256Hex } from "../../policy/index.ts";
import type { KeyFlag, ShimKey } from "../shim-replies.ts";
import { spkiOf } from "./spki.ts";

export type TokenIdentity = TokenClaim;

/** A key that the policy names and its token holds exactly once. */
export interface ServedKey {
  readonly name: string;
  /** The policy's name of the token, and the slot that presents it. */
  readonly token: string;
  readonly slotId: bigint;
  readonly handle: bigint;
  readonly does: Policy["keys"][string]["does"];
  readonly spki: Uint8Array;
  readonly spkiSha256: string;
  readonly id: Uint8Array;
  readonly label: string;
  /** What the token says of the key; a flag that it would not tell is absent. */
  readonly flags: ShimKey["flags"];
}

/** A token that is logged in to, and what it holds. */
export interface TokenKeys {
  readonly slotId: bigint;
  readonly keys: readonly ShimKey[];
}

/**
 * Match the policy's keys, named by token and public key, with what the tokens hold. None or two matches refuse, and so does a key
 * that could leave the token (I7): extractable, not sensitive, or of unknown history where the policy does not accept that.
 */
export function findServedKeys(
  policy: Policy,
  tokens: ReadonlyMap<string, TokenKeys>,
): { keys: ServedKey[]; reasons: Reason[] } {
  const keys: ServedKey[] = [];
  const reasons: Reason[] = [];
  const candidates = [...tokens].flatMap(([token, held]) =>
    held.keys.map((key) => ({ token, slotId: held.slotId, key, spki: spkiOf(key) })),
  );
  for (const [name, wanted] of Object.entries(policy.keys)) {
    const onToken = candidates.filter(({ token }) => token === wanted.token);
    const matches = onToken.filter(({ spki }) => spki !== null && `sha256:${sha256Hex(spki)}` === wanted.spki);
    const [match] = matches;
    if (match === undefined || match.spki === null || matches.length !== 1) {
      reasons.push(
        reason("key-unknown", name, `exactly one object on ${wanted.token} with ${wanted.spki}`, `${matches.length}`),
      );
      continue;
    }
    reasons.push(...attributeReasons(name, wanted, match.key));
    keys.push({
      name,
      token: match.token,
      slotId: match.slotId,
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

/** That the key was never outside, as far as the token tells: what a policy may take for unknown. */
const HISTORY = ["alwaysSensitive", "neverExtractable", "local"] as const satisfies readonly KeyFlag[];

function attributeReasons(name: string, { does, accepts }: PolicyKey, { flags }: ShimKey): Reason[] {
  // It would ask for the PIN again at each use, and nobody has it any more. A token that does not know the attribute has the standard's
  // default, which is false (PKCS #11 2.40, section 4.8), and the launch uses each key once.
  if (flags.get("alwaysAuthenticate") === true)
    return [reason("key-always-authenticate", name, "a key that one log-in opens", "CKA_ALWAYS_AUTHENTICATE")];
  const history = accepts.includes("unknown-history") ? [] : HISTORY.map((flag) => [flag, true] as const);
  const required: readonly (readonly [KeyFlag, boolean])[] = [
    ["sensitive", true],
    ["extractable", false],
    ...history,
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
  return { kind: "token", name: token.name, sha256: measureToken(token) };
}

export function keyEvent(key: ServedKey): LaunchEvent {
  return { kind: "key", name: key.name, sha256: measureKey(keyClaim(key)) };
}

/** A key as reports carry it. */
export function keyClaim({ name, token, spkiSha256, does, flags }: ServedKey): KeyClaim {
  return { name, token, spki: spkiSha256, does, attributes: Object.fromEntries(flags) };
}
