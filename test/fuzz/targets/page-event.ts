import { describeEventData } from "../../../attest/page/event-data.ts";
import { expectTrue } from "../property.ts";

const types = [0x4, 0x5, 0xd, 0x80000001, 0x80000002, 0x8000000c, 0x800000e0];

/** The first byte chooses the type of the firmware event, the others are its data. Never throws, and the text is bounded. */
export function run(bytes: Uint8Array): void {
  const type = types[(bytes[0] ?? 0) % types.length] ?? 0;
  const text = describeEventData({ type, data: bytes.subarray(1) });
  expectTrue(text.length > 0 && text.length < 300, "page: a firmware event's description without end");
}
