import { formatDevices, parseDevices } from "../../../attest/devices.ts";
import { utf8 } from "../../../policy/bytes.ts";
import { expectSame } from "../property.ts";

export function run(bytes: Uint8Array): void {
  const text = new TextDecoder().decode(bytes);
  expectSame(utf8(text), utf8(formatDevices(parseDevices(text))), "devices");
}
