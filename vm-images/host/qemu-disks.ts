import { type HostItem, unknownPart } from "./configuration.ts";
import { keyed, type ReadOption } from "./qemu-keys.ts";
import { type OptionKeys, readNumber, readSwitch } from "./words.ts";

/** Of a node; the same of the one below it, and below that. */
const NODE =
  "driver format file filename node-name read-only auto-read-only aio locking discard detect-zeroes cache.direct cache.no-flush x-check-cache-dropped size offset pr-manager lazy-refcounts l2-cache-size refcount-cache-size cache-size cache-clean-interval";
const NODES = ["", "file.", "file.file."].flatMap((below) => NODE.split(" ").map((key) => below + key)).join(" ");
const DRIVE =
  "if id readonly media index unit bus werror rerror snapshot cache cache.writeback group throttling.* iops* bps*";

export const readBlockdev: ReadOption = keyed("driver", NODES, nodeItems);

export const readDrive: ReadOption = keyed(null, `${DRIVE} ${NODES}`, (keys, what) => [
  ...nodeItems(keys, what),
  ...forgetful(keys, what),
  ...slotItems(keys, what),
]);

/** Local files as they are; a format that can hold snapshots; or what only another machine, or a driver that nobody knows, has. */
function nodeItems(keys: OptionKeys, what: string): readonly HostItem[] {
  const drivers = [...keys].filter(([key]) => /(?:^|\.)(?:driver|format)$/.test(key)).map(([, value]) => value);
  const files = [...keys].filter(([key]) => /(?:^|\.)(?:file|filename)$/.test(key)).map(([, value]) => value);
  const foreign = [...drivers.filter((driver) => !KNOWN.test(driver)), ...files.filter(isRemote)];
  return [
    ...(drivers.some((driver) => FORMATS.test(driver)) ? [{ kind: "snapshot", what, certain: false } as const] : []),
    ...foreign.map((name) => unknownPart(what, name)),
  ];
}

const FORMATS = /^(?:qcow2?|qed|vmdk|vdi|vhdx|vpc)$/;
const KNOWN = /^(?:raw|file|host_device|qcow2?|qed|vmdk|vdi|vhdx|vpc)$/;

/** QEMU takes what stands before a colon for a protocol, unless a slash comes first. */
function isRemote(file: string): boolean {
  const [, protocol] = /^([^:/]*):/.exec(file) ?? [];
  return protocol !== undefined && protocol !== "file" && protocol !== "host_device";
}

/** QEMU looks into an image whose format nobody names, and the guest may have written what it finds. */
function forgetful(keys: OptionKeys, what: string): readonly HostItem[] {
  const kept = readSwitch(keys.get("snapshot") ?? "off") === false;
  const named = keys.has("format") || keys.has("driver");
  return [
    ...(kept ? [] : [{ kind: "snapshot", what, certain: true } as const]),
    ...(named ? [] : [{ kind: "snapshot", what, certain: false } as const]),
  ];
}

function slotItems(keys: OptionKeys, what: string): readonly HostItem[] {
  const readOnly = isReadOnly(keys);
  if (keys.get("if") === "none") return []; // judged where a device takes it
  if (keys.get("if") !== "pflash") return [{ kind: "disk", what, role: "foreign", readOnly }];
  // Unit 0 is the code; the variables of unit 1 are each machine's own.
  switch (readNumber(keys.get("unit") ?? keys.get("index") ?? "0")) {
    case 0:
      return [
        { kind: "uefi", what },
        { kind: "disk", what, role: "firmware", readOnly },
      ];
    case 1:
      return [];
    default:
      return [unknownPart(what, "a third flash")];
  }
}

/** What a `-drive` or `-blockdev` says of itself; who is not there is writable. */
export function isReadOnly(keys: OptionKeys | undefined): boolean {
  const said = keys?.get("readonly") ?? keys?.get("read-only") ?? "off";
  return readSwitch(said) === true || keys?.get("media") === "cdrom";
}
