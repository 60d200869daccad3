import { concatBytes, utf8 } from "../../policy/index.ts";
import {
  digestIn,
  type LogEntry,
  localityEntry,
  noActionType,
  type PlatformLog,
  separatorType,
  u32le,
  u64le,
} from "./firmware-log-writer.ts";

/** TCG event types, by the names of the PC Client Platform Firmware Profile. */
const type = {
  postCode: 0x1,
  action: 0x5,
  eventTag: 0x6,
  crtmContents: 0x7,
  crtmVersion: 0x8,
  cpuMicrocode: 0x9,
  tableOfDevices: 0xb,
  compactHash: 0xc,
  ipl: 0xd,
  iplPartitionData: 0xe,
  nonhostInfo: 0x11,
  omitBootDeviceEvents: 0x12,
  variableDriverConfig: 0x80000001,
  variableBoot: 0x80000002,
  bootServicesApplication: 0x80000003,
  bootServicesDriver: 0x80000004,
  gptEvent: 0x80000006,
  efiAction: 0x80000007,
  platformFirmwareBlob: 0x80000008,
  handoffTables: 0x80000009,
  platformFirmwareBlob2: 0x8000000a,
  hcrtm: 0x80000010,
  variableAuthority: 0x800000e0,
  /** Types that no table here lists: Intel TXT's PCR mapping, and one from the range that vendors take. */
  txtPcrMapping: 0x401,
  vendor: 0x8000f001,
} as const;

/** ASCII as UTF-16LE. */
const wide = (text: string) => concatBytes(...Array.from(text, (character) => utf8(`${character}\0`)));

/** UEFI_VARIABLE_DATA. */
function variable(name: string, data: Uint8Array): Uint8Array {
  const guid = new Uint8Array(16).fill(0x8b);
  return concatBytes(guid, u64le(name.length), u64le(data.length), wide(name), data);
}

/** UEFI_IMAGE_LOAD_EVENT with a file path node; the image itself is what is measured. */
function image(path: string): Pick<LogEntry, "data" | "measured"> {
  const node = concatBytes(Uint8Array.of(4, 4, 4 + 2 * (path.length + 1), 0), wide(`${path}\0`));
  const devicePath = concatBytes(node, Uint8Array.of(0x7f, 0xff, 4, 0));
  const head = concatBytes(u64le(0x7d000000), u64le(0x10000), u64le(0), u64le(devicePath.length));
  return { data: concatBytes(head, devicePath), measured: utf8(`image ${path}`) };
}

/** UEFI_PLATFORM_FIRMWARE_BLOB. */
function volume(base: number): Pick<LogEntry, "data" | "measured"> {
  return { data: concatBytes(u64le(base), u64le(0x1c0000)), measured: utf8(`volume ${base}`) };
}

const entry = (pcr: number, eventType: number, data: string | Uint8Array, measured?: Uint8Array): LogEntry => {
  const bytes = typeof data === "string" ? utf8(data) : data;
  return { pcr, type: eventType, data: bytes, ...(measured === undefined ? {} : { measured }) };
};

const separators = (data = new Uint8Array(4), pcrs = [0, 1, 2, 3, 4, 5, 6, 7]) =>
  pcrs.map((pcr) => entry(pcr, separatorType, data));

function secureBootVariables(dbxBytes: number): LogEntry[] {
  const contents: readonly (readonly [string, Uint8Array])[] = [
    ["SecureBoot", Uint8Array.of(1)],
    ["PK", new Uint8Array(1000).fill(1)],
    ["KEK", new Uint8Array(2500).fill(2)],
    ["db", new Uint8Array(4000).fill(3)],
    ["dbx", new Uint8Array(dbxBytes).fill(4)],
  ];
  return contents.map(([name, data]) => entry(7, type.variableDriverConfig, variable(name, data)));
}

/** What the kernel's EFI stub causes after the boot loader asked for the log: Linux appends it from the final events table. */
export const finalEvents: readonly LogEntry[] = [
  entry(5, type.efiAction, "Exit Boot Services Invocation"),
  entry(5, type.efiAction, "Exit Boot Services Returned with Success"),
];

const grubStages: readonly LogEntry[] = [
  entry(4, type.efiAction, "Calling EFI Application from Boot Option"),
  entry(5, type.gptEvent, new Uint8Array(92 + 8 + 4 * 128).fill(5)),
  entry(7, type.variableAuthority, variable("db", new Uint8Array(1500).fill(6))),
  { pcr: 4, type: type.bootServicesApplication, ...image("\\EFI\\debian\\shimx64.efi") },
  entry(14, type.ipl, "MokList\0"),
  entry(14, type.ipl, "MokListX\0"),
  entry(7, type.variableAuthority, variable("SbatLevel", utf8("sbat,1,2023012900\nshim,2\n"))),
  { pcr: 4, type: type.bootServicesApplication, ...image("\\EFI\\debian\\grubx64.efi") },
  entry(8, type.ipl, "grub_cmd: linux /vmlinuz root=/dev/sda2\0", utf8("linux /vmlinuz root=/dev/sda2")),
  entry(9, type.ipl, "(hd0,gpt2)/vmlinuz\0", utf8("kernel image")),
  entry(8, type.ipl, "kernel_cmdline: /vmlinuz root=/dev/sda2\0", utf8("/vmlinuz root=/dev/sda2")),
  entry(9, type.ipl, "(hd0,gpt2)/initrd.img\0", utf8("initrd")),
  entry(9, type.eventTag, "Linux initrd", utf8("initrd")),
];

/** OVMF, Secure Boot, shim and GRUB, as a virtual machine of a distribution boots; TPM with three banks. */
export const grubOnOvmf: PlatformLog = {
  banks: ["sha1", "sha256", "sha384"],
  entries: [
    entry(0, type.crtmVersion, new Uint8Array(2)),
    { pcr: 0, type: type.platformFirmwareBlob, ...volume(0x820000) },
    ...secureBootVariables(76),
    ...separators(undefined, [7]),
    entry(1, type.variableBoot, variable("BootOrder", Uint8Array.of(0, 0, 1, 0))),
    entry(1, type.handoffTables, new Uint8Array(24), utf8("SMBIOS")),
    ...separators(undefined, [0, 1, 2, 3, 4, 5, 6]),
    ...grubStages,
    ...finalEvents,
  ],
};

/** A vendor's notebook: five banks, more than 100 KiB, vendor bytes in the header, locality 3, types that no table lists. */
export const vendorNotebook: PlatformLog = {
  banks: ["sha1", "sha256", "sha384", "sha512", "sm3"],
  vendorInfo: new Uint8Array(255).fill(0x5a),
  entries: [
    localityEntry(3),
    entry(0xffffffff, noActionType, "vendor's own note"),
    entry(0, type.crtmVersion, wide("N3AET82W (1.47 )\0")),
    { pcr: 0, type: type.platformFirmwareBlob2, ...volume(0xff000000) },
    entry(0, type.vendor, "Boot Guard measured S-CRTM", utf8("acm policy status")),
    entry(0, type.postCode, "ACPI DATA", utf8("acpi tables")),
    entry(1, type.cpuMicrocode, "CPU Microcode", utf8("microcode")),
    entry(1, type.tableOfDevices, new Uint8Array(600).fill(7)),
    { pcr: 2, type: type.bootServicesDriver, ...image("PciRoot(0x0)/Pci(0x2,0x0)/OptionRom") },
    ...secureBootVariables(96 * 1024),
    entry(7, type.efiAction, "DMA Protection Disabled"),
    ...separators(),
    entry(17, type.txtPcrMapping, Uint8Array.of(1), new Uint8Array(32)),
    ...grubStages,
    ...finalEvents,
  ],
};

/** A cloud's shielded machine: launched with H-CRTM at locality 4, its non-host information in PCR 0. */
const shieldedCloud: PlatformLog = {
  banks: ["sha1", "sha256", "sha384"],
  entries: [
    localityEntry(4),
    entry(0, type.hcrtm, "HCRTM", utf8("firmware volume")),
    entry(0, type.crtmVersion, wide("GCE Virtual Firmware v2\0")),
    entry(0, type.nonhostInfo, concatBytes(utf8("GCE NonHostInfo\0"), new Uint8Array(16))),
    ...secureBootVariables(24_000),
    ...separators(),
    ...grubStages,
    ...finalEvents,
  ],
};

/** SeaBIOS, as it did before it hashed in other banks: the SHA-1 digest, filled with zeros to each bank's size. */
export const seaBios: PlatformLog = {
  banks: ["sha1", "sha256", "sha384"],
  digest: (bank, measured) => {
    const padded = new Uint8Array(digestIn(bank, new Uint8Array()).length);
    padded.set(digestIn("sha1", measured));
    return padded;
  },
  entries: [
    entry(0, type.crtmVersion, "rel-1.16.2-debian-1.16.2-1"),
    entry(1, type.eventTag, concatBytes(u32le(1), u32le(0)), utf8("smbios")),
    entry(2, type.eventTag, concatBytes(u32le(7), u32le(20), new Uint8Array(20)), utf8("option rom")),
    entry(4, type.action, "Calling INT 19h"),
    ...separators(new Uint8Array(4).fill(0xff)),
    entry(4, type.action, "Booting BCV device 00h (Floppy)"),
    entry(4, type.ipl, "MBR", new Uint8Array(446).fill(0xeb)),
    entry(5, type.iplPartitionData, "MBR PARTITION", new Uint8Array(64)),
    entry(8, type.compactHash, "grub_cmd: boot\0"),
  ],
};

/** systemd-boot and its stub: command line and sections in PCR 11 and 12 as UTF-16 text. */
export const systemdBoot: PlatformLog = {
  banks: ["sha256"],
  entries: [
    localityEntry(0),
    entry(0, type.crtmVersion, wide("edk2-20240524-1\0")),
    { pcr: 0, type: type.platformFirmwareBlob, ...volume(0x900000) },
    ...secureBootVariables(0),
    entry(4, type.omitBootDeviceEvents, "BOOT ATTEMPTS OMITTED"),
    ...separators(),
    entry(4, type.efiAction, "Calling EFI Application from Boot Option"),
    { pcr: 4, type: type.bootServicesApplication, ...image("\\EFI\\systemd\\systemd-bootx64.efi") },
    entry(5, type.eventTag, concatBytes(u32le(0xf5bc582a), wide("loader.conf\0")), utf8("timeout 3\n")),
    { pcr: 4, type: type.bootServicesApplication, ...image("\\EFI\\Linux\\linux.efi") },
    entry(11, type.ipl, wide(".linux\0"), utf8(".linux\0")),
    entry(11, type.ipl, wide(".linux\0"), utf8("kernel image")),
    entry(12, type.ipl, wide("quiet\0")),
    entry(9, type.eventTag, concatBytes(u32le(0x8f3b22ed), utf8("LOADED_IMAGE::LoadOptions")), wide("quiet\0")),
    ...finalEvents,
  ],
};

export const platforms: readonly (readonly [string, PlatformLog])[] = [
  ["OVMF with shim and GRUB", grubOnOvmf],
  ["a notebook with five banks and a vendor's own event types", vendorNotebook],
  ["a cloud's shielded machine with an H-CRTM", shieldedCloud],
  ["SeaBIOS", seaBios],
  ["systemd-boot", systemdBoot],
];
