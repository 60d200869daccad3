import { createPublicKey } from "node:crypto";
import { type Reason, reason } from "../../attest/index.ts";
import { acceptedRisks, type Policy } from "../../policy/index.ts";
import type { KeyUse } from "../shim-client.ts";
import type { DomainShim, KeyPlace } from "../shims/domain-shim.ts";
import { byToken } from "./deliver.ts";
import { enter, type LaunchEnvironment, type LaunchRecord, Refusal } from "./environment.ts";
import type { LaunchInputs } from "./inputs.ts";
import { findServedKeys, keyEvent, type ServedKey, type TokenKeys } from "./keys.ts";
import { proveKeyPair } from "./prove-key.ts";
import { together } from "./together.ts";
import { keysOf, type TokenShim } from "./tokens.ts";

/** A shim's own filters once it is armed: for loading, locked for good, for serving (SHIM.md). */
const OWN_FILTERS = 3;

/** What a launch that serves has: keys, and for each token its shims. */
export interface CheckedTokens {
  readonly keys: readonly ServedKey[];
  readonly tokens: readonly { readonly name: string; readonly shims: readonly DomainShim[] }[];
}

/**
 * Match the tokens' keys with the policy's as every shim sees them, use each once in each, measure each once, fix what it is for, and
 * forbid the shims new code.
 * @param held what the first shim of each token sees
 */
export async function checkKeys(
  environment: LaunchEnvironment,
  inputs: LaunchInputs,
  { shims, held }: { readonly shims: readonly TokenShim[]; readonly held: ReadonlyMap<string, TokenKeys> },
  record: LaunchRecord,
): Promise<CheckedTokens> {
  enter(record, { kind: "checking-keys" });
  const { policy } = inputs;
  const keys = findKeys(policy, held);
  const tokens = [];
  for (const [first, ...others] of byToken(shims)) {
    const own = keys.filter(({ token }) => token === first.token.name);
    const members = [await openMember(first, own)];
    for (const other of others) {
      const seen = new Map([[other.token.name, await keysOf(other)]]);
      members.push(await openMember(other, sameKeys(policy, own, other, seen)));
    }
    tokens.push({ name: first.token.name, shims: members });
  }
  // The shims are armed while the TPM takes the keys: neither says anything about the other.
  await together(measureKeys(environment, record, keys), armShims(environment, policy, tokens));
  return { keys, tokens };
}

async function measureKeys(
  { log }: LaunchEnvironment,
  record: LaunchRecord,
  keys: readonly ServedKey[],
): Promise<void> {
  for (const key of keys) {
    await log.measure(keyEvent(key), () => {
      record.keys = [...record.keys, key];
    });
  }
}

async function armShims(
  environment: LaunchEnvironment,
  policy: Policy,
  tokens: CheckedTokens["tokens"],
): Promise<void> {
  for (const { name, shims } of tokens) for (const member of shims) await armShim(environment, policy, name, member);
}

function findKeys(policy: Policy, held: ReadonlyMap<string, TokenKeys>): readonly ServedKey[] {
  const { keys, reasons } = findServedKeys(policy, held);
  if (reasons.length > 0) throw new Refusal(reasons);
  return keys;
}

/** Every other shim sees what the first one saw, under handles of its own. */
function sameKeys(
  policy: Policy,
  first: readonly ServedKey[],
  { id, token }: TokenShim,
  held: ReadonlyMap<string, TokenKeys>,
): readonly ServedKey[] {
  const own = Object.fromEntries(Object.entries(policy.keys).filter(([, key]) => key.token === token.name));
  const found = findKeys({ ...policy, keys: own }, held);
  const reasons = first.flatMap((key): readonly Reason[] => {
    const twin = found.find(({ name }) => name === key.name);
    const [expected, got] = [describeFlags(key), twin === undefined ? "none" : describeFlags(twin)];
    return expected === got ? [] : [reason("key-attributes", `${key.name} by shim ${id}`, expected, got)];
  });
  if (reasons.length > 0) throw new Refusal(reasons);
  return found;
}

function describeFlags({ flags }: ServedKey): string {
  return [...flags].map(([flag, value]) => `${flag} ${value}`).join(", ");
}

/** Every key does, in this shim, what it is for. */
async function openMember({ id, shim, serves, probed }: TokenShim, keys: readonly ServedKey[]): Promise<DomainShim> {
  const places = new Map(
    keys.map((key): [string, KeyPlace] => [key.name, { slotId: key.slotId, handle: key.handle, quick: isEc(key) }]),
  );
  // One is checked here while the shim uses the next.
  await Promise.all(keys.map((key) => proveKeyPair(shim, key, { slotId: key.slotId, handle: key.handle })));
  return { id, shim, serves, places, probed };
}

function isEc({ spki }: ServedKey): boolean {
  return createPublicKey({ key: Buffer.from(spki), format: "der", type: "spki" }).asymmetricKeyType === "ec";
}

async function armShim(
  { spawner }: LaunchEnvironment,
  policy: Policy,
  token: string,
  { id, shim, places }: DomainShim,
): Promise<void> {
  const uses = [...places].map(([name, place]) => keyUse(policy, name, place));
  await Promise.all([shim.uses(uses), shim.arm()]); // the shim does one after the other
  const status = await spawner.shimStatus(id);
  const filters = Number(status.fields.get("Seccomp_filters") ?? Number.NaN);
  // One too many is as wrong as one too few: nobody but the shim itself may have put it there.
  if (filters - status.inheritedFilters === OWN_FILTERS) return;
  const expected = `${OWN_FILTERS} besides the ${status.inheritedFilters} inherited`;
  throw new Refusal([reason("seccomp-filters", `${token}/${id}`, expected, `${filters}`)]);
}

/** What the shim is told of a key: its one use, and what the policy's scopes accept of it. */
function keyUse(policy: Policy, name: string, place: KeyPlace): KeyUse {
  const use = policy.keys[name]?.does ?? "sign";
  return { ...place, use, accepts: acceptedRisks(policy, name) };
}
