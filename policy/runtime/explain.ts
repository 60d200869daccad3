import { ALWAYS, ARGUMENTS, FILE_ACCESS, GROUPS, LIMITS, OPENED } from "./explain-words.ts";
import { type Condition, MAPPING_CALLS, type Profile, type SyscallRule } from "./profile.ts";

/**
 * A profile as text for the person who decides about it. Complete: every rule, path and limit is in it. Says what the
 * kernel is asked to permit, not that a kernel has all it takes (`features.ts`) nor that a library works under it.
 */
export function explainProfile(profile: Profile): string {
  return `${[
    `profile ${profile.name}: what a PKCS#11 library may do in a shim (${profile.arch})`,
    ...openings(profile),
    ...section("Always, whatever the profile says", ALWAYS),
    ...section("Files (everything else is denied)", files(profile)),
    ...section("Execution", [
      "nothing is executed: no program, no process. New code is mapped from the root's files until ARM; a page is never",
      "writable and executable at once",
    ]),
    ...section(
      "Limits",
      profile.limits.map(({ resource, value }) => `${resource} ${value}: ${LIMITS[resource]}`),
    ),
    ...calls(profile),
    ...section("What ARM takes away, before the first signature is asked for", taken(profile)),
    ...section(
      profile.opens.some((opening) => opening === "thread" || opening === "device")
        ? "Denied and shown to the agent (EPERM), but for what the exceptions above say"
        : "Denied and shown to the agent, each time (EPERM)",
      wrapped(profile.watch.map((rule) => shown(profile, rule))),
    ),
    ...section("Denied and not shown", quiet(profile)),
  ].join("\n")}\n`;
}

function section(title: string, lines: readonly string[]): readonly string[] {
  return ["", title, ...lines.map((line) => `  ${line}`)];
}

function openings({ opens }: Profile): readonly string[] {
  if (opens.length === 0)
    return section("Exceptions", ["none: it reaches no endpoint and no device, and starts no thread"]);
  return section(
    "EXCEPTIONS: what this profile opens and `local` keeps shut",
    opens.flatMap((opening) => OPENED[opening].map((line, at) => `${at === 0 ? `${opening}: ` : "  "}${line}`)),
  );
}

function files({ landlock }: Profile): readonly string[] {
  return landlock.map(({ access, path }) => `below ${path}: ${FILE_ACCESS[access]}`);
}

/** All calls of stage load, by group; stage serve has no call that stage load lacks (linter). */
function calls(profile: Profile): readonly string[] {
  const names = [...new Set([...profile.load, ...profile.serve].map(({ syscall }) => syscall))];
  const grouped = new Set(GROUPS.flatMap(({ calls: list }) => list.split(" ")));
  const groups = [
    ...GROUPS.map(({ title, calls: list }) => ({
      title,
      members: list.split(" ").filter((name) => names.includes(name)),
    })),
    { title: "other", members: names.filter((name) => !grouped.has(name)) },
  ].filter(({ members }) => members.length > 0);
  return [
    ...section("Calls, by what they are for", []),
    ...groups.flatMap(({ title, members }) => [`  to ${title}`, ...groupLines(profile, members)]),
  ];
}

function groupLines(profile: Profile, members: readonly string[]): readonly string[] {
  const free = members.filter((name) => always(profile.load, name) && always(profile.serve, name));
  const early = members.filter(
    (name) => always(profile.load, name) && !profile.serve.some(({ syscall }) => syscall === name),
  );
  const others = members.filter((name) => !free.includes(name) && !early.includes(name));
  return [
    ...wrapped(free),
    ...wrapped(early).map((line) => `until ARM only: ${line}`),
    ...others.flatMap((name) => callLines(profile, name)),
  ].map((line) => `    ${line}`);
}

function callLines(profile: Profile, name: string): readonly string[] {
  const load = alternatives(profile.load, name);
  const serve = alternatives(profile.serve, name);
  if (serve.length === 0) return [`${name}, until ARM only:`, ...indented(load)];
  if (load.join("\n") === serve.join("\n")) return [`${name}:`, ...indented(load)];
  return [
    `${name}, until ARM${load.join("") === "" ? "" : ":"}`,
    ...indented(load),
    `${name}, after ARM${serve.join("") === "" ? "" : ":"}`,
    ...indented(serve),
  ];
}

const indented = (lines: readonly string[]): readonly string[] =>
  lines.filter((line) => line !== "").map((line) => `  if ${line}`);

function always(rules: readonly SyscallRule[], name: string): boolean {
  return rules.some(({ syscall, conditions }) => syscall === name && conditions.length === 0);
}

/** The conditions under which a call is allowed, one line each: "" for none, and no line when it is not allowed. */
function alternatives(rules: readonly SyscallRule[], name: string): readonly string[] {
  if (always(rules, name)) return [""];
  const lines: string[] = [];
  const single = new Map<string, string[]>();
  for (const { syscall, conditions } of rules) {
    if (syscall !== name) continue;
    const [first, ...rest] = conditions;
    if (first === undefined) continue;
    // alternatives that differ in one value only are one line
    const head =
      [...rest, ...(first.test === "is" ? [] : [first])].length === 0 ? `${argument(name, first)} is ` : null;
    if (head === null) lines.push(conditions.map((condition) => conditionText(name, condition)).join(" and "));
    else single.set(head, [...(single.get(head) ?? []), first.written]);
  }
  return [...[...single].flatMap(([head, values]) => wrapped(values).map((line) => head + line)), ...lines];
}

/** What stage serve lacks or narrows. */
function taken(profile: Profile): readonly string[] {
  const names = [...new Set(profile.load.map(({ syscall }) => syscall))];
  const gone = names.filter((name) => !profile.serve.some(({ syscall }) => syscall === name));
  const narrower = names.filter(
    (name) =>
      !gone.includes(name) &&
      alternatives(profile.load, name).join("\n") !== alternatives(profile.serve, name).join("\n"),
  );
  return [
    ...(gone.length === 0 ? [] : wrapped(gone).map((line, at) => `${at === 0 ? "no more: " : "  "}${line}`)),
    ...(narrower.length === 0 ? [] : wrapped(narrower).map((line, at) => `${at === 0 ? "narrower: " : "  "}${line}`)),
    "the PIN's channel is closed, no memory becomes executable, and no file is opened for writing",
  ];
}

function quiet({ absent }: Profile): readonly string[] {
  return [
    "every call that is not named above: EPERM",
    ...(absent.length === 0 ? [] : [`${absent.map(({ syscall }) => syscall).join(", ")}: ENOSYS`]),
    "sendmsg, recvmsg, sendmmsg, recvmmsg from before the library is loaded on: no descriptor travels",
    `${MAPPING_CALLS.join(", ")} over the 4 GiB where the later filters wait`,
    "a call through another entry (int 0x80, x32) ends the process",
  ];
}

function shown({ load }: Profile, { syscall, conditions }: SyscallRule): string {
  if (conditions.length === 0) return load.some((rule) => rule.syscall === syscall) ? `${syscall} otherwise` : syscall;
  return `${syscall} if ${conditions.map((condition) => conditionText(syscall, condition)).join(" and ")}`;
}

function conditionText(call: string, condition: Condition): string {
  const { test, written } = condition;
  const what = argument(call, condition);
  if (test === "is") return `${what} is ${written}`;
  return test === "only" ? `${what} has nothing but ${written}` : `${what} lacks ${written}`;
}

function argument(call: string, { arg }: Condition): string {
  return ARGUMENTS[call]?.[arg] ?? `argument ${arg}`;
}

/** Words joined by commas, in lines of a readable length. */
function wrapped(words: readonly string[]): readonly string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of words) {
    if (line !== "" && line.length + word.length > 108) {
      lines.push(`${line},`);
      line = word;
    } else line = line === "" ? word : `${line}, ${word}`;
  }
  return line === "" ? lines : [...lines, line];
}
