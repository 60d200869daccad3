import { encodeLaunchEvent, parseLaunchEvent } from "../../../attest/launch-events.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  expectSame(bytes, encodeLaunchEvent(parseLaunchEvent(bytes)), "launch event");
}
