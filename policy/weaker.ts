/**
 * What our image guarantees and another system may not. `ironclaw doctor` names those that do not hold where it looks; a report says the same by
 * the variant `installed` alone (agent/docs/install.md).
 */
export const WEAKER_GUARANTEES = [
  {
    name: "boot-not-measured",
    loss: "kernel, initrd or command line are in no PCR that a release binds",
    fix: "boot a unified kernel image through systemd-stub on firmware that measures, straight or by `chainloader` of GRUB",
  },
  {
    name: "root-not-verified",
    loss: "who can write the disk, or root, can change the system's files: nothing checks them when they are read",
    fix: "run the project's image, whose root is read-only and dm-verity",
  },
  {
    name: "memory-not-wiped",
    loss: "freed pages keep what was in them until they are used again",
    fix: "boot with init_on_free=1",
  },
  {
    name: "memory-readable",
    loss: "root can read the kernel's memory, and through it every process's",
    fix: "boot with lockdown=confidentiality",
  },
  {
    name: "processes-traceable",
    loss: "root can trace a process that is dumpable, and the agent is looked after by processes that are",
    fix: "set kernel.yama.ptrace_scope=3",
  },
  {
    name: "kernel-replaceable",
    loss: "root can load modules or start another kernel, after everything was measured",
    fix: "set kernel.modules_disabled=1 and kernel.kexec_load_disabled=1 once the machine has booted",
  },
  {
    name: "swap",
    loss: "memory that is not locked can be written to a disk",
    fix: "turn swap off, or encrypt it under a key of the boot",
  },
  {
    name: "core-dumps",
    loss: "a crash can write the memory of a process, or of the kernel, to a disk",
    fix: "set kernel.core_pattern to nothing and fs.suid_dumpable=0, and load no crash kernel",
  },
] as const;

export type WeakerGuarantee = (typeof WEAKER_GUARANTEES)[number]["name"];
