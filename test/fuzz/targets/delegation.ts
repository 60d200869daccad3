import { encodeDelegation, parseDelegation } from "../../../policy/delegation.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  expectSame(bytes, encodeDelegation(parseDelegation(bytes)), "delegation");
}
