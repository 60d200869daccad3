import { ImageError } from "../errors.ts";
import type { HostItem, HostMachine } from "./configuration.ts";
import { strangeAttributes } from "./libvirt-attributes.ts";
import { readDeviceElement } from "./libvirt-devices.ts";
import { NEUTRAL, strangersIn } from "./libvirt-parts.ts";
import { readQemuDevices } from "./qemu.ts";
import { attribute, child, parseXml, type XmlElement } from "./xml.ts";

/** A libvirt domain. @throws ImageError ERR_HOST_MALFORMED for XML outside of the subset, or another document */
export function readLibvirtText(text: string): HostMachine {
  const domain = parseXml(text);
  if (domain.name !== "domain")
    throw new ImageError("ERR_HOST_MALFORMED", "domain XML", { expected: "a domain", got: domain.name.slice(0, 40) });
  const parts = [...strangeAttributes(domain, "", "<domain>"), ...domain.children.flatMap(partOf)];
  return { source: "libvirt", items: [...parts, ...repeatsOf(domain), ...suspendOf(domain), ...mergeOf(domain)] };
}

/** Parts that stand twice, of which libvirt may take one and this reader the other. */
function repeatsOf({ children }: XmlElement): readonly HostItem[] {
  const names = children.map(({ name }) => name);
  const again = names.filter((name, at) => names.indexOf(name) < at);
  return again.map((name): HostItem => ({ kind: "unknown", what: `a second <${name}>` }));
}

function partOf(element: XmlElement): readonly HostItem[] {
  const what = `<${element.name}>`;
  switch (element.name) {
    case "devices":
      return [...strangeAttributes(element, "domain", what), ...element.children.flatMap(readDeviceElement)];
    case "qemu:commandline":
      return argumentsOf(element);
    default:
      return [...ownItems(element, what), ...strangersIn(element, "domain", what)];
  }
}

function ownItems(element: XmlElement, what: string): readonly HostItem[] {
  switch (element.name) {
    case "os":
      return firmwareOf(element);
    case "memoryBacking":
      return memoryOf(element);
    case "cpu":
      return cellsOf(element);
    case "sysinfo":
      return [{ kind: "injected", what }];
    case "pm":
      return []; // read with what is not there
    default:
      return NEUTRAL.has(element.name) ? [] : [{ kind: "unknown", what }];
  }
}

function suspendOf(domain: XmlElement): readonly HostItem[] {
  const pm = child(domain, "pm");
  return ["suspend-to-mem", "suspend-to-disk"]
    .filter((name) => attribute(child(pm, name), "enabled") !== "no")
    .map((name): HostItem => ({ kind: "suspend", what: `no <${name} enabled="no"/>` }));
}

function mergeOf(domain: XmlElement): readonly HostItem[] {
  const kept = child(child(domain, "memoryBacking"), "nosharepages") !== undefined;
  return kept ? [] : [{ kind: "memory-merge", what: "<memoryBacking> without <nosharepages/>" }];
}

function memoryOf(element: XmlElement): readonly HostItem[] {
  const mode = attribute(child(element, "access"), "mode");
  const source = attribute(child(element, "source"), "type") ?? "anonymous";
  const inFiles = child(element, "hugepages") !== undefined || source === "file";
  // QEMU shares what memfd gives it unless it is told not to.
  const shared = mode === undefined ? source === "memfd" : mode !== "private";
  return [
    ...(inFiles ? [{ kind: "hugepages", what: "<memoryBacking>" } as const] : []),
    ...(shared ? [{ kind: "shared-memory", what: "<memoryBacking>" } as const] : []),
  ];
}

/** Nodes of memory have an access of their own. */
function cellsOf(element: XmlElement): readonly HostItem[] {
  const cells = child(element, "numa")?.children ?? [];
  return cells
    .map((cell) => attribute(cell, "memAccess"))
    .filter((access) => access !== undefined && access !== "private")
    .map((access): HostItem => ({ kind: "shared-memory", what: `<cell memAccess="${access}">` }));
}

function firmwareOf(element: XmlElement): readonly HostItem[] {
  const loader = child(element, "loader");
  const flash = attribute(loader, "type") === "pflash";
  const chosen = attribute(element, "firmware") === "efi";
  const direct = element.children.filter(({ name }) =>
    ["kernel", "initrd", "cmdline", "dtb", "acpi", "shim"].includes(name),
  );
  return [
    ...(flash || chosen ? [{ kind: "uefi", what: "<os>" } as const] : []),
    // libvirt itself maps the firmware that it chooses read-only.
    ...(flash
      ? [
          {
            kind: "disk",
            what: "<loader>",
            role: "firmware",
            readOnly: attribute(loader, "readonly") === "yes",
          } as const,
        ]
      : []),
    ...direct.map(({ name }): HostItem => ({ kind: "firmware", what: `<${name}>` })),
    ...(["file", "block"].includes(attribute(child(element, "nvram"), "type") ?? "file")
      ? []
      : [{ kind: "unknown", what: "<nvram>" } as const]),
    ...(child(element, "smbios") === undefined ? [] : [{ kind: "injected", what: "<smbios>" } as const]),
  ];
}

function argumentsOf(element: XmlElement): readonly HostItem[] {
  const what = "<qemu:commandline>";
  const words = element.children.filter(({ name }) => name === "qemu:arg");
  const args = words.map((arg) => attribute(arg, "value") ?? "");
  const environment = element.children.filter(({ name }) => name !== "qemu:arg");
  return [
    ...[element, ...words].flatMap((each) => strangeAttributes(each, "domain", what)),
    ...readQemuDevices(args),
    ...environment.map(({ name }): HostItem => ({ kind: "unknown", what: `<${name}>` })),
  ];
}
