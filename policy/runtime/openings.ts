import { bitsOf } from "./constants.ts";
import type { Condition, Opening, Profile, SyscallRule } from "./profile.ts";

/** A test that a rule must make at least as strictly. */
interface Bound {
  readonly arg: number;
  readonly test: "is" | "only";
  readonly value: bigint;
}

/** The widest rules for one call that a profile with this opening may have: the rule must keep to one list of `shapes`. */
interface OpenedCall {
  readonly syscall: string;
  readonly opening: Opening;
  readonly shapes: readonly (readonly Bound[])[];
}

const is = (arg: number, ...names: readonly string[]): Bound[] =>
  names.map((name) => ({ arg, test: "is", value: bitsOf(name) }));
const only = (arg: number, names: string): Bound => ({ arg, test: "only", value: bitsOf(names) });

/** Every way to write one value for each of the arguments. */
function eachOf(...choices: readonly (readonly Bound[])[]): readonly (readonly Bound[])[] {
  return choices.reduce<readonly (readonly Bound[])[]>(
    (shapes, choice) => shapes.flatMap((shape) => choice.map((bound) => [...shape, bound])),
    [[]],
  );
}

const STREAM = only(1, "SOCK_STREAM|SOCK_NONBLOCK|SOCK_CLOEXEC");
/** The flags with which the C library starts a thread: nothing less shared, no namespace, no exit signal. */
const THREAD =
  "CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD|CLONE_SYSVSEM|CLONE_SETTLS|CLONE_PARENT_SETTID|CLONE_CHILD_CLEARTID";
const NODE_REQUESTS = [
  "USBDEVFS_CONTROL",
  "USBDEVFS_BULK",
  "USBDEVFS_SETINTERFACE",
  "USBDEVFS_SETCONFIGURATION",
  "USBDEVFS_GETDRIVER",
  "USBDEVFS_SUBMITURB",
  "USBDEVFS_DISCARDURB",
  "USBDEVFS_REAPURB",
  "USBDEVFS_REAPURBNDELAY",
  "USBDEVFS_CLAIMINTERFACE",
  "USBDEVFS_RELEASEINTERFACE",
  "USBDEVFS_CLEAR_HALT",
  "USBDEVFS_GET_CAPABILITIES",
  "USBDEVFS_GET_SPEED",
];
const TCP_OPTIONS = eachOf(
  is(1, "IPPROTO_TCP"),
  is(2, "TCP_NODELAY", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT"),
);
const socketOptions = (...names: readonly string[]) => eachOf(is(1, "SOL_SOCKET"), is(2, ...names));
const STREAM_OPTIONS = [
  ...TCP_OPTIONS,
  ...socketOptions(
    ...["SO_KEEPALIVE", "SO_LINGER", "SO_RCVTIMEO", "SO_SNDTIMEO", "SO_RCVBUF", "SO_SNDBUF", "SO_REUSEADDR"],
  ),
];
const TO_THE_OTHER_END = [[only(3, "MSG_DONTWAIT|MSG_NOSIGNAL|MSG_MORE"), ...is(4, "0"), ...is(5, "0")]];
const RECEIVE = [[only(3, "MSG_PEEK|MSG_TRUNC|MSG_DONTWAIT|MSG_WAITALL|MSG_NOSIGNAL")]];

/** Calls that start a stream connection and carry it. A profile that opens `inet` or `unix` may have them. */
function streamCalls(opening: "inet" | "unix"): readonly OpenedCall[] {
  const families =
    opening === "inet"
      ? eachOf(is(0, "AF_INET", "AF_INET6"), [STREAM], is(2, "0", "IPPROTO_TCP"))
      : eachOf(is(0, "AF_UNIX"), [STREAM], is(2, "0"));
  return [
    { syscall: "socket", opening, shapes: families },
    { syscall: "connect", opening, shapes: [[]] },
    { syscall: "sendto", opening, shapes: TO_THE_OTHER_END },
    { syscall: "recvfrom", opening, shapes: RECEIVE },
    { syscall: "setsockopt", opening, shapes: STREAM_OPTIONS },
    // not SO_PEERPIDFD and its like: the shim's own descriptors are sockets too, and the agent is at their other end
    { syscall: "getsockopt", opening, shapes: [...STREAM_OPTIONS, ...socketOptions("SO_ERROR", "SO_TYPE")] },
  ];
}

/** The exceptions that there are, and how far each goes. A call that is not named here cannot be opened at all. */
const OPENED: readonly OpenedCall[] = [
  ...streamCalls("inet"),
  ...streamCalls("unix"),
  {
    syscall: "socket",
    opening: "netlink",
    shapes: eachOf(
      is(0, "AF_NETLINK"),
      [only(1, "SOCK_RAW|SOCK_NONBLOCK|SOCK_CLOEXEC")],
      is(2, "NETLINK_KOBJECT_UEVENT"),
    ),
  },
  // 12 is the size of a netlink address: what names a port or a path is longer
  { syscall: "bind", opening: "netlink", shapes: [is(2, "12")] },
  { syscall: "recvfrom", opening: "netlink", shapes: RECEIVE },
  {
    syscall: "setsockopt",
    opening: "netlink",
    shapes: socketOptions("SO_RCVBUF", "SO_ATTACH_FILTER", "SO_PASSCRED"),
  },
  { syscall: "getsockopt", opening: "netlink", shapes: socketOptions("SO_RCVBUF", "SO_ERROR", "SO_TYPE") },
  { syscall: "clone", opening: "thread", shapes: [is(0, THREAD)] },
  { syscall: "ioctl", opening: "device", shapes: eachOf(is(1, ...NODE_REQUESTS)) },
];

/** Without one of these an opening is declared and not used. */
const MARKS: Readonly<Record<Exclude<Opening, "device">, readonly Bound[]>> = {
  inet: is(0, "AF_INET", "AF_INET6"),
  unix: is(0, "AF_UNIX"),
  netlink: is(0, "AF_NETLINK"),
  thread: is(0, THREAD),
};

/** Why an opening lets a call be unwatched: every attempt is either allowed, or said in the text to be of no interest. */
const UNWATCHED: Readonly<Record<string, readonly Opening[]>> = {
  connect: ["inet", "unix"],
  sendto: ["inet", "unix"],
  // RPC libraries try for a reserved port before they connect; libudev binds the netlink socket
  bind: ["inet", "netlink"],
  clone3: ["thread"],
};

/** The opening under which this rule may stand, or undefined: then the call cannot be opened so. */
export function openingOf(profile: Profile, rule: SyscallRule): Opening | undefined {
  return OPENED.find(
    ({ syscall, opening, shapes }) =>
      syscall === rule.syscall &&
      profile.opens.includes(opening) &&
      shapes.some((shape) => shape.every((bound) => rule.conditions.some((condition) => keepsTo(condition, bound)))),
  )?.opening;
}

/** True for a call that some opening lets a profile allow, with the right conditions. */
export function canBeOpened(syscall: string): boolean {
  return OPENED.some((opened) => opened.syscall === syscall);
}

export function mayBeUnwatched(profile: Profile, syscall: string): boolean {
  return (UNWATCHED[syscall] ?? []).some((opening) => profile.opens.includes(opening));
}

/** Declared openings of which no rule makes use. */
export function unusedOpenings({ opens, load, landlock }: Profile): readonly Opening[] {
  return opens.filter((opening) => {
    if (opening === "device") return !landlock.some(({ access }) => access === "device");
    const marks = MARKS[opening];
    const syscall = opening === "thread" ? "clone" : "socket";
    return !load.some(
      (rule) =>
        rule.syscall === syscall && marks.some((mark) => rule.conditions.some((condition) => keepsTo(condition, mark))),
    );
  });
}

/** True when whatever passes `condition` also passes `bound`. */
function keepsTo({ arg, test, value }: Condition, bound: Bound): boolean {
  if (arg !== bound.arg || test === "without") return false;
  if (bound.test === "is") return test === "is" && value === bound.value;
  return (value & ~bound.value) === 0n;
}
