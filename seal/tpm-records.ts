import type { TpmObject, Tpm as Tss } from "node-tpm2-tss";
import { ByteReader, ByteWriter, fromHex, NV_WRITTEN, sha256, toHex, utf8 } from "../policy/index.ts";
import { SealError } from "./errors.ts";
import { provisionFreeze } from "./freeze-bits.ts";
import { openNvIndex, withNvIndex } from "./nv-index.ts";

// What a machine keeps in its TPM because a disk can be rolled back: FORMATS.md, section 7.

export const LOGIN_INDEX = 0x0180_0021;
export const ANCHOR_INDEX = 0x0180_0022;
/** AUTHWRITE, AUTHREAD, NO_DA: readable and writable also while the TPM is in lockout. */
const ATTRIBUTES = 0x0204_0004;
const RECORD_BYTES = 64;
const RECORDS = 8;
const LOGIN_BYTES = RECORDS * RECORD_BYTES;

/** How the last try with a credential ended. `trying` is written before the try, and stays when the power goes. */
export const LOGIN_OUTCOMES = { trying: 1, accepted: 2, refused: 3, "retry-allowed": 4 } as const;
export type LoginOutcome = keyof typeof LOGIN_OUTCOMES;

export interface LoginRecord {
  readonly name: string;
  readonly outcome: LoginOutcome;
  readonly generation: number;
  /** Tries of this credential so far, whatever their outcome. */
  readonly tries: bigint;
  /** `packageDigest` of what was tried. */
  readonly package: string;
}

/** 64 bytes. */
export function encodeLoginRecord(record: LoginRecord): Uint8Array {
  requireDigest("package", record.package);
  return new ByteWriter()
    .bytes(nameDigest(record.name))
    .u8(LOGIN_OUTCOMES[record.outcome])
    .bytes(new Uint8Array(3))
    .u32(record.generation)
    .u64(record.tries)
    .bytes(fromHex(record.package))
    .finish();
}

/** @throws SealError ERR_SEAL_RECORD for bytes that no agent wrote */
export function parseLoginRecord(bytes: Uint8Array, name: string): LoginRecord {
  requireSize("login record", bytes);
  const reader = new ByteReader(bytes, "login record");
  if (toHex(reader.bytes(16, "name")) !== toHex(nameDigest(name))) throw malformed("name", name, "another");
  const outcome = outcomeOf(reader.u8("outcome"));
  if (reader.bytes(3, "reserved").some((byte) => byte !== 0)) throw malformed("reserved bytes", "zero", "others");
  const record = {
    ...{ name, outcome },
    generation: reader.u32("generation"),
    tries: reader.u64("tries"),
    package: toHex(reader.bytes(32, "package")),
  };
  reader.end();
  return record;
}

function outcomeOf(value: number): LoginOutcome {
  const names = Object.keys(LOGIN_OUTCOMES) as LoginOutcome[]; // the keys of a literal
  const found = names.find((name) => LOGIN_OUTCOMES[name] === value);
  if (found === undefined) throw malformed("outcome", "1 to 4", `${value}`);
  return found;
}

function nameDigest(name: string): Uint8Array {
  return sha256(utf8(name)).slice(0, 16);
}

/** What the TPM says about one credential: no index of ours, no record, or the record. */
export type LoginState =
  | { readonly kind: "missing" }
  | { readonly kind: "none" }
  | { readonly kind: "record"; readonly record: LoginRecord };

/** @throws SealError ERR_SEAL_RECORD for a record that no agent wrote */
export function readLogin(tss: Tss, name: string): Promise<LoginState> {
  return withNvIndex(tss, LOGIN_INDEX, async (index): Promise<LoginState> => {
    if (index === null || (await stateOf(tss, index, LOGIN_BYTES)) !== "written") return { kind: "missing" };
    const found = findSlot(await tss.nvRead(index, { size: LOGIN_BYTES }), name);
    return found.bytes === null ? { kind: "none" } : { kind: "record", record: parseLoginRecord(found.bytes, name) };
  });
}

/** One credential's login record, in its place in the TPM: looked up once, written as often as its state changes. */
export interface OpenLogin extends AsyncDisposable {
  /** As it was found. */
  readonly before: LoginRecord | null;
  write(record: Omit<LoginRecord, "name">): Promise<void>;
}

/** @throws SealError ERR_SEAL_RECORD for a record that no agent wrote, or when all eight belong to other names */
export async function openLogin(tss: Tss, name: string): Promise<OpenLogin> {
  const index = await openRecords(tss, { handle: LOGIN_INDEX, size: LOGIN_BYTES });
  try {
    const { offset, bytes } = findSlot(await tss.nvRead(index, { size: LOGIN_BYTES }), name);
    if (offset === null) throw malformed("table", `room for ${name}`, `${RECORDS} other names`);
    return {
      before: bytes === null ? null : parseLoginRecord(bytes, name),
      write: (record) => tss.nvWrite(index, encodeLoginRecord({ ...record, name }), { offset }),
      [Symbol.asyncDispose]: () => index[Symbol.asyncDispose](),
    };
  } catch (error) {
    await index[Symbol.asyncDispose]();
    throw error;
  }
}

/** Writes the record of `record.name` into its slot. @throws SealError ERR_SEAL_RECORD, as `openLogin` */
export async function writeLogin(tss: Tss, record: LoginRecord): Promise<void> {
  await using login = await openLogin(tss, record.name);
  await login.write(record);
}

/** The record of this name, else where there is room for one; null when there is none. */
function findSlot(
  table: Uint8Array,
  name: string,
): { readonly offset: number | null; readonly bytes: Uint8Array | null } {
  const wanted = toHex(nameDigest(name));
  let free: number | null = null;
  for (let offset = 0; offset < LOGIN_BYTES; offset += RECORD_BYTES) {
    const bytes = table.slice(offset, offset + RECORD_BYTES);
    if (toHex(bytes.subarray(0, 16)) === wanted) return { offset, bytes };
    if (free === null && bytes.every((byte) => byte === 0)) free = offset;
  }
  return { offset: free, bytes: null };
}

/** The state volume that belongs to this machine, and how far its audit log has come. */
export interface Anchor {
  /** 16 bytes. */
  readonly volumeId: Uint8Array;
  readonly seq: number;
  /** 64 hexadecimal digits. */
  readonly hash: string;
}

/** 64 bytes. */
export function encodeAnchor({ volumeId, seq, hash }: Anchor): Uint8Array {
  if (volumeId.length !== 16) throw new TypeError(`volume id: ${volumeId.length} bytes, not 16`);
  if (!Number.isSafeInteger(seq) || seq < 0) throw new TypeError(`anchor seq: ${seq}`);
  requireDigest("anchor hash", hash);
  return new ByteWriter().u8(1).bytes(new Uint8Array(7)).bytes(volumeId).u64(BigInt(seq)).bytes(fromHex(hash)).finish();
}

/** Null for an anchor that has not been set. @throws SealError ERR_SEAL_RECORD for bytes that no agent wrote */
export function parseAnchor(bytes: Uint8Array): Anchor | null {
  requireSize("anchor", bytes);
  if (bytes.every((byte) => byte === 0)) return null;
  const reader = new ByteReader(bytes, "anchor");
  if (reader.u8("version") !== 1) throw malformed("anchor version", "1", "another");
  if (reader.bytes(7, "reserved").some((byte) => byte !== 0)) throw malformed("reserved bytes", "zero", "others");
  const volumeId = reader.bytes(16, "volume id");
  const seq = Number(reader.u64("seq"));
  const hash = toHex(reader.bytes(32, "hash"));
  reader.end();
  if (!Number.isSafeInteger(seq)) throw malformed("anchor seq", "a number of records", `${seq}`);
  return { volumeId, seq, hash };
}

export type AnchorState =
  | { readonly kind: "missing" }
  | { readonly kind: "none" }
  | { readonly kind: "anchor"; readonly anchor: Anchor };

/** @throws SealError ERR_SEAL_RECORD for an anchor that no agent wrote */
export function readAnchor(tss: Tss): Promise<AnchorState> {
  return withNvIndex(tss, ANCHOR_INDEX, async (index): Promise<AnchorState> => {
    if (index === null || (await stateOf(tss, index, RECORD_BYTES)) !== "written") return { kind: "missing" };
    const anchor = parseAnchor(await tss.nvRead(index, { size: RECORD_BYTES }));
    return anchor === null ? { kind: "none" } : { kind: "anchor", anchor };
  });
}

/** @throws SealError ERR_SEAL_RECORD when the TPM has no such index */
export async function writeAnchor(tss: Tss, anchor: Anchor | null): Promise<void> {
  const bytes = anchor === null ? new Uint8Array(RECORD_BYTES) : encodeAnchor(anchor);
  await using index = await openRecords(tss, { handle: ANCHOR_INDEX, size: RECORD_BYTES });
  await tss.nvWrite(index, bytes);
}

/**
 * Defines both indices if they are not there, filled with zeros, and the freeze bits. Can be called again after a crash at any step.
 * @throws SealError ERR_SEAL_RECORD when another index is in the place of one
 */
export async function provisionRecords(tss: Tss): Promise<void> {
  const wanted: readonly (readonly [number, number])[] = [
    [LOGIN_INDEX, LOGIN_BYTES],
    [ANCHOR_INDEX, RECORD_BYTES],
  ];
  for (const [handle, dataSize] of wanted) {
    await withNvIndex(tss, handle, async (present) => {
      const state = present === null ? "unwritten" : await stateOf(tss, present, dataSize);
      if (state === "written") return;
      if (state === "foreign") throw foreign(handle);
      await using defined = present ?? (await tss.nvDefineSpace({ index: handle, attributes: ATTRIBUTES, dataSize }));
      await tss.nvWrite(defined, new Uint8Array(dataSize));
    });
  }
  await provisionFreeze(tss);
}

/** Another index is neither read nor written: it may want an authValue, and a wrong one counts for the dictionary-attack lockout. */
async function stateOf(tss: Tss, index: TpmObject, size: number): Promise<"written" | "unwritten" | "foreign"> {
  const { attributes, dataSize, authPolicy } = await tss.nvReadPublic(index);
  if ((attributes & ~NV_WRITTEN) !== ATTRIBUTES || dataSize !== size || authPolicy.length > 0) return "foreign";
  return (attributes & NV_WRITTEN) === 0 ? "unwritten" : "written";
}

/** An index of ours that is provisioned. @throws SealError ERR_SEAL_RECORD when there is none */
async function openRecords(
  tss: Tss,
  { handle, size }: { readonly handle: number; readonly size: number },
): Promise<TpmObject> {
  const index = await openNvIndex(tss, handle);
  const state = index === null ? "missing" : await stateOf(tss, index, size);
  if (index !== null && state === "written") return index;
  await index?.[Symbol.asyncDispose]();
  throw malformed("index", `NV index 0x${handle.toString(16)}`, state);
}

function requireSize(what: string, bytes: Uint8Array): void {
  if (bytes.length !== RECORD_BYTES) throw malformed(`${what} size`, `${RECORD_BYTES} bytes`, `${bytes.length}`);
}

function requireDigest(what: string, digest: string): void {
  if (!/^[0-9a-f]{64}$/.test(digest)) throw new TypeError(`${what}: expected 64 hexadecimal digits`);
}

function foreign(handle: number): SealError {
  return new SealError("ERR_SEAL_RECORD", `NV index 0x${handle.toString(16)}`, {
    expected: "ours, or none",
    got: "another index",
    hint: "undefine it with the owner's authorisation, then provision again",
  });
}

function malformed(what: string, expected: string, got: string): SealError {
  return new SealError("ERR_SEAL_RECORD", `tpm record ${what}`, { expected, got });
}
