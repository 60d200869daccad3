import type { HostItem } from "./configuration.ts";

export type ExposureId = Exclude<HostItem["kind"], "uefi" | "pci" | "usb"> | "controller";

/** What a machine's configuration gives the guest, or whoever reaches the host, beyond the policy. Fit for a line of `ironclaw doctor`. */
export interface Exposure {
  readonly id: ExposureId;
  readonly level: "warn" | "fail";
  /** The words of the text that say it. */
  readonly item: string;
  readonly expected: string;
  readonly got: string;
  readonly hint: string;
}

type Words = Pick<Exposure, "expected" | "got" | "hint">;

/** What every finding of a kind says; some say more exactly what they got. */
export const EXPOSURE_WORDS: Readonly<Record<ExposureId, Words>> = {
  controller: {
    expected: "single devices that the policy lists",
    got: "a controller of the host",
    hint: "pass the one device by its vendor and product",
  },
  device: {
    expected: "a device that the policy lists",
    got: "a serial line, a parallel port or an input of the host, which no list has",
    hint: "take it out, or release a policy that lists it under `devices`",
  },
  emulated: {
    expected: "a device that the policy lists",
    got: "another",
    hint: "take it out, or release a policy that lists it under `devices`",
  },
  network: {
    expected: "no network device",
    got: "one",
    hint: "take it out (-nic none); host and guest talk over virtio-serial",
  },
  "shared-folder": {
    expected: "no folder of the host in the guest",
    got: "one",
    hint: "what a machine is given lies in its cabinet",
  },
  "guest-agent": {
    expected: "no channel through which the host gives orders",
    got: "the QEMU guest agent's",
    hint: "take it out; `ironclaw` orders are signed or measured",
  },
  display: {
    expected: "no display, keyboard or clipboard",
    got: "one",
    hint: "take it out (-display none); the console is a serial line",
  },
  vsock: {
    expected: "no socket between host and guest",
    got: "vsock",
    hint: "take it out; host and guest talk over virtio-serial",
  },
  redirection: {
    expected: "no devices from whoever views the machine",
    got: "a channel for them",
    hint: "take it out",
  },
  disk: {
    expected: "firmware, boot, root and cabinet disks read-only, state and store by serial",
    got: "another disk",
    hint: 'vm-images/README.md, "The disks", has the list',
  },
  "shared-memory": {
    expected: "guest memory that is QEMU's alone",
    got: "memory that others map",
    hint: "take it out: who maps it reads the PIN, and changes what was measured",
  },
  debugger: { expected: "no debugger", got: "one", hint: "take it out: who reaches it reads and changes everything" },
  "debug-port": { expected: "no debug port", got: "one", hint: "take it out where nobody debugs firmware" },
  "network-socket": {
    expected: "Unix sockets",
    got: "a socket on the network",
    hint: "who reaches a monitor owns the machine: use unix:PATH in a directory of mode 0700",
  },
  tpm: { expected: "a TPM 2.0", got: "none", hint: "-tpmdev with -device tpm-crb; without it nothing unseals" },
  firmware: {
    expected: "UEFI firmware that boots the image's ESP",
    got: "another way to boot",
    hint: "OVMF as pflash, no -kernel: only that boot is measured as predicted",
  },
  suspend: {
    expected: "S3 and S4 disabled",
    got: "a machine that can sleep",
    hint: "waking up resets the TPM and not the guest",
  },
  snapshot: {
    expected: "disks that keep what was written",
    got: "a snapshot",
    hint: "a state that was put back looks rolled back to the TPM, and stays refused",
  },
  injected: {
    expected: "nothing from the host but the disks",
    got: "more",
    hint: "take it out, or look which PCR it goes into",
  },
  "memory-merge": {
    expected: "memory pages of this machine's own",
    got: "pages shared with other machines",
    hint: "-machine mem-merge=off, <nosharepages/>",
  },
  hugepages: {
    expected: "anonymous memory",
    got: "memory in a file system of the host",
    hint: "only the QEMU user may read that mount",
  },
  port: {
    expected: "ironclaw.control, ironclaw.report, workload.UID",
    got: "another",
    hint: "no image of this project serves it",
  },
  unknown: {
    expected: "what this check knows",
    got: "something else",
    hint: "vm-images/host/README.md lists what is known; take it out, or look at it by hand",
  },
};
