import type { Policy } from "../../policy/index.ts";
import type { HostItem, HostMachine, PlainKind } from "./configuration.ts";
import { EXPOSURE_WORDS, type Exposure, type ExposureId } from "./exposure-words.ts";
import { readLibvirtText } from "./libvirt.ts";
import { readQemuText } from "./qemu.ts";

/** A device of the host, as its kernel names it. */
export interface HostDevice {
  /** `vvvv:dddd`; on USB `usb:vvvv:pppp`. As in a policy. */
  readonly id: string;
  /** More devices can appear below it: a controller, a bridge, a hub. */
  readonly isBus: boolean;
}

/** Looks up what is at a place of the host that the configuration is from; null where nobody knows. */
export interface HostDevices {
  pci(address: string): HostDevice | null;
  usb(bus: number, device: number): HostDevice | null;
}

/** For a configuration of another host. */
export const unknownDevices: HostDevices = { pci: () => null, usb: () => null };

/**
 * How a host starts a machine, from a libvirt domain or a QEMU command line (README.md). Pure.
 * @throws ImageError ERR_HOST_MALFORMED
 */
export function readHostConfiguration(text: string): HostMachine {
  return /^[\uFEFF\s]*</.test(text) ? readLibvirtText(text) : readQemuText(text);
}

/** Whether some device of the host is named by its place, so that it depends on {@link HostDevices} what it is. */
export function namesPlaces({ items }: HostMachine): boolean {
  return items.some((item) => item.kind === "pci" || (item.kind === "usb" && item.id === null && item.place !== null));
}

/** Everything that this machine gives beyond the policy, in the order of the text. Empty: nothing. Says nothing about what is missing but TPM and firmware. */
export function hostExposure(
  machine: HostMachine,
  policy: Pick<Policy, "devices">,
  devices: HostDevices = unknownDevices,
): readonly Exposure[] {
  const places = new Places(policy.devices);
  const found = machine.items.flatMap((item) => judge(item, places, devices));
  return [...found, ...missingOf(machine)];
}

/** The policy's device list as places to be taken: two devices of one kind need two lines. */
class Places {
  readonly #left: string[];

  constructor(devices: readonly string[]) {
    this.#left = [...devices];
  }

  take(ids: readonly string[]): boolean {
    const at = this.#left.findIndex((id) => ids.includes(id));
    if (at >= 0) this.#left.splice(at, 1);
    return at >= 0;
  }
}

function judge(item: HostItem, places: Places, devices: HostDevices): readonly Exposure[] {
  switch (item.kind) {
    case "uefi":
      return [];
    case "pci":
      return passed(item, devices.pci(item.address), places);
    case "usb":
      return judgeUsb(item, places, devices);
    case "emulated":
      return places.take(item.ids) ? [] : [unlisted("emulated", item.what, item.ids)];
    case "network":
      return [judgeNetwork(item, places)];
    case "disk":
      return judgeDisk(item);
    case "snapshot":
      return [
        {
          ...of("snapshot", item.what, item.certain ? "fail" : "warn"),
          got: item.certain ? "one that is put back" : "a format that can hold snapshots",
        },
      ];
    case "display":
      return [
        {
          ...of("display", item.what, item.onNetwork ? "fail" : "warn"),
          got: item.onNetwork ? "one on the network" : "one on this host",
        },
      ];
    case "port":
      return judgePort(item);
    case "tpm":
      return item.version === "2.0" ? [] : [of("tpm", item.what, "fail")];
    default:
      return [judgePlain(item.kind, item)];
  }
}

function judgePlain(kind: PlainKind, { what, got }: { readonly what: string; readonly got?: string }): Exposure {
  const exposure = of(kind, what, LEVELS[kind] ?? "fail");
  return got === undefined ? exposure : { ...exposure, got };
}

const LEVELS: Readonly<Partial<Record<PlainKind, "warn">>> = {
  "debug-port": "warn",
  injected: "warn",
  "memory-merge": "warn",
  hugepages: "warn",
};

function passed(item: { readonly what: string }, device: HostDevice | null, places: Places): readonly Exposure[] {
  if (device === null)
    return [{ ...of("device", item.what, "fail"), got: "a place of the host, where nobody looked what is there" }];
  if (device.isBus)
    return [{ ...of("controller", item.what, "fail"), got: `${device.id}, with whatever is plugged in below it` }];
  return places.take([device.id]) ? [] : [unlisted("device", item.what, [device.id])];
}

function judgeUsb(item: Extract<HostItem, { kind: "usb" }>, places: Places, devices: HostDevices): readonly Exposure[] {
  if (item.id !== null) return passed(item, { id: `usb:${item.id}`, isBus: false }, places);
  if (item.place !== null) return passed(item, devices.usb(item.place.bus, item.place.device), places);
  return [{ ...of("controller", item.what, "fail"), got: "whatever device of the host matches" }];
}

function judgeNetwork(item: Extract<HostItem, { kind: "network" }>, places: Places): Exposure {
  const listed = places.take(item.ids);
  return { ...of("network", item.what, listed ? "warn" : "fail"), got: listed ? "one that the policy lists" : "one" };
}

const WRITABLE: ReadonlySet<string> = new Set(["state", "store"]);

function judgeDisk({ what, role, readOnly }: Extract<HostItem, { kind: "disk" }>): readonly Exposure[] {
  if (role === "foreign") return [{ ...of("disk", what, "fail"), got: "one that no image of this project knows" }];
  if (readOnly || WRITABLE.has(role)) return [];
  return [{ ...of("disk", what, "fail"), expected: `the ${role} disk read-only`, got: "writable" }];
}

const PORTS = /^(?:ironclaw\.(?:control|report)|workload\.\d{1,6})$/;

function judgePort({ what, name }: Extract<HostItem, { kind: "port" }>): readonly Exposure[] {
  if (PORTS.test(name)) return [];
  if (name === "ironclaw.shell") return [{ ...of("port", what, "fail"), got: "a root shell of dev images" }];
  return [{ ...of("port", what, "warn"), got: name === "" ? "one without a name" : name.slice(0, 40) }];
}

function missingOf({ items }: HostMachine): readonly Exposure[] {
  const has = (kind: HostItem["kind"]) => items.some((item) => item.kind === kind);
  return [
    ...(has("tpm") ? [] : [of("tpm", "TPM", "fail")]),
    ...(has("uefi") ? [] : [of("firmware", "firmware", "fail")]),
  ];
}

function unlisted(id: "emulated" | "device", what: string, ids: readonly string[]): Exposure {
  return { ...of(id, what, "fail"), got: ids.join(" or ") };
}

function of(id: ExposureId, item: string, level: Exposure["level"]): Exposure {
  return { id, level, item: item.replaceAll(/\s+/g, " "), ...EXPOSURE_WORDS[id] };
}
