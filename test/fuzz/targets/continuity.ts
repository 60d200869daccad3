import { encodeContinuity, parseContinuity } from "../../../attest/index.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  expectSame(bytes, encodeContinuity(parseContinuity(bytes)), "continuity");
}
