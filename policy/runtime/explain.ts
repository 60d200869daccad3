import { type Condition, MAPPING_CALLS, type Profile, type SyscallRule } from "./profile.ts";

/** A profile as text for a person who decides about it: what the library can do, what is denied and seen, what is left. */
export function explainProfile(profile: Profile): string {
  const files = profile.landlock.map(
    ({ access, path }) => `  ${access === "read" ? "read" : "read and write"} below ${path}`,
  );
  const limits = profile.limits.map(({ resource, value }) => `  ${resource} ${value}`);
  const lines = [
    `profile ${profile.name} (${profile.arch})`,
    "files (all else is denied, nothing can be executed):",
    ...files,
    "limits:",
    ...limits,
    "while the library loads and logs in it may call:",
    ...profile.load.map(line),
    "after ARM it may still call:",
    ...profile.serve.map(line),
    "denied, counted and shown to the agent:",
    ...profile.watch.map(line),
    "every other call is denied (EPERM); int 0x80 and x32 calls kill the process",
    `${MAPPING_CALLS.join(", ")} cannot touch the 4 GiB where the later filters wait`,
  ];
  return `${lines.join("\n")}\n`;
}

function line(rule: SyscallRule): string {
  const conditions = rule.conditions.map(condition).join(" and ");
  return conditions === "" ? `  ${rule.syscall}` : `  ${rule.syscall}, if ${conditions}`;
}

function condition({ arg, test, value }: Condition): string {
  const number = `0x${value.toString(16)}`;
  if (test === "is") return `argument ${arg} is ${number}`;
  return test === "only"
    ? `argument ${arg} has no bits but ${number}`
    : `argument ${arg} has none of the bits ${number}`;
}
