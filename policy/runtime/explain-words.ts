import type { Access, Opening, Resource } from "./profile.ts";

/** Calls by what they are for, in the order in which an explanation names them. What no group names is `other`. */
export const GROUPS: readonly { readonly title: string; readonly calls: string }[] = [
  {
    title: "start a connection and use it",
    calls:
      "socket connect bind sendto recvfrom shutdown getsockname getpeername getsockopt setsockopt socketpair listen accept accept4 sendmmsg recvmmsg recvmsg",
  },
  { title: "give orders to a device", calls: "ioctl" },
  { title: "start threads", calls: "clone clone3 rseq set_robust_list" },
  {
    title: "open, read and write files",
    calls:
      "openat read write close newfstatat fstat stat lstat statx lseek pread64 pwrite64 readv writev access faccessat faccessat2 getdents64 readlink readlinkat fcntl ftruncate fsync fdatasync",
  },
  { title: "use memory", calls: "mmap mprotect munmap madvise brk mlock mlock2 munlock" },
  {
    title: "wait, and keep others waiting",
    calls:
      "poll ppoll select pselect6 futex eventfd2 timerfd_create timerfd_settime nanosleep clock_nanosleep sched_yield restart_syscall",
  },
  { title: "tell the time, draw randomness", calls: "clock_gettime gettimeofday time getrandom" },
  { title: "ask who and where it is", calls: "getpid gettid getuid geteuid getgid getegid uname prctl" },
  { title: "handle signals, end", calls: "rt_sigaction rt_sigprocmask rt_sigreturn exit exit_group" },
  { title: "hand the kernel's notifier to the agent, once, before the library is loaded", calls: "sendmsg" },
];

/** What the arguments of a call are called. */
export const ARGUMENTS: Readonly<Record<string, Readonly<Record<number, string>>>> = {
  openat: { 2: "flags" },
  mmap: { 2: "protection" },
  mprotect: { 2: "protection" },
  fcntl: { 1: "command", 2: "flags" },
  prctl: { 0: "option" },
  ioctl: { 1: "request" },
  clone: { 0: "flags" },
  socket: { 0: "family", 1: "type", 2: "protocol" },
  bind: { 2: "size of the address" },
  sendto: { 3: "flags", 4: "address", 5: "size of the address" },
  recvfrom: { 3: "flags" },
  setsockopt: { 1: "level", 2: "option" },
  getsockopt: { 1: "level", 2: "option" },
};

export const FILE_ACCESS: Readonly<Record<Access, string>> = {
  read: "read",
  write: "read; write, make and remove files in the directories that the policy makes writable",
  device: "read, write and order what device nodes the root has (only those that the policy names)",
};

export const LIMITS: Readonly<Record<Resource, string>> = {
  core: "bytes of a core dump",
  nproc: "processes and threads of its user, itself included",
  msgqueue: "bytes in message queues",
  nofile: "open files",
  fsize: "bytes in a file that it writes",
  memlock: "bytes of locked memory",
  as: "bytes of address space",
  data: "bytes of data",
  stack: "bytes of stack",
  cpu: "seconds of processor time",
};

/** What each exception opens and what then still stands in the way. */
export const OPENED: Readonly<Record<Opening, readonly string[]>> = {
  inet: [
    "It may start TCP connections, over IPv4 and IPv6.",
    "Still in the way: its network namespace is its own and reaches no network. In it listens the relay alone, on the addresses",
    "that the policy lists under `connect`, and passes each connection on to the one endpoint named there. There is no UDP, so no",
    "name is looked up; it cannot listen or accept. What the library says to that endpoint is not looked at: whoever holds the",
    "endpoint can talk with the library, and a hostile library can tell it all it knows, the PIN included.",
  ],
  unix: [
    "It may connect to Unix sockets.",
    "Still in the way: of its root's paths only the relay's are sockets, those that the policy lists under `connect`; each leads to",
    "one endpoint. Abstract sockets are in the network namespace, where nobody else is. No descriptor is sent or received. What",
    "the library says to that endpoint is not looked at, as with TCP.",
  ],
  netlink: [
    "It may open the netlink socket of the kernel's device events, without which libusb does not start.",
    "Still in the way: no other netlink family, and orders to the kernel need a capability that it does not have. It can learn that",
    "devices come and go.",
  ],
  thread: [
    "It may start threads: libraries with an event loop do so when they are initialised.",
    "Still in the way: a thread is part of the same process, and all filters hold for it; after ARM none is started. A process is",
    "never made: the flags must be exactly those of a thread. clone3, whose flags no filter can see, is answered as if the kernel",
    "did not have it, and those answers are not shown to the agent.",
    "Not shown: an attempt during which another thread ends the process. It is denied, and the shim is gone.",
  ],
  device: [
    "It may order device nodes to carry USB transfers.",
    "Still in the way: its /dev has the nodes that the policy names and no other, and only the requests listed below pass. It cannot",
    "reset a device, take it from a kernel driver or speak to one. The device sees whatever the library sends.",
    "Not shown: an attempt that is interrupted, before the agent's notifier has received it, by the signal that a transfer may name",
    "for its end (USBDEVFS_SUBMITURB). A library can arrange that. The attempt is denied all the same.",
  ],
};

/** What the spawner gives every shim, whatever its profile says (agent/SPAWNER.md). */
export const ALWAYS: readonly string[] = [
  "a user of its own, no supplementary group, no capability in any set, no_new_privs",
  "mount, PID, network, IPC, UTS, cgroup and user namespaces of its own: it sees no other process and no network",
  "a root of its own: exactly the measured files, read-only, without /proc and /sys; written is only memory that ends with it",
  "the descriptors 0 to 4: nothing, its requests, its PIN; the PIN's is closed by ARM",
  "it is killed when the spawner ends, is first to end when memory runs out, and cannot be traced or dumped",
];
