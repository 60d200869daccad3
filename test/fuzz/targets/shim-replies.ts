import {
  parseFilters,
  parseHandle,
  parseKeys,
  parseLoaded,
  parseNothing,
  parsePlaintext,
  parseProbe,
  parseReady,
  parseSignature,
  parseStatus,
} from "../../../agent/shim-replies.ts";

const parsers = [
  parseReady,
  parseProbe,
  parseLoaded,
  parseKeys,
  parseFilters,
  parseStatus,
  parseSignature,
  parseNothing,
  parsePlaintext,
  parseHandle,
];

/** The first byte says which reply the rest is. */
export function run(bytes: Uint8Array): void {
  const parse = parsers[(bytes[0] ?? 0) % parsers.length] ?? parseReady;
  parse(bytes.subarray(1));
}
