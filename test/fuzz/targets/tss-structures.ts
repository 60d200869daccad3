import { TpmFormatError } from "../../../seal/node-tpm2-tss/src/errors.ts";
import {
  parseDigestValues,
  parseHandles,
  parseNvPublic,
  parsePcrBanks,
  parsePcrSelection,
  parseProperties,
  parseTimeInfo,
} from "../../../seal/node-tpm2-tss/src/structures.ts";

const parsers = [
  parseHandles,
  parseNvPublic,
  parsePcrSelection,
  parseProperties,
  parseDigestValues,
  parseTimeInfo,
  parsePcrBanks,
];

/** The package has an error of its own. */
export function isTyped(error: unknown): boolean {
  return error instanceof TpmFormatError;
}

/** The first byte says which structure the rest is. */
export function run(bytes: Uint8Array): void {
  const parse = parsers[(bytes[0] ?? 0) % parsers.length] ?? parseHandles;
  parse(bytes.subarray(1));
}
