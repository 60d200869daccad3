import { ByteReader, ByteWriter, concatBytes, equalBytes, sha256, utf8 } from "../policy/index.ts";
import { LOST_RECORD_OFFSET, type StoreMedium } from "./store.ts";

// FORMATS.md, section 9. The spawner writes it (agent/spawner/lost_record.c), the next boot's agent takes it away.

const MAGIC = utf8("IRONLOST");
const VERSION = 1;
/** Bytes. */
export const LOST_RECORD_BYTES = 128;
const CHECKED = LOST_RECORD_BYTES - 32;
const MAX_REASON = 64;
/** The spawner's exit codes (SPAWNER.md). */
const CAUSES = { 10: "lost", 11: "breach" } as const;
const PRINTABLE = /^[ -~]*$/;

/** An agent that ended, or that the spawner ended, without having asked for it. */
export interface LostRecord {
  /** `lost`: it ended or closed its socket. `breach`: it broke the spawner's protocol. */
  readonly cause: (typeof CAUSES)[keyof typeof CAUSES];
  /** The spawner's words: at most 64 printable ASCII characters. */
  readonly reason: string;
}

/** Null for bytes that no spawner wrote: zeros, a write that the power cut short, anything else. */
export function parseLostRecord(bytes: Uint8Array): LostRecord | null {
  try {
    const reader = new ByteReader(bytes, "lost record");
    if (!equalBytes(reader.bytes(MAGIC.length, "magic"), MAGIC) || reader.u32("version") !== VERSION) return null;
    const code = reader.u32("code");
    const reason = new TextDecoder("latin1").decode(reader.sized16("reason", MAX_REASON));
    const unused = reader.bytes(reader.remaining - 32, "unused");
    const digest = reader.bytes(32, "sha256");
    if (bytes.length !== LOST_RECORD_BYTES || !isCause(code) || !PRINTABLE.test(reason)) return null;
    if (unused.some((byte) => byte !== 0) || !equalBytes(digest, sha256(bytes.subarray(0, CHECKED)))) return null;
    return { cause: CAUSES[code], reason };
  } catch {
    return null; // a length over its cap
  }
}

/** As the spawner writes it: for tests, which have no spawner at hand. */
export function encodeLostRecord({ cause, reason }: LostRecord): Uint8Array {
  const code = cause === "lost" ? 10 : 11;
  const head = new ByteWriter().bytes(MAGIC).u32(VERSION).u32(code).sized16(utf8(reason)).finish();
  const checked = concatBytes(head, new Uint8Array(CHECKED - head.length));
  return concatBytes(checked, sha256(checked));
}

/** @throws what the medium throws */
export function readLostRecord(medium: StoreMedium): LostRecord | null {
  return parseLostRecord(medium.read(LOST_RECORD_OFFSET, LOST_RECORD_BYTES));
}

/** @throws what the medium throws; the record is then still there, or not */
export function clearLostRecord(medium: StoreMedium): void {
  medium.write(LOST_RECORD_OFFSET, new Uint8Array(LOST_RECORD_BYTES));
  medium.flush();
}

function isCause(code: number): code is keyof typeof CAUSES {
  return code in CAUSES;
}
