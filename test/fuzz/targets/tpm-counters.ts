import { encodeCounters, parseCounters } from "../../../agent/counter-mirror.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  expectSame(bytes, encodeCounters(parseCounters(bytes)), "counters");
}
