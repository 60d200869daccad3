import { ByteWriter, type Operation, type Policy, type Scope, scopeUse } from "../../policy/index.ts";
import { CKR } from "../broker/ckr.ts";
import type { BrokerKey } from "../broker/key.ts";
import { type ScopeState, scopeOf } from "../broker/scope-state.ts";
import {
  type Attribute,
  type AttributeQuery,
  type AttributeValue,
  CKA,
  flag,
  nativeLength,
  sameValue,
  writeAttribute,
} from "./attributes.ts";
import { certificateAttributes, certificateOf, type KeyCertificate } from "./certificate-object.ts";
import { commonAttributes, privateAttributes, publicAttributes } from "./key-attributes.ts";

/** Bytes of values in one reply, at most. All that an object has is less than half of it: beyond it somebody asks for the same again and again. */
const MAX_VALUES = 65_536;

/** Far beyond 16 keys, 16 arrivals and 16 certificates. */
const MAX_HANDLE = 1_000n;

/** One object that a scope shows. The handle is the same on every connection. */
export type VirtualObject = KeyObject | CertificateObject;

export interface KeyObject extends ShownObject {
  readonly kind: "private" | "public";
  readonly key: BrokerKey;
}

interface CertificateObject extends ShownObject {
  readonly kind: "certificate";
}

interface ShownObject {
  readonly handle: bigint;
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

/** Built once for each key, and anew when its certificate goes. */
interface Built {
  readonly certificate: KeyCertificate | null;
  readonly attributes: Readonly<Record<VirtualObject["kind"], ReadonlyMap<number, AttributeValue>>>;
}
const built = new WeakMap<BrokerKey, Built>();

/**
 * The objects of a scope as it was opened: the nth key, from 0, has the private object 2n + 1 and the public one 2n + 2. Keys that arrived count on, and behind
 * all of them the nth key's certificate has one. A key that a narrower policy takes away leaves its handles to nobody.
 */
export function scopeObjects(state: ScopeState): readonly VirtualObject[] {
  const scope = scopeOf(state);
  if (scope === null) return [];
  const last = 2 * shownKeys(state) + state.handles.keys.length;
  return Array.from({ length: last }, (_, index) => objectOf(state, BigInt(index + 1))).flatMap(
    (object) => object ?? [],
  );
}

/** Null for a handle of no object, of a key that has not arrived, or of a certificate that the policy does not have. */
export function objectOf(state: ScopeState, handle: bigint): VirtualObject | null {
  const scope = scopeOf(state);
  if (scope === null || handle < 1n || handle > MAX_HANDLE) return null;
  const behind = Number(handle) - 2 * shownKeys(state) - 1;
  if (behind >= 0) return certificateAt(state, scope, behind, handle);
  const index = Number((handle - 1n) / 2n);
  const key = keyAt(state, scope, index);
  if (key === null) return null;
  const kind = handle % 2n === 1n ? "private" : "public";
  return { handle, kind, key, attributes: knownOf(state, scope, index, key).attributes[kind] };
}

/** As `objectOf`, and null for what is no key. */
export function keyObjectOf(state: ScopeState, handle: bigint): KeyObject | null {
  const object = objectOf(state, handle);
  return object === null || object.kind === "certificate" ? null : object;
}

/** Keys that have a place among the handles, whether or not they are there. */
function shownKeys({ handles: { keys, arrivals } }: ScopeState): number {
  return keys.length + arrivals.length;
}

function certificateAt(state: ScopeState, scope: Scope, index: number, handle: bigint): CertificateObject | null {
  const name = state.handles.keys[index];
  const key = name === undefined ? null : state.keys.find(scope, name);
  if (key === null) return null;
  const { certificate, attributes } = knownOf(state, scope, index, key);
  return certificate === null ? null : { handle, kind: "certificate", attributes: attributes.certificate };
}

function knownOf(state: ScopeState, scope: Scope, index: number, key: BrokerKey): Built {
  const policy = state.live.current;
  const own = index < state.handles.keys.length;
  const certificate = own && scope.from === undefined ? certificateOf(policy, key.name) : null;
  const known = built.get(key);
  if (known !== undefined && known.certificate === certificate) return known;
  const arriving = scope.unwraps?.find((rule) => rule.key === key.name);
  const does = (own ? scopeUse(policy, scope, key.name) : arriving?.does) ?? null;
  const made = build(key, does, own && hasKnownHistory(policy, scope, key.name), certificate);
  built.set(key, made);
  return made;
}

/** The launch serves no key whose token says, or leaves open, that it was once outside, but for those that the policy accepts so. */
function hasKnownHistory({ keys }: Policy, { from }: Scope, name: string): boolean {
  return from === undefined && keys[name]?.accepts.includes("unknown-history") === false;
}

function keyAt({ keys, name, handles }: ScopeState, scope: Scope, index: number): BrokerKey | null {
  const own = handles.keys[index];
  if (own !== undefined) return keys.find(scope, own);
  const arriving = handles.arrivals[index - handles.keys.length];
  const rule = scope.unwraps?.find(({ key }) => key === arriving);
  return rule === undefined ? null : (keys.arrival(name, rule.key)?.key ?? null);
}

/**
 * What C_UnwrapKey answers: a handle behind those of the scope's own keys. It shows the key and does nothing with it: a scope that takes its
 * keys from this one does.
 */
export function arrivalHandle({ handles: { keys, arrivals } }: ScopeState, key: BrokerKey): bigint {
  return BigInt(2 * (keys.length + arrivals.indexOf(key.name)) + 1);
}

/** `does` is what the key is for, and all that it is for: it never changes under one key. */
function build(key: BrokerKey, does: Operation | null, hasHistory: boolean, certificate: KeyCertificate | null): Built {
  const common: [number, AttributeValue][] = [
    ...commonAttributes(key, certificate?.subject ?? new Uint8Array()),
    [CKA.LOCAL, flag(hasHistory)],
  ];
  const attributes = {
    private: new Map([...common, ...privateAttributes(does, hasHistory)]),
    public: new Map([...common, ...publicAttributes(key, does)]),
    certificate: new Map(certificate === null ? [] : certificateAttributes(key, certificate)),
  };
  return { certificate, attributes };
}

/** Does the object have each attribute of the template, with that value? An attribute that it does not show never matches. */
export function matchesTemplate(object: VirtualObject, template: readonly Attribute[]): boolean {
  return template.every(({ type, value }) => {
    const own = object.attributes.get(type);
    return own !== undefined && value !== null && sameValue(own, value);
  });
}

/** The `aAu` reply of C_GetAttributeValue: partial failures travel inside a successful reply. Null for one that would have more than `MAX_VALUES`. */
export function encodeAttributes(object: VirtualObject, queries: readonly AttributeQuery[]): Uint8Array | null {
  if (valuesLength(object, queries) > MAX_VALUES) return null;
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

function valuesLength(object: VirtualObject, queries: readonly AttributeQuery[]): number {
  return queries.reduce((length, { type, room }) => {
    const value = room === null ? null : (object.attributes.get(type) ?? null);
    return length + (value === null ? 0 : nativeLength(value));
  }, 0);
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
