import { boardUsb, deviceMade, type HostItem, type HostMachine, type PlainKind, unknownPart } from "./configuration.ts";
import { readDevice } from "./qemu-devices.ts";
import { readBlockdev, readDrive } from "./qemu-disks.ts";
import { type Given, keyed, type QemuMachine, type ReadOption } from "./qemu-keys.ts";
import { machineOf, readAccelerator, readGlobal, readMachine, settingsOf } from "./qemu-machine.ts";
import { readObject } from "./qemu-objects.ts";
import { readChardev, readOutlet } from "./qemu-outlets.ts";
import { qemuWords, readOption, readSwitch } from "./words.ts";

/** Options that give a guest nothing; those of the second list have a value that gives nothing either, whatever it is. */
const NEUTRAL_SWITCHES =
  "S nodefaults no-user-config no-reboot no-shutdown enable-kvm daemonize nographic no-hpet mem-prealloc only-migratable no-fd-bootchk no-acpi";
const NEUTRAL = "cpu name uuid pidfile D k runas chroot watchdog-action seed tb-size numa add-fd audiodev compat";
const neutralSwitches: ReadonlySet<string> = new Set(NEUTRAL_SWITCHES.split(" "));
const neutral: ReadonlySet<string> = new Set(NEUTRAL.split(" "));

/** Options whose presence says it all. */
const PLAIN_SWITCHES: ReadonlyMap<string, PlainKind> = new Map([["s", "debugger"]]);
const PLAIN: ReadonlyMap<string, PlainKind> = new Map<string, PlainKind>([
  ["virtfs", "shared-folder"],
  ["fsdev", "shared-folder"],
  ["gdb", "debugger"],
  ["debugcon", "debug-port"],
  ["kernel", "firmware"],
  ["initrd", "firmware"],
  ["append", "firmware"],
  ["dtb", "firmware"],
  ["bios", "firmware"],
  ["fw_cfg", "injected"],
  ["smbios", "injected"],
  ["acpitable", "injected"],
  ["option-rom", "injected"],
  ["mem-path", "hugepages"],
]);
const SWITCHES: ReadonlySet<string> = new Set([...neutralSwitches, ...PLAIN_SWITCHES.keys(), "snapshot", "usb"]);
const SNAPSHOT_OPTIONS: ReadonlySet<string> = new Set(["loadvm", "incoming", "snapshot"]);

/** @throws ImageError ERR_HOST_MALFORMED */
export function readQemuText(text: string): HostMachine {
  return { source: "qemu", items: readQemuWords(qemuWords(text)) };
}

/** What these arguments add to a machine that others describe: a libvirt domain's `qemu:commandline`. */
export function readQemuDevices(words: readonly string[]): readonly HostItem[] {
  const given = splitOptions(words);
  return [...itemsOfAll(given), ...settingsOf(given, false)];
}

/** What a machine's arguments give it, with what QEMU adds where they say nothing. */
function readQemuWords(words: readonly string[]): readonly HostItem[] {
  const given = splitOptions(words);
  return [...itemsOfAll(given), ...defaultsOf(given), ...settingsOf(given, true)];
}

function itemsOfAll(given: readonly Given[]): readonly HostItem[] {
  const machine = machineOf(given);
  return given.flatMap((option) => itemsOf(option, machine));
}

/** What QEMU adds by itself where nobody said that it should not. */
function defaultsOf(given: readonly Given[]): readonly HostItem[] {
  const lacks = (...wanted: string[]) => !given.some(({ name }) => wanted.includes(name));
  const all = lacks("nodefaults");
  return [
    ...(all && lacks("nic", "net", "netdev")
      ? [{ kind: "network", what: "no -nodefaults: a network card", ids: [] } as const]
      : []),
    ...(all && lacks("vga") ? [deviceMade("VGA", "no -nodefaults: a graphics card")] : []),
    ...(lacks("display", "nographic", "vnc", "spice")
      ? [{ kind: "display", what: "no -display: a window, or VNC", onNetwork: true } as const]
      : []),
    ...(lacks("no-user-config")
      ? [{ kind: "unknown", what: "no -no-user-config: whatever qemu.conf says" } as const]
      : []),
  ];
}

function splitOptions(words: readonly string[]): readonly Given[] {
  const given: Given[] = [];
  for (let at = 0; at < words.length; at += 1) {
    const word = words[at] ?? "";
    const name = word.replace(/^--?/, "");
    // A word that is no option is a disk image to QEMU.
    if (name === word) given.push({ name: "hda", value: word });
    else if (SWITCHES.has(name) || (!isKnown(name) && words[at + 1]?.startsWith("-") === true))
      given.push({ name, value: "" });
    else given.push({ name: name === "M" ? "machine" : name, value: words[++at] ?? "" });
  }
  return given;
}

/** Of an option that is not known nobody can tell whether the next word is its value; another option is none. */
function isKnown(name: string): boolean {
  return name === "M" || neutral.has(name) || PLAIN.has(name) || SNAPSHOT_OPTIONS.has(name) || OPTIONS.has(name);
}

function itemsOf({ name, value }: Given, machine: QemuMachine): readonly HostItem[] {
  const what = shorten(value === "" ? `-${name}` : `-${name} ${value}`);
  const plain = PLAIN_SWITCHES.get(name) ?? PLAIN.get(name);
  if (plain !== undefined) return [{ kind: plain, what }];
  if (neutralSwitches.has(name) || neutral.has(name)) return [];
  if (SNAPSHOT_OPTIONS.has(name)) return [{ kind: "snapshot", what, certain: true }];
  return OPTIONS.get(name)?.(value, what, machine) ?? [{ kind: "unknown", what }];
}

const OPTIONS: ReadonlyMap<string, ReadOption> = new Map<string, ReadOption>([
  ["device", readDevice],
  ["drive", readDrive],
  ["blockdev", readBlockdev],
  ["hda", (_, what) => [{ kind: "disk", what, role: "foreign", readOnly: false }]],
  ["cdrom", (_, what) => [{ kind: "disk", what, role: "foreign", readOnly: true }]],
  ["pflash", (_, what) => [{ kind: "disk", what, role: "firmware", readOnly: false }]],
  ["machine", readMachine],
  ["accel", readAccelerator],
  ["global", readGlobal],
  ["object", readObject],
  ["tpmdev", keyed("type", "type id chardev path cancel-path", readTpm)], // counts where a device takes it
  ["netdev", (_, what) => [{ kind: "network", what, ids: [] }]],
  ["nic", readNetwork],
  ["net", readNetwork],
  ["display", readDisplay],
  ["vga", readVga],
  ["vnc", readVnc],
  ["spice", readSpice],
  ["usb", (_, what, { board }) => boardUsb(board, what)],
  ["usbdevice", readUsbDevice],
  ...["serial", "parallel", "monitor", "qmp", "qmp-pretty"].map((name): [string, ReadOption] => [name, readOutlet]),
  ["chardev", readChardev],
  ["mon", keyed("chardev", "chardev mode pretty id")], // of a -chardev, which is read by itself
  ["smp", keyed("cpus", "cpus sockets dies clusters modules cores threads maxcpus")],
  ["m", keyed("size", "size slots maxmem")],
  ["rtc", keyed("base", "base clock driftfix")],
  ["msg", keyed(null, "timestamp guest-name")],
  ["sandbox", keyed("enable", "enable obsolete elevateprivileges spawn resourcecontrol")],
  ["run-with", keyed(null, "async-teardown chroot user exit-with-parent")],
  ["action", keyed(null, "reboot shutdown panic watchdog")],
  ["overcommit", keyed(null, "mem-lock cpu-pm")],
  ["icount", keyed("shift", "shift align sleep")],
  ["boot", keyed("order", "order once menu splash-time reboot-timeout strict")],
  [
    "d",
    (value, what) =>
      /^(?:guest_errors|unimp)(?:,(?:guest_errors|unimp))*$/.test(value) ? [] : [unknownPart(what, value)],
  ],
]);

function readTpm(keys: ReadonlyMap<string, string>, what: string): readonly HostItem[] {
  const type = keys.get("type") ?? "";
  return type === "emulator" || type === "passthrough" ? [] : [unknownPart(what, type)];
}

function readNetwork(value: string, what: string): readonly HostItem[] {
  return readOption(value, "type").get("type") === "none" ? [] : [{ kind: "network", what, ids: [] }];
}

/** What opens windows and serves nobody else. */
const WINDOWS: ReadonlySet<string> = new Set(["gtk", "sdl", "curses", "cocoa", "egl-headless"]);

function readDisplay(value: string, what: string): readonly HostItem[] {
  if (value.startsWith("vnc=")) return readVnc(value.slice("vnc=".length), what);
  const type = readOption(value, "type").get("type") ?? "";
  return type === "none" ? [] : [{ kind: "display", what, onNetwork: !WINDOWS.has(type) }];
}

/** A Unix socket may have another one on the network beside it, for browsers. */
function readVnc(value: string, what: string): readonly HostItem[] {
  const keys = readOption(value, "vnc");
  const place = keys.get("vnc") ?? "";
  if (place === "none") return [];
  return [{ kind: "display", what, onNetwork: !place.startsWith("unix:") || keys.has("websocket") }];
}

function readSpice(value: string, what: string): readonly HostItem[] {
  const keys = readOption(value, null);
  const local = readSwitch(keys.get("unix") ?? "off") === true && !keys.has("port") && !keys.has("tls-port");
  return [{ kind: "display", what, onNetwork: !local }];
}

const CARDS: ReadonlyMap<string, string> = new Map([
  ["std", "VGA"],
  ["virtio", "virtio-vga"],
  ["qxl", "qxl-vga"],
]);

function readVga(value: string, what: string): readonly HostItem[] {
  const [card = ""] = value.split(",");
  return card === "none" ? [] : [deviceMade(CARDS.get(card) ?? card, what)];
}

/** Brings the board's USB controllers with it. */
function readUsbDevice(value: string, what: string, { board }: QemuMachine): readonly HostItem[] {
  const passed = value.startsWith("host");
  return [
    ...boardUsb(board, what),
    passed ? { kind: "usb", what, id: null, place: null } : deviceMade(`usb-${value}`, what),
  ];
}

function shorten(text: string): string {
  return text.length > 160 ? `${text.slice(0, 160)}...` : text;
}
