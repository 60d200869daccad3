import { encodePcrs, parsePcrs } from "../../../attest/evidence.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  expectSame(bytes, encodePcrs(parsePcrs(bytes)), "pcrs");
}
