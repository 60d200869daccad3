import { type Exposure, type HostDevices, hostExposure, readHostConfiguration } from "../../vm-images/host/index.ts";
import { qemuArguments, vmPciDevices } from "../../vm-images/qemu-args.ts";
import { READER } from "./usb-token.ts";

export const HSM = "10ee:7021";
/** The devices of the host that the configurations below are from, for those that name them by place. */
const host: HostDevices = {
  pci: (address) =>
    ({ "0000:03:00.0": { id: HSM, isBus: false }, "0000:00:14.0": { id: "8086:a36d", isBus: true } })[address] ?? null,
  usb: (bus, device) =>
    bus === 1 && device === 4
      ? { id: READER, isBus: false }
      : bus === 1 && device === 2
        ? { id: "usb:1d6b:0002", isBus: true }
        : null,
};
export const exposureOf = (text: string, devices: readonly string[] = vmPciDevices) =>
  hostExposure(readHostConfiguration(text), { devices }, host);
export const short = (found: readonly Exposure[]) => found.map(({ id, level }) => `${id} ${level}`);
export const thrown = (act: () => unknown): unknown => {
  try {
    act();
  } catch (error) {
    return error;
  }
  return undefined;
};

/** The arguments of this project's own machine. */
export const OURS = qemuArguments(
  {
    ...{ root: "/i/root.img", cabinet: "/m/cabinet.img", esp: "/i/esp.img" },
    tpmSocket: "/m/tpm.sock",
    directory: "/m",
    variant: "demo",
  },
  { code: "/f/CODE.fd", vars: "/f/VARS.fd" },
);

const quoted = (word: string) => `'${word.replaceAll("'", `'\\''`)}'`;
/** As somebody types them. */
export const lineOf = (words: readonly string[]) => ["qemu-system-x86_64", ...words].map(quoted).join(" ");

/** A machine like it, as `virsh dumpxml` would print it. */
export const GOOD = `<?xml version='1.0' encoding='UTF-8'?>
<!-- virsh dumpxml -->
<domain type='kvm'>
  <name>signer</name><memory unit='MiB'>512</memory><memoryBacking><nosharepages/></memoryBacking><vcpu>2</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type><loader readonly='yes' type='pflash'>/f/CODE.fd</loader><nvram>/m/vars.fd</nvram></os>
  <features><acpi/></features><cpu mode='host-passthrough'/><clock offset='utc'/><on_reboot>destroy</on_reboot>
  <pm><suspend-to-mem enabled='no'/><suspend-to-disk enabled="no"/></pm>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/i/esp.img'/><target dev='vda' bus='virtio'/><readonly/><boot order='1'/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/i/root.img'/><target dev='vdb' bus='virtio'/><serial>root</serial><readonly/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/m/cabinet.img'/><target dev='vdc' bus='virtio'/><serial>cabinet</serial><readonly/></disk>
    <disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/m/state.img'/><target dev='vdd' bus='virtio'/><serial>state</serial></disk>
    <disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='/dev/vg/store'/><target dev='vde' bus='virtio'/><serial>store</serial></disk>
    <controller type='pci' model='pcie-root'/><controller type='sata' index='0'/><controller type='usb' model='none'/><controller type='virtio-serial' index='0'/>
    <channel type='unix'><source mode='bind' path='/m/c.sock'/><target type='virtio' name='ironclaw.control'/></channel>
    <serial type='file'><source path='/m/console.log'/><target type='isa-serial'/></serial>
    <tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>
    <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng><memballoon model='none'/><video><model type='none'/></video>
  </devices>
</domain>
`;
