/** The one tag that is accepted: UCCS, an unprotected CWT claims set (RFC 9781). */
export const uccsTag = 601;

export interface CborTagged {
  readonly tag: typeof uccsTag;
  readonly value: CborValue;
}
export type CborKey = number | bigint | string;
export type CborMap = ReadonlyMap<CborKey, CborValue>;
/** Integers that JavaScript holds exactly are `number`, the others up to 64 bits `bigint`. */
export type CborValue =
  | number
  | bigint
  | string
  | boolean
  | null
  | Uint8Array
  | readonly CborValue[]
  | CborMap
  | CborTagged;

export interface CborLimits {
  /** Size of the whole input. */
  readonly bytes: number;
  /** Size of one byte or text string. */
  readonly string: number;
  /** Number of data items, keys included. */
  readonly items: number;
  /** Containers and tags inside each other. */
  readonly depth: number;
}

export const defaultCborLimits: CborLimits = {
  bytes: 4 << 20,
  string: 1 << 20,
  items: 100_000,
  depth: 16,
};
