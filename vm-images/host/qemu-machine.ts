import { type Board, boardUsb, type HostItem, unknownPart } from "./configuration.ts";
import { isReadOnly } from "./qemu-disks.ts";
import { type Given, keyed, type QemuMachine, type ReadOption } from "./qemu-keys.ts";
import { readNumber, readOption, readSwitch } from "./words.ts";

export function machineOf(given: readonly Given[]): QemuMachine {
  const byId = (name: string, implied: string | null, key: string) =>
    given
      .filter((each) => each.name === name)
      .map(({ value }) => readOption(value, implied))
      .map((keys) => [keys.get(key) ?? "", keys] as const);
  return {
    board: Q35.test(lastOf(given, "type") ?? "") ? "q35" : "pc",
    drives: new Map([...byId("blockdev", "driver", "node-name"), ...byId("drive", null, "id")]),
    tpms: new Map(byId("tpmdev", "type", "id")),
  };
}

const Q35 = /^(?:pc-)?q35(?:-|$)/;
const PC = /^pc(?:-i440fx-.*)?$/;
const ACCELERATORS = /^(?:kvm|tcg)(?::(?:kvm|tcg))*$/;

/** Of several `-machine`, QEMU takes the last one that has a key. */
function lastOf(given: readonly Given[], key: string): string | undefined {
  const options = given.filter(({ name }) => name === "machine").map(({ value }) => readOption(value, "type"));
  return options.findLast((keys) => keys.has(key))?.get(key);
}

export const readMachine: ReadOption = keyed(
  "type",
  "type accel usb smm mem-merge dump-guest-core vmport pflash0 pflash1 hpet acpi graphics memory-backend kernel-irqchip kernel initrd append dtb firmware suppress-vmdesc pit pic i8042 sata smbus hmat max-ram-below-4g fd-bootchk smbios-entry-point-type default-bus-bypass-iommu",
  (keys, what, { board, drives }) => {
    const type = keys.get("type") ?? "";
    const code = keys.get("pflash0");
    const readOnly = isReadOnly(drives.get(code ?? ""));
    const direct = ["kernel", "initrd", "append", "dtb", "firmware"].some((key) => keys.has(key));
    return [
      ...(type === "" || Q35.test(type) || PC.test(type) ? [] : [unknownPart(what, type)]),
      ...(ACCELERATORS.test(keys.get("accel") ?? "kvm") ? [] : [unknownPart(what, "accel")]),
      ...(code === undefined
        ? []
        : [{ kind: "uefi", what } as const, { kind: "disk", what, role: "firmware", readOnly } as const]),
      ...(direct ? [{ kind: "firmware", what } as const] : []),
      ...(readSwitch(keys.get("usb") ?? "off") === false ? [] : boardUsb(board, what)),
    ];
  },
);

export const readAccelerator: ReadOption = keyed(
  "accel",
  "accel thread tb-size split-wx one-insn-per-tb kernel-irqchip dirty-ring-size kvm-shadow-mem notify-vmexit notify-window eager-split-size",
  (keys, what) => (/^(?:kvm|tcg)$/.test(keys.get("accel") ?? "") ? [] : [unknownPart(what, "accelerator")]),
);

interface Global {
  readonly driver: string;
  readonly property: string;
  readonly value: string;
}

const CHIPS: Readonly<Record<Board, string>> = { q35: "ICH9-LPC", pc: "PIIX4_PM" };
const GLOBALS: ReadonlySet<string> = new Set([
  ...Object.values(CHIPS).flatMap((chip) => ["disable_s3", "disable_s4", "noreboot"].map((name) => `${chip}.${name}`)),
  "kvm-pit.lost_tick_policy",
  "cfi.pflash01.secure",
]);

/** `driver.property=value`, where a driver has no dot, or keys. */
function globalOf(text: string): Global {
  const [, driver, property, value] = /^([^.=]+)\.([^=]+)=(.*)$/s.exec(text) ?? [];
  if (driver !== undefined && property !== undefined && value !== undefined) return { driver, property, value };
  const keys = readOption(text, null);
  const [first = "", second = "", third = ""] = ["driver", "property", "value"].map((key) => keys.get(key));
  return { driver: first, property: second, value: third };
}

export const readGlobal: ReadOption = (value, what) => {
  const { driver, property } = globalOf(value);
  return GLOBALS.has(`${driver}.${property}`) ? [] : [{ kind: "unknown", what }];
};

/**
 * What a machine does of itself: sleep, and have its pages merged with others'. Of several words the last one counts.
 * @param whole false for arguments added to a machine that another text describes: what they do not say, that text does
 */
export function settingsOf(given: readonly Given[], whole: boolean): readonly HostItem[] {
  const globals = given.filter(({ name }) => name === "global").map(({ value }) => globalOf(value));
  const said = (driver: string, property: string) =>
    globals.findLast((each) => each.driver === driver && each.property === property)?.value;
  const chips = whole ? [CHIPS[machineOf(given).board]] : Object.values(CHIPS);
  const suspend = chips.flatMap((chip) =>
    ["disable_s3", "disable_s4"]
      .filter((name) => readNumber(said(chip, name) ?? (whole ? "0" : "1")) !== 1)
      .map((name): HostItem => ({ kind: "suspend", what: `no -global ${chip}.${name}=1` })),
  );
  const merges = readSwitch(lastOf(given, "mem-merge") ?? (whole ? "on" : "off")) !== false;
  return [...suspend, ...(merges ? [{ kind: "memory-merge", what: "-machine without mem-merge=off" } as const] : [])];
}
