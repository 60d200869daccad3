import { encodeBundle, parseBundle } from "../../../policy/bundle.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  expectSame(bytes, encodeBundle(parseBundle(bytes).map(({ path, bytes: content }) => [path, content])), "bundle");
}
