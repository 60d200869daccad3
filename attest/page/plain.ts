import type { IconName } from "./icons.ts";

/** States of a machine as the service names them, and the tiers of a result; the worst first. */
export const states = ["contraindicated", "refused", "warning", "silent", "enrolled", "affirming"] as const;
export type State = (typeof states)[number];

interface StateWords {
  readonly word: string;
  readonly icon: IconName;
  readonly means: string;
}

export const stateWords: Readonly<Record<State, StateWords>> = {
  contraindicated: {
    word: "Contraindicated",
    icon: "cross",
    means: "The report is genuine, and what it says is not acceptable. Do not rely on this machine.",
  },
  refused: {
    word: "Refused",
    icon: "refused",
    means: "The report did not verify. Nothing in it is known to be true.",
  },
  warning: {
    word: "Warning",
    icon: "warn",
    means: "The report is genuine and acceptable, and something in it deserves a look.",
  },
  silent: {
    word: "Silent",
    icon: "silent",
    means: "No report for longer than the interval allows. What the machine does now is unknown.",
  },
  enrolled: { word: "Enrolled", icon: "new", means: "The machine is known. No report has come yet." },
  affirming: {
    word: "Affirming",
    icon: "check",
    means: "The report is genuine and agrees with its release and the policy in every point.",
  },
};

const assurance: Readonly<Record<string, string>> = {
  "software-tpm": "Software TPM: whoever runs the host can copy its keys",
  "provider-ek": "Provider's TPM: the provider vouches for its keys",
  "hardware-ek": "Hardware TPM: a maker's certificate vouches for the chip",
};

export function assuranceMeaning(name: string): string {
  return assurance[name] ?? "A class that this page does not know";
}

const flags: Readonly<Record<string, string>> = {
  rebooted: "Started again since its last report",
  changed: "What it measured is not what it measured before",
  clone: "Two machines answer with the same TPM state",
  violation: "The library tried a call that its sandbox denies, or a device came",
  "rolled-back": "A counter, clock or log went back",
  silent: "No report for longer than the interval allows",
};

export function flagMeaning(name: string): string {
  return flags[name] ?? "A flag that this page does not know";
}

const pcrs: Readonly<Record<number, string>> = {
  0: "Firmware code",
  1: "Firmware settings",
  2: "Option ROMs",
  3: "Option ROM settings",
  4: "Boot loader, and what was tried before it",
  5: "Partition table and boot settings",
  6: "Platform maker's own use",
  7: "Secure Boot state",
  8: "Boot loader's commands",
  9: "Initial file system and options, as the kernel loads them",
  10: "Kernel's integrity measurements",
  11: "Unified kernel image, section by section",
  12: "Command line and credentials from outside the image",
  13: "The agent's own log: library, policy, keys, cap",
  14: "Keys that the shim loader adds",
};

/** What is in a PCR, in plain words. */
export function pcrMeaning(pcr: number): string {
  return pcrs[pcr] ?? "Not used by this project";
}

/** Steps of a launch in their order, each a kind of event in the agent's log. */
export const launchSteps: readonly { readonly kind: string; readonly label: string }[] = [
  { kind: "config", label: "Configuration measured" },
  { kind: "anchors", label: "Trust anchors measured" },
  { kind: "policy", label: "Policy measured" },
  { kind: "profile", label: "Sandbox profile measured" },
  { kind: "library", label: "PKCS#11 library measured" },
  { kind: "closure", label: "Everything the library loads measured" },
  { kind: "file", label: "Files of the library measured" },
  { kind: "environment", label: "Environment measured" },
  { kind: "devices", label: "Devices measured" },
  { kind: "token", label: "Logged in to tokens" },
  { kind: "key", label: "Keys checked" },
  { kind: "cap", label: "PCR 13 capped" },
];

const laterSteps: Readonly<Record<string, string>> = {
  violation: "Denied call of the library, or a device that came or went",
  "shim-replaced": "Library's process replaced",
  narrowed: "Policy narrowed",
  anchor: "Audit log anchored",
};

export function stepLabel(kind: string): string {
  return launchSteps.find((step) => step.kind === kind)?.label ?? laterSteps[kind] ?? kind;
}

const launches: Readonly<Record<string, string>> = {
  booted: "started, nothing measured yet",
  measuring: "measuring",
  refused: "ended: the agent refused to serve",
  unsealing: "asking the TPM for the credential",
  "logging-in": "logging in to its tokens",
  "checking-keys": "checking its keys",
  capping: "capping PCR 13",
  serving: "serving",
  draining: "finishing its last requests",
  stopped: "stopped",
};

export function launchMeaning(name: string): string {
  return launches[name] ?? name;
}

/** Whether a kind of event in a machine's history is a state, a flag or something else. */
export function knownEvent(kind: string): "state" | "flag" | "other" {
  if ((states as readonly string[]).includes(kind)) return "state";
  return Object.hasOwn(flags, kind) ? "flag" : "other";
}
