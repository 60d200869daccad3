import { existsSync } from "node:fs";
import { join } from "node:path";
import { type Acceleration, TCG } from "./acceleration.ts";
import { ImageError } from "./errors.ts";
import type { ImageVariant } from "./variants.ts";

/** OVMF: the code, and the template of the variable store of which every machine gets a copy. */
export interface Firmware {
  readonly code: string;
  readonly vars: string;
  /** Verifies what it starts, and keeps its variables where only its own system management mode writes. */
  readonly secureBoot?: boolean;
}

interface MachineOptions {
  /** Raw disk images. Neither of these two is written to, unless the root is `rootWritable`: no image of ours is. */
  readonly root: string;
  readonly rootWritable?: boolean;
  readonly cabinet: string;
  /** Control socket of a running swtpm (`user: "qemu"`). */
  readonly tpmSocket: string;
  /** The state volume's disk, writable. Default: `state.img` in `directory`, made when it is not there. */
  readonly state?: string;
  /** The agent's own small disk, writable. Default: `store.img` in `directory`, made when it is not there. */
  readonly store?: string;
  /** An existing directory for sockets, logs and the variable store; the path is at most some 80 bytes long. */
  readonly directory: string;
  /** Default 512. */
  readonly memoryMiB?: number;
  /** `dev` adds the port `ironclaw.shell`. */
  readonly variant: ImageVariant;
  /** Names of further virtio-serial ports. */
  readonly extraPorts?: readonly string[];
  /** Further devices, each as QEMU's `-device` takes it, e.g. `qemu-xhci,id=usb`. They come after all others on the bus. */
  readonly extraDevices?: readonly string[];
  /** Default: TCG. */
  readonly acceleration?: Acceleration;
  /** Kills the machine when aborted. */
  readonly signal?: AbortSignal;
}

export interface VmOptions extends MachineOptions {
  readonly firmware?: Firmware;
  /** Raw disk image that the firmware boots; not written to. */
  readonly esp: string;
}

/** A machine that QEMU itself gives a kernel to: neither kernel nor command line is measured. For trying what a kernel does. */
export interface BareVmOptions extends MachineOptions {
  readonly kernel: string;
  readonly initrd: string;
  readonly commandLine: string;
}

const FIRMWARE_DIRECTORY = "/usr/share/OVMF";
const PORTS = ["ironclaw.control", "ironclaw.report", "workload.2001", "workload.2002"] as const;

/**
 * PCI functions that the guest sees, as sorted `vvvv:dddd`: q35's host bridge, ISA bridge, AHCI and SMBus, five virtio disks,
 * virtio-serial and virtio-rng. Extra ports add none.
 */
export const vmPciDevices: readonly string[] = [
  "1af4:1042",
  "1af4:1042",
  "1af4:1042",
  "1af4:1042",
  "1af4:1042",
  "1af4:1043",
  "1af4:1044",
  "8086:2918",
  "8086:2922",
  "8086:2930",
  "8086:29c0",
];

interface FirmwareOptions {
  readonly exists?: (path: string) => boolean;
  /** The build that can verify what it starts; its template has no keys, so that it does not yet. */
  readonly secureBoot?: boolean;
}

/**
 * The 2 MB build of OVMF, which boots faster, else the 4 MB build that newer Debian has alone.
 * Throws {@link ImageError} ERR_IMAGE_TOOL when neither is installed.
 */
export function findFirmware({ exists = existsSync, secureBoot = false }: FirmwareOptions = {}): Firmware {
  for (const suffix of ["", "_4M"]) {
    const code = join(FIRMWARE_DIRECTORY, `OVMF_CODE${suffix}${secureBoot ? ".secboot" : ""}.fd`);
    const vars = join(FIRMWARE_DIRECTORY, `OVMF_VARS${suffix}.fd`);
    if (exists(code) && exists(vars)) return { code, vars, secureBoot };
  }
  throw new ImageError("ERR_IMAGE_TOOL", `OVMF: not installed in ${FIRMWARE_DIRECTORY}`, {
    hint: "apt-get install ovmf",
  });
}

/** Names of the machine's virtio-serial ports. */
export function portNames(options: Pick<VmOptions, "variant" | "extraPorts">): string[] {
  const names = [...PORTS, ...(options.variant === "dev" ? ["ironclaw.shell"] : []), ...(options.extraPorts ?? [])];
  for (const name of names) {
    if (!/^[a-z0-9][a-z0-9.-]{0,31}$/.test(name)) throw new TypeError(`port name ${JSON.stringify(name)}`);
  }
  if (new Set(names).size !== names.length) throw new TypeError(`port names ${names.join(", ")}: one twice`);
  return names;
}

/** Ports of an image's workloads that the project's recipes do not have. */
export function furtherPorts(
  variant: ImageVariant,
  workloads: readonly { readonly port: string | null }[],
): readonly string[] {
  const known = portNames({ variant });
  return workloads.flatMap(({ port }) => (port === null || known.includes(port) ? [] : [port]));
}

/** Where the files of a machine lie in its directory. */
export function vmPaths(directory: string) {
  return {
    vars: join(directory, "vars.fd"),
    state: join(directory, "state.img"),
    store: join(directory, "store.img"),
    console: join(directory, "console.log"),
    qmp: join(directory, "qmp.sock"),
    tpm: join(directory, "tpm.sock"),
    port: (name: string): string => join(directory, `${name}.sock`),
  };
}

/**
 * Arguments of qemu-system-x86_64.
 * Virtio devices are modern only (`disable-legacy=on`), so that their PCI ids do not depend on the bus they sit on.
 */
export function qemuArguments(options: VmOptions, firmware: Firmware): string[] {
  return [
    ...machine(options, firmware.secureBoot),
    ...["-drive", `if=pflash,format=raw,unit=0,readonly=on,file=${escaped(firmware.code)}`],
    ...["-drive", `if=pflash,format=raw,unit=1,file=${escaped(vmPaths(options.directory).vars)}`],
    ...disk("esp", options.esp, "bootindex=0"),
    ...devices(options),
  ];
}

/** The same machine without that firmware and without a boot disk. */
export function bareQemuArguments(options: BareVmOptions): string[] {
  const { kernel, initrd, commandLine } = options;
  return [...machine(options), ...["-kernel", kernel, "-initrd", initrd, "-append", commandLine], ...devices(options)];
}

function machine(
  { memoryMiB = 512, directory, tpmSocket, acceleration = TCG }: MachineOptions,
  secureBoot = false,
): string[] {
  const paths = vmPaths(directory);
  const { accel, cpu, processors } = acceleration;
  return [
    // Pages that are merged with another machine's tell that machine what is in them.
    ...["-nodefaults", "-no-user-config", "-machine", `q35,mem-merge=off${secureBoot ? ",smm=on" : ""}`],
    ...["-accel", accel === "tcg" ? "tcg,thread=single" : accel, "-cpu", cpu, "-smp", String(processors)],
    ...(secureBoot ? ["-global", "driver=cfi.pflash01,property=secure,value=on"] : []),
    // Waking up from S3 resets the TPM and not the guest: its PCRs would start again under a machine that goes on.
    ...["-global", "ICH9-LPC.disable_s3=1", "-global", "ICH9-LPC.disable_s4=1"],
    ...["-m", String(memoryMiB), "-vga", "none", "-nic", "none", "-no-reboot", "-display", "none"],
    ...["-chardev", `socket,id=tpm0,path=${escaped(tpmSocket)}`],
    ...["-tpmdev", "emulator,id=tpmdev0,chardev=tpm0", "-device", "tpm-crb,tpmdev=tpmdev0"],
    ...["-serial", `file:${escaped(paths.console)}`],
    ...["-qmp", `unix:${escaped(paths.qmp)},server=on,wait=off`],
  ];
}

function devices(options: MachineOptions): string[] {
  const paths = vmPaths(options.directory);
  return [
    ...(options.rootWritable === true ? writableDisk("root", options.root) : disk("root", options.root, "serial=root")),
    ...disk("cabinet", options.cabinet, "serial=cabinet"),
    ...writableDisk("state", options.state ?? paths.state),
    ...writableDisk("store", options.store ?? paths.store),
    ...["-device", "virtio-serial-pci,id=serial0,max_ports=32,disable-legacy=on"],
    ...portNames(options).flatMap((name, index) => [
      ...["-chardev", `socket,id=port${index},path=${escaped(paths.port(name))},server=on,wait=off`],
      ...["-device", `virtserialport,bus=serial0.0,chardev=port${index},name=${name}`],
    ]),
    ...["-object", "rng-random,id=rng0,filename=/dev/urandom"],
    ...["-device", "virtio-rng-pci,rng=rng0,disable-legacy=on"],
    ...(options.extraDevices ?? []).flatMap((device) => ["-device", device]),
  ];
}

function disk(id: string, file: string, property: string): string[] {
  return [
    ...["-drive", `if=none,id=${id},format=raw,readonly=on,file=${escaped(file)}`],
    ...["-device", `virtio-blk-pci,drive=${id},${property},disable-legacy=on`],
  ];
}

/** What the guest has flushed is on the host's disk: `writeback` passes flushes on. The serial is the id. */
export function writableDisk(id: string, file: string): string[] {
  return [
    ...["-drive", `if=none,id=${id},format=raw,cache=writeback,file=${escaped(file)}`],
    ...["-device", `virtio-blk-pci,drive=${id},serial=${id},disable-legacy=on`],
  ];
}

/** QEMU's option syntax: a comma in a value is written twice. */
function escaped(path: string): string {
  return path.replaceAll(",", ",,");
}
