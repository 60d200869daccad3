import { EXPOSURE_WORDS } from "../../../vm-images/host/exposure-words.ts";
import { hostExposure, readHostConfiguration } from "../../../vm-images/host/index.ts";
import { vmPciDevices } from "../../../vm-images/qemu-args.ts";
import { expectTrue } from "../property.ts";

/** Whatever is read is judged, and a policy that lists nothing has no finding less. */
export function run(bytes: Uint8Array): void {
  const machine = readHostConfiguration(new TextDecoder().decode(bytes));
  const listed = hostExposure(machine, { devices: vmPciDevices });
  const none = hostExposure(machine, { devices: [] });
  expectTrue(none.length >= listed.length, "host-configuration: a longer list exposes more");
  for (const { id, hint } of none)
    expectTrue(hint === EXPOSURE_WORDS[id].hint, "host-configuration: a finding without words");
}
