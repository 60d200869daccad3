import type { Outcome } from "./hostile-lab.ts";

// What the laboratory measured, as the tables of test/hostile/README.md.

/** One attempt at one place: what it got, and which calls the kernel showed to the agent for it. */
export interface Measured {
  readonly name: string;
  /** 0: it worked. */
  readonly errno: number;
  readonly shown: Readonly<Record<string, number>>;
}

export interface Row {
  readonly attempt: string;
  readonly from: string;
  readonly blockedBy: string;
  readonly recordedAs: string;
}

/** What works, and why it may. */
export const HARMLESS: Readonly<Record<string, string>> = {
  "before ARM: new executable memory": "allowed: the loader maps the library so",
  "before ARM: code that it wrote itself": "allowed: the loader relocates so; no page stays writable and executable",
  "before ARM: a measured file, mapped as code again": "allowed: its bytes were measured",
  "before ARM: a new file in its own directory": "allowed: its directory, 16 MiB, noexec",
  "before ARM: a nameless file in its own directory": "allowed: its directory, 16 MiB, noexec",
  "before ARM: more of a file that it kept open": "allowed: its directory, 16 MiB, noexec",
  "after ARM: more of a file that it kept open": "allowed: a file that it opened before ARM, 1 MiB at most",
};

const EPERM = 1;
const BY_ERRNO: Readonly<Record<number, string>> = {
  1: "filter",
  2: "private root: not there",
  12: "limit `as`",
  13: "Landlock",
  24: "limit `nofile`",
  27: "limit `fsize`",
  28: "size of its directory",
  30: "private root: read-only",
  38: "filter: no such call",
  101: "network namespace: leads nowhere",
  106: "the kernel: connected already",
  111: "network namespace: nobody listens",
};

/** Refusals whose errno alone would name the wrong one. */
const BY_NAME: Readonly<Record<string, string>> = {
  "before ARM: a file that it writes, mapped as code": "its directory is `noexec`",
  "8 MiB of locked memory": "limit `memlock`",
  "memory at an address with bit 63": "the kernel: no such address",
  "a Unix socket of the machine by its path": "private root: not there",
};

export type Stage = "before ARM" | "after ARM";

/** What else a profile opens: `STAGE: attempt`. Whether it works then is for its arguments to say. */
export type Opened = ReadonlySet<string>;

const always = (...names: readonly string[]) => names.flatMap((name) => [`before ARM: ${name}`, `after ARM: ${name}`]);
const early = (...names: readonly string[]) => names.map((name) => `before ARM: ${name}`);

/** What each of them opens; anything else that works is a hole. */
export const OPENED: Readonly<Record<"relay" | "usb", Opened>> = {
  relay: new Set([
    ...always("a TCP socket", "a Unix stream socket", "connect", "recvfrom", "getpeername", "shutdown"),
    ...early("a thread (pthread_create)", "eventfd2"),
  ]),
  usb: new Set(
    early(
      ...["a netlink socket for device events", "a thread (pthread_create)", "recvfrom", "setsockopt"],
      ...["eventfd2", "timerfd_create"],
    ),
  ),
};

/** Throws for an attempt that worked and that nobody has excused. */
export function rowOf(stage: Stage, { name, errno, shown }: Measured, opened: Opened = new Set()): Row {
  const key = `${stage}: ${name}`;
  const calls = Object.entries(shown).map(([call, count]) => `\`${call}\`${count > 1 ? ` x ${count}` : ""}`);
  const recordedAs = calls.length === 0 ? "" : calls.length > 8 ? `${calls.length} calls` : calls.join(", ");
  if (opened.has(key)) {
    if (recordedAs !== "" || errno === EPERM) throw new Error(`${key}: not open, as was said`);
    return { attempt: name, from: stage, blockedBy: "not: the profile opens it", recordedAs };
  }
  if (errno === 0) {
    const why = HARMLESS[key];
    if (why === undefined) throw new Error(`${key}: it worked`);
    return { attempt: name, from: stage, blockedBy: why, recordedAs };
  }
  if (recordedAs !== "" && errno !== EPERM) throw new Error(`${key}: shown to the agent, and errno ${errno}`);
  const blockedBy = BY_NAME[key] ?? BY_NAME[name] ?? BY_ERRNO[errno];
  if (blockedBy === undefined) throw new Error(`${key}: errno ${errno}, which nothing here explains`);
  return { attempt: name, from: stage, blockedBy, recordedAs };
}

/** One row where both stages say the same. */
export function mergeStages(before: readonly Row[], after: readonly Row[]): Row[] {
  return before.flatMap((row, index) => {
    const later = after[index];
    if (later === undefined || later.attempt !== row.attempt) throw new Error(`${row.attempt}: not tried after ARM`);
    const same = later.blockedBy === row.blockedBy && later.recordedAs === row.recordedAs;
    return same ? [{ ...row, from: "everywhere" }] : [row, later];
  });
}

/** Of both stages. */
export function rowsOf(
  { before, after }: { before: readonly Measured[]; after: readonly Measured[] },
  opened?: Opened,
): Row[] {
  return mergeStages(
    before.map((one) => rowOf("before ARM", one, opened)),
    after.map((one) => rowOf("after ARM", one, opened)),
  );
}

/** What an act came to: the request that failed first, what the agent was told, what became of the process. */
export interface Act {
  readonly name: string;
  readonly from: string;
  readonly agent: string;
  readonly shim: string;
}

export function tell(outcome: Outcome): string {
  if (outcome.kind === "answer") return `answer \`${outcome.text.replace(/[^\x20-\x7e]/g, "?")}\``;
  return outcome.rv === undefined ? outcome.code : `${outcome.code} 0x${outcome.rv.toString(16)}`;
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  return [line(head), line(head.map(() => "---")), ...rows.map(line)].join("\n");
}

export function attemptTable(rows: readonly Row[]): string {
  return table(
    ["attempt", "from", "blocked by", "shown to the agent"],
    rows.map(({ attempt, from, blockedBy, recordedAs }) => [attempt, from, blockedBy, recordedAs]),
  );
}

export function actTable(acts: readonly Act[]): string {
  return table(
    ["act", "from", "the agent sees", "the shim"],
    acts.map(({ name, from, agent, shim }) => [name, from, agent, shim]),
  );
}
