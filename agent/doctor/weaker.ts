import type { WeakerGuarantee } from "../../policy/index.ts";
import type { Files } from "./files.ts";
import { type Finding, ok, type Problem, warn } from "./finding.ts";
import { rootWeakness } from "./root.ts";

/** What does not hold here of what our image guarantees, in words; null where it holds. */
type Weakness = Problem | null;

/** Of what the kernel says. What is in PCRs, the TPM says: `boot-not-measured` is not among these. */
const LOOKS: Readonly<Record<Exclude<WeakerGuarantee, "boot-not-measured">, (files: Files) => Weakness>> = {
  "root-not-verified": rootWeakness,
  "memory-not-wiped": (files) =>
    commandLine(files).includes("init_on_free=1")
      ? null
      : { expected: "init_on_free=1", got: "no such word on the kernel's command line" },
  "memory-readable": (files) => lockdownWeakness(files.text("/sys/kernel/security/lockdown")),
  "processes-traceable": (files) => sysctlWeakness(files, "kernel/yama/ptrace_scope", "3"),
  "kernel-replaceable": (files) =>
    sysctlWeakness(files, "kernel/modules_disabled", "1") ?? sysctlWeakness(files, "kernel/kexec_load_disabled", "1"),
  swap: swapWeakness,
  "core-dumps": dumpWeakness,
};

/** Where ok says less than it seems to. */
const HOLDS: Readonly<Partial<Record<WeakerGuarantee, string>>> = {
  "root-not-verified":
    "read-only on dm-verity, as the kernel names the mounted device; that the measured initrd made it, only the boot PCRs prove",
};

/** A line for each: ok where it holds, and what does not hold instead. */
export function weakerFindings(files: Files): readonly Finding[] {
  const looks = Object.entries(LOOKS) as [keyof typeof LOOKS, (files: Files) => Weakness][]; // the keys of a literal
  return looks.map(([name, look]) => {
    const weakness = look(files);
    return weakness === null ? ok(name, HOLDS[name] ?? "does not happen here") : warn(name, weakness);
  });
}

function commandLine(files: Files): readonly string[] {
  return files.text("/proc/cmdline")?.split(/\s+/) ?? [];
}

function lockdownWeakness(lockdown: string | null): Weakness {
  const mode = /\[(\w+)\]/.exec(lockdown ?? "")?.[1] ?? "not there";
  return mode === "confidentiality" ? null : { expected: "lockdown confidentiality", got: `lockdown ${mode}` };
}

function sysctlWeakness(files: Files, name: string, expected: string): Weakness {
  const got = files.text(`/proc/sys/${name}`);
  const word = name.replaceAll("/", ".");
  if (got === expected) return null;
  return { expected: `${word}=${expected}`, got: got === null ? `no ${word} in this kernel` : `${word}=${got}` };
}

function swapWeakness(files: Files): Weakness {
  const devices = (files.text("/proc/swaps") ?? "")
    .split("\n")
    .slice(1)
    .flatMap((line) => line.split(/\s+/)[0] ?? []);
  return devices.length === 0 ? null : { expected: "no swap", got: devices.join(" ") };
}

function dumpWeakness(files: Files): Weakness {
  const pattern = files.text("/proc/sys/kernel/core_pattern") ?? "";
  if (pattern !== "") return { expected: "an empty kernel.core_pattern", got: pattern };
  if (files.text("/sys/kernel/kexec_crash_loaded") === "1")
    return { expected: "no crash kernel", got: "one that is loaded" };
  return sysctlWeakness(files, "fs/suid_dumpable", "0");
}
