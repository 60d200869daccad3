import type { Policy } from "../policy/index.ts";
import { ImageError } from "./errors.ts";
import { type Exposure, type HostDevices, hostExposure, readHostConfiguration } from "./host/index.ts";

/**
 * Passes on what the policy lists and nothing else: a whole controller of the host, a device that is not on the list or not so often, and a driver
 * that nobody knows are refused before QEMU starts. The guest's own list is measured too: this only says it earlier, and to the right person.
 * @param args of the whole machine, since its own devices take their places in the list first
 * @returns what the machine exposes besides, for a person to know
 * @throws ImageError ERR_VM_DEVICE
 */
export function requireListedDevices(
  args: readonly string[],
  asked: readonly string[],
  policy: Pick<Policy, "devices">,
  host: HostDevices,
): readonly Exposure[] {
  const machine = readHostConfiguration(["qemu-system-x86_64", ...args, ""].join("\0"));
  const found = hostExposure(machine, policy, host);
  const texts = asked.map((device) => `-device ${device}`.replaceAll(/\s+/g, " "));
  // A long one is told shortened.
  const isAsked = ({ item }: Exposure) =>
    texts.some((text) => item === text || (item.endsWith("...") && text.startsWith(item.slice(0, -3))));
  const refused = found.find((exposure) => exposure.level === "fail" && isAsked(exposure));
  if (refused === undefined) return found;
  const { item, expected, got, hint } = refused;
  throw new ImageError("ERR_VM_DEVICE", `${item.replace(/^-device /, "device ")}: refusing to pass it`, {
    ...{ expected, got, hint },
  });
}
