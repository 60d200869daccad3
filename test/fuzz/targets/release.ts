import { encodeRelease, parseRelease } from "../../../policy/release.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  expectSame(bytes, encodeRelease(parseRelease(bytes)), "release");
}
