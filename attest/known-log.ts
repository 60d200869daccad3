import type { PcrBank } from "./banks.ts";
import type { CelRecord } from "./cel.ts";

/**
 * How an agent's log may begin: records that were made or verified here, as bytes. A log that begins with these very bytes has these records,
 * and their digests, which are what the bytes hash to, need not be computed again. It says nothing of whether they are good.
 */
export interface KnownLog {
  /** The records as `encodeCel` writes them, without the head that counts them. */
  readonly bytes: Uint8Array;
  readonly records: readonly CelRecord[];
  /** What the agent PCR holds behind them, in the banks in which it was computed. */
  readonly pcrs: ReadonlyMap<PcrBank, Uint8Array>;
}

/** Bytes of a log of which the first record lies where a known one can be compared four bytes at a time. A copy: what was read stays as it was. */
export function alignedCopy(log: Uint8Array): Uint8Array {
  const head = log[0] === 0x98 ? 2 : log[0] === 0x99 ? 3 : 1;
  const room = new Uint8Array(log.length + 4 - head).subarray(4 - head);
  room.set(log);
  return room;
}

/** The longest of these with which the log begins behind its head; `null`: none of them. */
export function beginningOf(log: Uint8Array, head: number, known: readonly KnownLog[]): KnownLog | null {
  let longest: KnownLog | null = null;
  for (const one of known)
    if (one.bytes.length > (longest?.bytes.length ?? 0) && hasAt(log, head, one.bytes)) longest = one;
  return longest;
}

function hasAt(bytes: Uint8Array, start: number, expected: Uint8Array): boolean {
  if (expected.length > bytes.length - start) return false;
  const from = bytes.byteOffset + start;
  const aligned = from % 4 === 0 && expected.byteOffset % 4 === 0;
  const words = aligned ? expected.length >> 2 : 0;
  return (
    sameElements(
      new Uint32Array(bytes.buffer, aligned ? from : 0, words),
      new Uint32Array(expected.buffer, aligned ? expected.byteOffset : 0, words),
    ) && sameElements(bytes.subarray(start + 4 * words, start + expected.length), expected.subarray(4 * words))
  );
}

function sameElements(a: ArrayLike<number>, b: ArrayLike<number>): boolean {
  for (let index = 0; index < b.length; index++) if (a[index] !== b[index]) return false;
  return true;
}
