import { encodeEscrow, parseEscrow } from "../../../seal/ownership.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  const escrow = parseEscrow(bytes);
  expectSame(bytes, encodeEscrow(escrow), "escrow");
}
