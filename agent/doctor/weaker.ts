import type { WeakerGuarantee } from "../../policy/index.ts";
import type { Files } from "./files.ts";
import { type Finding, ok, type Problem, warn } from "./finding.ts";

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

/** Those that do not hold, in the order of the list: what a report says of the system that its agent runs on. */
export function weakerHere(files: Files): readonly WeakerGuarantee[] {
  return looks().flatMap(([name, look]) => (look(files) === null ? [] : [name]));
}

/** The same for people: a line for each, ok where it holds. */
export function weakerFindings(files: Files): readonly Finding[] {
  return looks().map(([name, look]) => {
    const weakness = look(files);
    return weakness === null ? ok(name, "does not happen here") : warn(name, weakness);
  });
}

function looks() {
  return Object.entries(LOOKS) as [keyof typeof LOOKS, (files: Files) => Weakness][]; // the keys of a literal
}

function commandLine(files: Files): readonly string[] {
  return files.text("/proc/cmdline")?.split(/\s+/) ?? [];
}

/** The root is a device-mapper device whose uuid begins as that of every verity target that names itself, or the image's own, read-only. */
function rootWeakness(files: Files): Weakness {
  const expected = "a read-only root on dm-verity";
  const root = files
    .text("/proc/self/mounts")
    ?.split("\n")
    .map((line) => line.split(" "))
    .findLast(([, place]) => place === "/");
  if (root === undefined) return { expected, got: "no root among the mounts" };
  const [device = "", , type = "", options = ""] = root;
  if (!options.split(",").includes("ro")) return { expected, got: `${type}, writable` };
  const measured = commandLine(files).some((word) => /^(?:ironclaw\.|systemd\.)?(?:verity|roothash)=/.test(word));
  return measured ? null : { expected, got: `${type} on ${device}, read-only, no root hash on the command line` };
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
