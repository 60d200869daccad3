import { ByteWriter, type Operation, type Policy, type Scope, scopeUse, utf8 } from "../../policy/index.ts";
import { CKR } from "../broker/ckr.ts";
import type { BrokerKey } from "../broker/key.ts";
import { type ScopeState, scopeOf } from "../broker/scope-state.ts";
import {
  type Attribute,
  type AttributeQuery,
  type AttributeValue,
  CKA,
  nativeLength,
  sameValue,
  writeAttribute,
} from "./attributes.ts";

/** Far beyond 16 keys and 16 arrivals. */
const MAX_HANDLE = 1_000n;

const CKO_PUBLIC_KEY = 2n;
const CKO_PRIVATE_KEY = 3n;
const CKK_RSA = 0n;
const CKK_EC = 3n;

/** One object that a scope shows. The handle is the same on every connection. */
export interface VirtualObject {
  readonly handle: bigint;
  readonly kind: "private" | "public";
  readonly key: BrokerKey;
  readonly attributes: ReadonlyMap<number, AttributeValue>;
}

/** What only the token has. The agent could not answer these if it wanted to; CKR_ATTRIBUTE_SENSITIVE is what applications expect. */
const SECRET: ReadonlySet<number> = new Set([
  CKA.VALUE,
  CKA.PRIVATE_EXPONENT,
  CKA.PRIME_1,
  CKA.PRIME_2,
  CKA.EXPONENT_1,
  CKA.EXPONENT_2,
  CKA.COEFFICIENT,
]);

/** Built once for each key. */
const built = new WeakMap<BrokerKey, Readonly<Record<VirtualObject["kind"], ReadonlyMap<number, AttributeValue>>>>();

/** The objects of a scope's keys: the nth key, from 0, has the private object 2n + 1 and the public one 2n + 2. Keys that arrived count on. */
export function scopeObjects(state: ScopeState): readonly VirtualObject[] {
  const scope = scopeOf(state);
  if (scope === null) return [];
  return [...scope.keys, ...(scope.unwraps ?? [])].flatMap((_, index) => {
    const first = BigInt(2 * index + 1);
    return [objectOf(state, first), objectOf(state, first + 1n)].flatMap((object) => object ?? []);
  });
}

/** Null for a handle of no object, or of a key that has not arrived. */
export function objectOf(state: ScopeState, handle: bigint): VirtualObject | null {
  const scope = scopeOf(state);
  if (scope === null || handle < 1n || handle > MAX_HANDLE) return null;
  const index = Number((handle - 1n) / 2n);
  const key = keyAt(state, scope, index);
  if (key === null) return null;
  const kind = handle % 2n === 1n ? "private" : "public";
  const policy = state.live.current;
  const does = scopeUse(policy, scope, key.name) ?? scope.unwraps?.[index - scope.keys.length]?.does ?? null;
  const known =
    built.get(key) ?? build(key, does, index < scope.keys.length && hasKnownHistory(policy, scope, key.name));
  return { handle, kind, key, attributes: known[kind] };
}

/** The launch serves no key whose token says, or leaves open, that it was once outside, but for those that the policy accepts so. */
function hasKnownHistory({ keys }: Policy, { from }: Scope, name: string): boolean {
  return from === undefined && keys[name]?.accepts.includes("unknown-history") === false;
}

function keyAt({ keys, name }: ScopeState, scope: Scope, index: number): BrokerKey | null {
  const own = scope.keys[index];
  if (own !== undefined) return keys.find(scope, own);
  const rule = scope.unwraps?.[index - scope.keys.length];
  return rule === undefined ? null : (keys.arrival(name, rule.key)?.key ?? null);
}

/**
 * What C_UnwrapKey answers: a handle behind those of the scope's own keys. It shows the key and does nothing with it: a scope that takes its
 * keys from this one does.
 */
export function arrivalHandle(state: ScopeState, key: BrokerKey): bigint {
  const scope = scopeOf(state);
  const index = (scope?.unwraps ?? []).findIndex((rule) => rule.key === key.name);
  return BigInt(2 * ((scope?.keys.length ?? 0) + index) + 1);
}

/** `does` is what the key is for, and all that it is for: it never changes under one key. */
function build(key: BrokerKey, does: Operation | null, hasHistory: boolean): NonNullable<ReturnType<typeof built.get>> {
  const common: [number, AttributeValue][] = [...commonAttributes(key), [CKA.LOCAL, flag(hasHistory)]];
  const made = {
    private: new Map([...common, ...privateAttributes(does, hasHistory)]),
    public: new Map([...common, ...publicAttributes(key, does)]),
  };
  built.set(key, made);
  return made;
}

/** Does the object have each attribute of the template, with that value? An attribute that it does not show never matches. */
export function matchesTemplate(object: VirtualObject, template: readonly Attribute[]): boolean {
  return template.every(({ type, value }) => {
    const own = object.attributes.get(type);
    return own !== undefined && value !== null && sameValue(own, value);
  });
}

/** The `aAu` reply of C_GetAttributeValue: partial failures travel inside a successful reply. */
export function encodeAttributes(object: VirtualObject, queries: readonly AttributeQuery[]): Uint8Array {
  const writer = new ByteWriter().u32(queries.length);
  const failures = new Set<bigint>();
  for (const { type, room } of queries) {
    const value = object.attributes.get(type) ?? null;
    const failure = attributeFailure(object, type, value, room);
    if (failure !== null) failures.add(failure);
    writeAttribute(writer, type, failure === null ? value : null, room === null);
  }
  const order = [CKR.ATTRIBUTE_SENSITIVE, CKR.ATTRIBUTE_TYPE_INVALID, CKR.BUFFER_TOO_SMALL];
  return writer.u64(order.find((rv) => failures.has(rv)) ?? 0n).finish();
}

function attributeFailure(
  object: VirtualObject,
  type: number,
  value: AttributeValue | null,
  room: number | null,
): bigint | null {
  if (object.kind === "private" && SECRET.has(type)) return CKR.ATTRIBUTE_SENSITIVE;
  if (value === null) return CKR.ATTRIBUTE_TYPE_INVALID;
  return room !== null && room < nativeLength(value) ? CKR.BUFFER_TOO_SMALL : null;
}

function commonAttributes(key: BrokerKey): [number, AttributeValue][] {
  return [
    [CKA.TOKEN, flag(true)],
    [CKA.LABEL, bytes(utf8(key.label))],
    [CKA.ID, bytes(key.id)],
    [CKA.KEY_TYPE, ulong(key.keyType === "rsa" ? CKK_RSA : CKK_EC)],
    [CKA.SUBJECT, bytes(new Uint8Array())],
    [CKA.START_DATE, bytes(new Uint8Array())],
    [CKA.END_DATE, bytes(new Uint8Array())],
    [CKA.DERIVE, flag(false)],
    [CKA.MODIFIABLE, flag(false)],
    [CKA.COPYABLE, flag(false)],
    // By the protocol a byte string, unlike the other truth values.
    [CKA.DESTROYABLE, bytes(Uint8Array.of(0))],
    [CKA.PUBLIC_KEY_INFO, bytes(key.spki)],
    ...(key.keyType === "rsa"
      ? ([
          [CKA.MODULUS, bytes(key.modulus)],
          [CKA.PUBLIC_EXPONENT, bytes(key.exponent)],
        ] satisfies [number, AttributeValue][])
      : ([
          [CKA.EC_PARAMS, bytes(key.ecParams)],
          [CKA.EC_POINT, bytes(key.ecPoint)],
        ] satisfies [number, AttributeValue][])),
  ];
}

function privateAttributes(does: Operation | null, hasHistory: boolean): [number, AttributeValue][] {
  return [
    [CKA.CLASS, ulong(CKO_PRIVATE_KEY)],
    [CKA.PRIVATE, flag(true)],
    [CKA.SENSITIVE, flag(true)],
    [CKA.EXTRACTABLE, flag(false)],
    [CKA.ALWAYS_SENSITIVE, flag(hasHistory)],
    [CKA.NEVER_EXTRACTABLE, flag(hasHistory)],
    [CKA.SIGN, flag(does === "sign")],
    [CKA.SIGN_RECOVER, flag(false)],
    [CKA.DECRYPT, flag(does === "decrypt")],
    [CKA.UNWRAP, flag(does === "unwrap")],
    [CKA.ALWAYS_AUTHENTICATE, flag(false)],
    [CKA.WRAP_WITH_TRUSTED, flag(false)],
  ];
}

function publicAttributes(key: BrokerKey, does: Operation | null): [number, AttributeValue][] {
  return [
    [CKA.CLASS, ulong(CKO_PUBLIC_KEY)],
    [CKA.PRIVATE, flag(false)],
    [CKA.ENCRYPT, flag(false)],
    [CKA.VERIFY, flag(does === "sign")],
    [CKA.VERIFY_RECOVER, flag(false)],
    [CKA.WRAP, flag(false)],
    ...(key.keyType === "rsa"
      ? ([[CKA.MODULUS_BITS, ulong(BigInt(key.bits))]] satisfies [number, AttributeValue][])
      : []),
  ];
}

function flag(value: boolean): AttributeValue {
  return { kind: "byte", value: value ? 1 : 0 };
}

function ulong(value: bigint): AttributeValue {
  return { kind: "ulong", value };
}

function bytes(value: Uint8Array): AttributeValue {
  return { kind: "bytes", value };
}
