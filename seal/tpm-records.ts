import type { TpmObject, Tpm as Tss } from "node-tpm2-tss";
import { ByteReader, ByteWriter, fromHex, sha256, toHex, utf8 } from "../policy/index.ts";
import { SealError } from "./errors.ts";
import { withNvIndex } from "./nv-index.ts";

// What a machine keeps in its TPM because a disk can be rolled back: FORMATS.md, section 7.

export const LOGIN_INDEX = 0x0180_0021;
export const ANCHOR_INDEX = 0x0180_0022;
/** AUTHWRITE, AUTHREAD, NO_DA: readable and writable also while the TPM is in lockout. */
const ATTRIBUTES = 0x0204_0004;
const RECORD_BYTES = 64;
const RECORDS = 8;
const WRITTEN = 0x2000_0000;

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

/** What the TPM says about one credential: no index at all, no record, or the record. */
export type LoginState =
  | { readonly kind: "missing" }
  | { readonly kind: "none" }
  | { readonly kind: "record"; readonly record: LoginRecord };

/** @throws SealError ERR_SEAL_RECORD for a record that no agent wrote */
export function readLogin(tss: Tss, name: string): Promise<LoginState> {
  return withNvIndex(tss, LOGIN_INDEX, async (index): Promise<LoginState> => {
    if (index === null || !(await isWritten(tss, index))) return { kind: "missing" };
    const found = findSlot(await tss.nvRead(index), name);
    return found.bytes === null ? { kind: "none" } : { kind: "record", record: parseLoginRecord(found.bytes, name) };
  });
}

/** Writes the record of `record.name` into its slot. @throws SealError ERR_SEAL_RECORD when all eight belong to other names */
export function writeLogin(tss: Tss, record: LoginRecord): Promise<void> {
  return withNvIndex(tss, LOGIN_INDEX, async (index) => {
    if (index === null) throw malformed("index", `NV index 0x${LOGIN_INDEX.toString(16)}`, "none");
    const { offset } = findSlot(await tss.nvRead(index), record.name);
    await tss.nvWrite(index, encodeLoginRecord(record), { offset });
  });
}

function findSlot(table: Uint8Array, name: string): { readonly offset: number; readonly bytes: Uint8Array | null } {
  const wanted = toHex(nameDigest(name));
  let free: number | null = null;
  for (let offset = 0; offset < RECORDS * RECORD_BYTES; offset += RECORD_BYTES) {
    const bytes = table.slice(offset, offset + RECORD_BYTES);
    if (toHex(bytes.subarray(0, 16)) === wanted) return { offset, bytes };
    if (free === null && bytes.every((byte) => byte === 0)) free = offset;
  }
  if (free === null) throw malformed("table", `room for ${name}`, `${RECORDS} other names`);
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
  return new ByteWriter().u8(1).bytes(new Uint8Array(7)).bytes(volumeId).u64(BigInt(seq)).bytes(fromHex(hash)).finish();
}

/** Null for an anchor that has not been set. @throws SealError ERR_SEAL_RECORD for bytes that no agent wrote */
export function parseAnchor(bytes: Uint8Array): Anchor | null {
  if (bytes.length === RECORD_BYTES && bytes.every((byte) => byte === 0)) return null;
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
    if (index === null || !(await isWritten(tss, index))) return { kind: "missing" };
    const anchor = parseAnchor(await tss.nvRead(index));
    return anchor === null ? { kind: "none" } : { kind: "anchor", anchor };
  });
}

/** @throws SealError ERR_SEAL_RECORD when the TPM has no such index */
export function writeAnchor(tss: Tss, anchor: Anchor | null): Promise<void> {
  return withNvIndex(tss, ANCHOR_INDEX, async (index) => {
    if (index === null) throw malformed("index", `NV index 0x${ANCHOR_INDEX.toString(16)}`, "none");
    await tss.nvWrite(index, anchor === null ? new Uint8Array(RECORD_BYTES) : encodeAnchor(anchor));
  });
}

/** Defines both indices if they are not there, filled with zeros. Can be called again after a crash at any step. */
export async function provisionRecords(tss: Tss): Promise<void> {
  const wanted: readonly (readonly [number, number])[] = [
    [LOGIN_INDEX, RECORDS * RECORD_BYTES],
    [ANCHOR_INDEX, RECORD_BYTES],
  ];
  for (const [handle, dataSize] of wanted) {
    await withNvIndex(tss, handle, async (present) => {
      if (present !== null && (await isWritten(tss, present))) return;
      await using defined = present ?? (await tss.nvDefineSpace({ index: handle, attributes: ATTRIBUTES, dataSize }));
      await tss.nvWrite(defined, new Uint8Array(dataSize));
    });
  }
}

async function isWritten(tss: Tss, index: TpmObject): Promise<boolean> {
  return ((await tss.nvReadPublic(index)).attributes & WRITTEN) !== 0;
}

function malformed(what: string, expected: string, got: string): SealError {
  return new SealError("ERR_SEAL_RECORD", `tpm record ${what}`, { expected, got });
}
