import { deviceMade, type HostItem, type HostMachine, type PlainKind } from "./configuration.ts";
import { type Backends, isReadOnly, readDevice } from "./qemu-devices.ts";
import { type OptionValue, qemuWords, readOption } from "./words.ts";

/** Options that give a guest nothing; those of the second line have a value. */
const NEUTRAL_SWITCHES =
  "S nodefaults no-user-config no-reboot no-shutdown enable-kvm daemonize nographic no-hpet mem-prealloc only-migratable no-fd-bootchk no-acpi";
const NEUTRAL =
  "accel cpu smp name uuid rtc msg sandbox pidfile D d k runas run-with chroot action watchdog-action overcommit icount seed tb-size compat audiodev boot numa add-fd m";
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
  ["bios", "firmware"],
  ["fw_cfg", "injected"],
  ["smbios", "injected"],
  ["acpitable", "injected"],
  ["option-rom", "injected"],
  ["mem-path", "hugepages"],
]);
const SWITCHES: ReadonlySet<string> = new Set([...neutralSwitches, ...PLAIN_SWITCHES.keys(), "snapshot", "usb"]);
const SNAPSHOT_OPTIONS: ReadonlySet<string> = new Set(["loadvm", "incoming"]);
const NEUTRAL_GLOBALS =
  /^-global (?:(?:ICH9-LPC|PIIX4_PM)\.(?:disable_s[34]|noreboot)=\w+|kvm-pit\.lost_tick_policy=\w+|driver=cfi\.pflash01,property=secure,value=\w+)$/;

/** An option with its value; switches have "". */
interface Given {
  readonly name: string;
  readonly value: string;
}

/** @throws ImageError ERR_HOST_MALFORMED */
export function readQemuText(text: string): HostMachine {
  return { source: "qemu", items: readQemuWords(qemuWords(text)) };
}

/** What these arguments add to a machine that others describe: a libvirt domain's `qemu:commandline`. */
export function readQemuDevices(words: readonly string[]): readonly HostItem[] {
  const given = splitOptions(words);
  const backends = readBackends(given);
  return given.flatMap((option) => itemsOf(option, backends));
}

/** What a machine's arguments give it, with what QEMU adds where they say nothing. */
function readQemuWords(words: readonly string[]): readonly HostItem[] {
  const given = splitOptions(words);
  const has = (name: string, value: RegExp) => given.some((each) => each.name === name && value.test(each.value));
  const chip = has("machine", /q35/) ? "ICH9-LPC" : "PIIX4_PM";
  const suspend = ["disable_s3", "disable_s4"].filter(
    (name) => !has("global", new RegExp(`^${chip}\\.${name}=(?:1|on)$`)),
  );
  const merges = !has("machine", /(?:^|,)mem-merge=off(?:,|$)/);
  return [
    ...readQemuDevices(words),
    ...(has("nodefaults", /^$/) ? [] : defaultsOf(given)),
    ...suspend.map((name): HostItem => ({ kind: "suspend", what: `no -global ${chip}.${name}=1` })),
    ...(merges ? [{ kind: "memory-merge", what: "-machine without mem-merge=off" } as const] : []),
  ];
}

/** What QEMU adds by itself where nobody said `-nodefaults`. */
function defaultsOf(given: readonly Given[]): readonly HostItem[] {
  const names = given.map(({ name }) => name);
  const lacks = (...wanted: string[]) => !wanted.some((name) => names.includes(name));
  return [
    ...(lacks("nic", "net", "netdev")
      ? [{ kind: "network", what: "no -nodefaults: a network card", ids: [] } as const]
      : []),
    ...(lacks("vga") ? [deviceMade("VGA", "no -nodefaults: a graphics card")] : []),
  ];
}

function splitOptions(words: readonly string[]): readonly Given[] {
  const given: Given[] = [];
  for (let at = 0; at < words.length; at += 1) {
    const word = words[at] ?? "";
    const name = word.replace(/^--?/, "");
    // A word that is no option is a disk image to QEMU.
    if (name === word) given.push({ name: "hda", value: word });
    else if (SWITCHES.has(name)) given.push({ name, value: "" });
    else given.push({ name: name === "M" ? "machine" : name, value: words[++at] ?? "" });
  }
  return given;
}

function readBackends(given: readonly Given[]): Backends {
  const byId = (names: readonly string[], key: string) =>
    new Map(
      given
        .filter(({ name }) => names.includes(name))
        .map(({ value }) => readOption(value))
        .map((option) => [option.keys.get(key) ?? "", option]),
    );
  return {
    drives: new Map([...byId(["drive"], "id"), ...byId(["blockdev"], "node-name")]),
    tpms: byId(["tpmdev"], "id"),
  };
}

function itemsOf({ name, value }: Given, backends: Backends): readonly HostItem[] {
  const what = shorten(value === "" ? `-${name}` : `-${name} ${value}`);
  const plain = PLAIN_SWITCHES.get(name) ?? PLAIN.get(name);
  if (plain !== undefined) return [{ kind: plain, what }];
  if (neutralSwitches.has(name) || neutral.has(name)) return [];
  if (SNAPSHOT_OPTIONS.has(name) || name === "snapshot") return [{ kind: "snapshot", what, certain: true }];
  const option = readOption(value);
  const read = OPTIONS.get(name);
  return read === undefined ? [{ kind: "unknown", what }] : read(option, what, backends);
}

type ReadItems = (option: OptionValue, what: string, backends: Backends) => readonly HostItem[];

const OPTIONS: ReadonlyMap<string, ReadItems> = new Map<string, ReadItems>([
  ["device", readDevice],
  ["drive", readDrive],
  ["blockdev", ({ keys }, what) => [...snapshotOf(keys, what), ...remoteDisk(keys, what)]],
  ["hda", (_, what) => [{ kind: "disk", what, role: "foreign", readOnly: false }]],
  ["cdrom", (_, what) => [{ kind: "disk", what, role: "foreign", readOnly: true }]],
  ["pflash", (_, what) => [{ kind: "disk", what, role: "firmware", readOnly: false }]],
  ["machine", readMachine],
  ["global", (_, what) => (NEUTRAL_GLOBALS.test(what) ? [] : [{ kind: "unknown", what }])],
  ["object", readObject],
  ["tpmdev", () => []], // counts where a device takes it
  ["netdev", (_, what) => [{ kind: "network", what, ids: [] }]],
  ["nic", ({ head }, what) => (head === "none" ? [] : [{ kind: "network", what, ids: [] }])],
  ["net", ({ head }, what) => (head === "none" ? [] : [{ kind: "network", what, ids: [] }])],
  [
    "display",
    ({ head }, what) => (head === "none" ? [] : [{ kind: "display", what, onNetwork: /^vnc|^spice/.test(head) }]),
  ],
  ["vga", ({ head }, what) => (head === "none" ? [] : [deviceMade(head === "std" ? "VGA" : head, what)])],
  [
    "vnc",
    ({ head }, what) => (head === "none" ? [] : [{ kind: "display", what, onNetwork: !head.startsWith("unix:") }]),
  ],
  ["spice", ({ keys }, what) => [{ kind: "display", what, onNetwork: keys.has("port") || keys.has("tls-port") }]],
  ["usb", (_, what) => [deviceMade("piix3-usb-uhci", what)]],
  [
    "usbdevice",
    ({ head }, what) => [
      /^host/.test(head) ? { kind: "usb", what, id: null, place: null } : deviceMade(`usb-${head}`, what),
    ],
  ],
  ...["serial", "parallel", "monitor", "qmp", "qmp-pretty", "chardev"].map((name): [string, ReadItems] => [
    name,
    readOutlet,
  ]),
  ["mon", () => []], // of a -chardev, which is read by itself
]);

/** Monitors, consoles and ports: whatever listens on, or calls, an address of a network. */
function readOutlet({ head, keys }: OptionValue, what: string): readonly HostItem[] {
  const network =
    /^(?:tcp|udp|telnet|websocket|tn3270):/.test(head) ||
    head === "udp" ||
    (head === "socket" && (keys.has("host") || keys.has("port")));
  if (network) return [{ kind: "network-socket", what }];
  if (/^spice/.test(head)) return [{ kind: "display", what, onNetwork: false }];
  return [];
}

function readMachine({ keys }: OptionValue, what: string, backends: Backends): readonly HostItem[] {
  const code = keys.get("pflash0");
  const flash =
    code === undefined
      ? []
      : [
          { kind: "uefi", what } as const,
          { kind: "disk", what, role: "firmware", readOnly: isReadOnly(backends, code) } as const,
        ];
  const direct = ["kernel", "initrd", "append", "firmware"].some((key) => keys.has(key));
  return [...flash, ...(direct ? [{ kind: "firmware", what } as const] : [])];
}

function readObject({ head, keys }: OptionValue, what: string): readonly HostItem[] {
  if (head === "rng-random" || head === "rng-builtin" || head === "iothread" || head === "secret") return [];
  if (!head.startsWith("memory-backend")) return [{ kind: "unknown", what }];
  return [
    ...(keys.get("share") === "on" ? [{ kind: "shared-memory", what } as const] : []),
    ...(keys.has("hugetlb") || /hugepages/.test(keys.get("mem-path") ?? "")
      ? [{ kind: "hugepages", what } as const]
      : []),
  ];
}

function readDrive({ keys }: OptionValue, what: string): readonly HostItem[] {
  const readOnly = keys.get("readonly") === "on" || keys.get("read-only") === "on" || keys.get("media") === "cdrom";
  const notes = [...snapshotOf(keys, what), ...remoteDisk(keys, what)];
  if (keys.get("if") === "pflash") {
    // Unit 0 is the code; the variables of unit 1 are each machine's own.
    const code = (keys.get("unit") ?? "0") === "0";
    return [
      ...notes,
      ...(code ? [{ kind: "uefi", what } as const, { kind: "disk", what, role: "firmware", readOnly } as const] : []),
    ];
  }
  if (keys.get("if") === "none") return notes; // judged where a device takes it
  return [...notes, { kind: "disk", what, role: "foreign", readOnly }];
}

function snapshotOf(keys: ReadonlyMap<string, string>, what: string): readonly HostItem[] {
  if (keys.get("snapshot") === "on") return [{ kind: "snapshot", what, certain: true }];
  const format = keys.get("format") ?? keys.get("driver") ?? "";
  return /^(?:qcow2?|qed|vmdk|vdi|vhdx|vpc)$/.test(format) ? [{ kind: "snapshot", what, certain: false }] : [];
}

/** A file that another machine has, or that QEMU makes of a folder. */
const REMOTE = /^(?:nbd|iscsi|ssh|https?|ftps?|rbd|gluster|nfs|vvfat|fat)(?::|$)/;
function remoteDisk(keys: ReadonlyMap<string, string>, what: string): readonly HostItem[] {
  const places = ["file", "filename", "file.filename", "driver", "file.driver"].map((key) => keys.get(key) ?? "");
  return places.some((place) => REMOTE.test(place)) ? [{ kind: "unknown", what }] : [];
}

function shorten(text: string): string {
  return text.length > 160 ? `${text.slice(0, 160)}...` : text;
}
