import { type HostItem, unknownPart } from "./configuration.ts";
import { strangeAttributes } from "./libvirt-attributes.ts";
import type { XmlElement } from "./xml.ts";

/** Parts of a domain that give the guest nothing but processors, memory, time, a name, or a limit. */
export const NEUTRAL: ReadonlySet<string> = new Set(
  "name uuid genid title description metadata memory currentMemory maxMemory vcpu vcpus cpu cputune blkiotune memtune numatune iothreads iothreadids defaultiothread resource features clock on_poweroff on_reboot on_crash on_lockfailure perf seclabel launchSecurity throttlegroups".split(
    " ",
  ),
);

/** Whatever stands below these: notes, limits, or what is a finding as a whole. */
const ANY =
  "metadata throttlegroups sysinfo os/acpi disk/iotune devices/audio devices/lease devices/redirfilter devices/filesystem devices/vsock devices/redirdev devices/smartcard devices/shmem devices/interface devices/graphics";

/** What may stand below which element, or below it in that parent; below any other nothing may. */
const BELOW: Readonly<Record<string, string>> = {
  vcpus: "vcpu",
  cpu: "model vendor topology cache maxphysaddr feature numa",
  numa: "cell interconnects",
  cell: "distances cache",
  "cell/cache": "size line",
  distances: "sibling",
  interconnects: "latency bandwidth",
  cputune:
    "shares period quota global_period global_quota emulator_period emulator_quota iothread_period iothread_quota vcpupin emulatorpin iothreadpin vcpusched iothreadsched emulatorsched cachetune memorytune",
  cachetune: "cache monitor",
  memorytune: "node monitor",
  blkiotune: "weight device",
  "blkiotune/device": "path weight read_bytes_sec write_bytes_sec read_iops_sec write_iops_sec",
  memtune: "hard_limit soft_limit swap_hard_limit min_guarantee",
  numatune: "memory memnode",
  iothreadids: "iothread",
  "iothreadids/iothread": "poll",
  defaultiothread: "poll",
  resource: "partition",
  features: "acpi apic pae hap viridian privnet hyperv kvm pvspinlock pmu vmport smm ioapic vmcoreinfo msrs tcg ps2",
  hyperv:
    "relaxed vapic spinlocks vpindex runtime synic stimer reset vendor_id frequencies reenlightenment tlbflush ipi avic evmcs emsr_bitmap xmm_input",
  stimer: "direct",
  tlbflush: "direct extended",
  kvm: "hidden hint-dedicated poll-control pv-ipi dirty-ring",
  smm: "tseg",
  tcg: "tb-cache",
  clock: "timer",
  timer: "catchup",
  perf: "event",
  seclabel: "label baselabel imagelabel",
  launchSecurity: "cbitpos reducedPhysBits policy dhCert session guestVisibleWorkarounds idBlock idAuth hostData",
  pm: "suspend-to-mem suspend-to-disk",
  os: "type loader nvram boot bootmenu firmware smbios kernel initrd cmdline dtb acpi shim",
  "os/firmware": "feature",
  "os/nvram": "source",
  memoryBacking: "hugepages nosharepages locked source access allocation discard",
  hugepages: "page",
  "devices/disk": "source target serial readonly transient backingStore blockio iotune geometry wwn vendor product",
  "disk/source": "seclabel",
  backingStore: "format source backingStore",
  "backingStore/source": "seclabel",
  "devices/controller": "master model target",
  "devices/hostdev": "source",
  "hostdev/source": "address vendor product",
  "devices/channel": "source target protocol log",
  "devices/serial": "source target protocol log",
  "devices/parallel": "source target protocol log",
  "devices/console": "source target protocol log",
  "serial/target": "model",
  "devices/tpm": "backend",
  "tpm/backend": "encryption device active_pcr_banks profile",
  active_pcr_banks: "sha1 sha256 sha384 sha512",
  "devices/video": "model",
  "video/model": "resolution",
  "devices/sound": "codec audio",
  "devices/memballoon": "stats",
  "devices/rng": "rate backend",
  "devices/crypto": "backend",
};

/** Of any device: where it sits, and how its other side is driven. */
const COMMON = "alias address acpi boot rom driver";
const SEVERAL: ReadonlySet<string> = new Set(
  "vcpu cell sibling latency bandwidth feature vcpupin iothreadpin vcpusched iothreadsched cachetune memorytune cache monitor node device memnode iothread timer event label baselabel boot page codec".split(
    " ",
  ),
);
const any: ReadonlySet<string> = new Set(ANY.split(" "));

/** Everything of an element, and below it, that is in no table, or stands there twice where libvirt would take one. */
export function strangersIn(element: XmlElement, parent: string, what: string): readonly HostItem[] {
  if (any.has(`${parent}/${element.name}`) || any.has(element.name)) return [];
  const words = BELOW[`${parent}/${element.name}`] ?? BELOW[element.name] ?? "";
  const known = new Set(`${words} ${parent === "devices" ? COMMON : ""}`.split(" "));
  const seen = new Set<string>();
  const below = element.children.flatMap((each) => {
    const again = seen.has(each.name) && !SEVERAL.has(each.name);
    seen.add(each.name);
    if (again || !known.has(each.name)) return [unknownPart(what, `<${each.name}>`)];
    return strangersIn(each, element.name, what);
  });
  return [...strangeAttributes(element, parent, what), ...below];
}
