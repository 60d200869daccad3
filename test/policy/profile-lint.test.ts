import { describe, expect, test } from "vitest";
import { PolicyError } from "../../policy/errors.ts";
import { compileProfile } from "../../policy/runtime/compile.ts";
import { lintProfile } from "../../policy/runtime/lint.ts";
import { parseProfile } from "../../policy/runtime/parse.ts";
import { PROFILE_NAMES, type ProfileName, profileText, readProfile } from "../../vm-images/profiles.ts";

const text = profileText("local");

describe("the linter", () => {
  const findings = (change: (before: string) => string): readonly string[] =>
    lintProfile(parseProfile(change(text))).map(({ about }) => about);

  test.each(PROFILE_NAMES)("I5: the shipped profile %s has no finding", (name) => {
    expect(lintProfile(readProfile(profileText(name)))).toEqual([]);
  });

  test("I5: a profile that allows a dangerous call is refused and not compiled", () => {
    const names =
      "execve execveat fork vfork clone clone3 ptrace io_uring_setup io_uring_enter bpf userfaultfd seccomp mremap kill mount setns socket recvmsg " +
      "io_setup io_submit timer_create setitimer alarm setrlimit arch_prctl mbind set_mempolicy sched_setattr sched_setaffinity setpriority " +
      "chmod fchmod fchmodat2 fchown setxattr link rename symlink lsm_set_self_attr openat2 getsockopt";
    for (const name of names.split(" ")) {
      const worse = text.replace("stage load\n", `stage load\nallow ${name}\n`);
      expect(
        lintProfile(parseProfile(worse)).map(({ about }) => about),
        name,
      ).toContain(name);
      expect(() => compileProfile(parseProfile(worse)), name).toThrow(PolicyError);
    }
  });

  test("I5: a profile that forgets to watch, to limit or to keep new code out is refused", () => {
    expect(findings((t) => t.replace("watch seccomp\n", ""))).toContain("seccomp");
    expect(findings((t) => t.replace("watch prctl when arg0 is PR_SET_SECCOMP\n", ""))).toContain("prctl");
    expect(findings((t) => t.replace("limit core 0", "limit core 1"))).toContain("core");
    for (const name of ["mmap", "mprotect"]) {
      const rule = `allow ${name} when arg2 without PROT_EXEC`;
      expect(findings((t) => t.replace(rule, `allow ${name}`))).toEqual([name]);
      expect(findings((t) => t.replace(rule, `allow ${name} when arg2 without PROT_READ`))).toEqual([name]);
    }
    const [load = "", serve = ""] = text.split("stage serve\n");
    expect(findings(() => `${load}stage serve\n${serve.replace("PROT_EXEC", "PROT_WRITE")}`)).toEqual(["mmap"]);
    expect(findings((t) => t.replace("allow prctl when arg0 is PR_SET_NAME", "allow prctl"))).toContain("prctl");
    expect(findings((t) => t.replace("arg0 is PR_SET_NAME", "arg0 is PR_SET_SECCOMP"))).toContain("prctl");
    for (const option of ["4", "22", "35", "38", "59", "0x59616d61", "0x100000000"])
      expect(
        findings((t) => t.replace("stage load\n", `stage load\nallow prctl when arg0 is ${option}\n`)),
        option,
      ).toContain("prctl");
    expect(findings((t) => t.replace("landlock read /", "landlock write /"))).toContain("/");
    expect(findings((t) => `${t}allow uname\n`)).toContain("uname");
  });
});

describe("what a profile may open", () => {
  /** What the linter says about a shipped profile after a change that must really be one. */
  function changed(name: ProfileName, before: string | RegExp, after: string): readonly string[] {
    const original = profileText(name);
    const other = original.replace(before, after);
    expect(other, `${before}`).not.toBe(original);
    const profile = readProfile(other);
    const findings = lintProfile(profile).map(({ about }) => about);
    if (findings.length > 0) expect(() => compileProfile(profile)).toThrow(PolicyError);
    return findings;
  }

  const STREAM = "arg1 only SOCK_STREAM|SOCK_NONBLOCK|SOCK_CLOEXEC";

  test.each([
    ["relay", "opens inet unix thread", "opens unix thread", "socket"],
    ["relay", "opens inet unix thread", "opens inet thread", "socket"],
    ["relay", "opens inet unix thread", "opens inet unix", "clone"],
    ["relay", /^opens .*\n/m, "", "connect"],
    ["usb", "opens netlink thread device", "opens thread device", "socket"],
    ["usb", "opens netlink thread device", "opens netlink device", "clone"],
    ["usb", "opens netlink thread device", "opens netlink thread", "ioctl"],
    ["usb", "opens netlink thread device", "opens netlink thread", "/dev"],
  ] as const)("I5: %s with `%s` as `%s` is refused for what it opens undeclared: %s", (name, before, after, about) => {
    expect(changed(name, before, after)).toContain(about);
  });

  test("I5: what is declared and not opened is refused, so that a declaration means something", () => {
    expect(changed("relay", "opens inet", "opens netlink inet")).toEqual(["netlink"]);
    expect(changed("relay", "unix thread", "unix device thread")).toEqual(["device"]);
    expect(changed("relay", /allow socket when arg0 is AF_UNIX .*\n/, "")).toEqual(["unix"]);
    expect(
      lintProfile(parseProfile(text.replace("arch x86_64", "arch x86_64\nopens inet"))).map((f) => f.about),
    ).toEqual(["inet"]);
  });

  test.each([
    ["a datagram socket", "allow socket when arg0 is AF_INET and arg1 is 2 and arg2 is 0"],
    ["a raw socket", "allow socket when arg0 is AF_INET and arg1 is SOCK_RAW and arg2 is 0"],
    ["multipath TCP", `allow socket when arg0 is AF_INET and ${STREAM} and arg2 is 262`],
    ["SCTP as a stream", `allow socket when arg0 is AF_INET and ${STREAM} and arg2 is 132`],
    ["any protocol", `allow socket when arg0 is AF_INET and ${STREAM}`],
    ["any type", "allow socket when arg0 is AF_INET and arg2 is 0"],
    ["any family", `allow socket when ${STREAM} and arg2 is 0`],
    ["vsock, which reaches the host", `allow socket when arg0 is 40 and ${STREAM} and arg2 is 0`],
    ["packet sockets", `allow socket when arg0 is 17 and ${STREAM} and arg2 is 0`],
    ["the routing netlink", "allow socket when arg0 is AF_NETLINK and arg1 only SOCK_RAW and arg2 is 0"],
    [
      "device events in a profile for streams",
      "allow socket when arg0 is AF_NETLINK and arg1 only SOCK_RAW and arg2 is 15",
    ],
    ["every socket", "allow socket"],
    ["a socket pair", "allow socketpair"],
    ["to bind", "allow bind"],
    ["to bind a netlink address", "allow bind when arg2 is 12"],
    ["to listen", "allow listen"],
    ["to accept", "allow accept"],
    ["to accept with flags", "allow accept4"],
    ["messages to anywhere", "allow sendto"],
    ["messages to an address", "allow sendto when arg3 only MSG_NOSIGNAL and arg4 is 0"],
    ["out-of-band data", "allow recvfrom when arg3 only MSG_PEEK|1"],
    ["descriptors in messages", "allow recvmsg"],
    ["several messages at once", "allow sendmmsg"],
    ["any socket option", "allow setsockopt"],
    ["any socket option to be read", "allow getsockopt"],
    ["any option of the socket level", "allow getsockopt when arg1 is SOL_SOCKET"],
    ["who is at the other end", "allow getsockopt when arg1 is SOL_SOCKET and arg2 is 17"],
    ["a pidfd of who is at the other end", "allow getsockopt when arg1 is SOL_SOCKET and arg2 is 77"],
    ["zero-copy receive", "allow getsockopt when arg1 is IPPROTO_TCP and arg2 is 35"],
    ["a filter on a stream", "allow setsockopt when arg1 is SOL_SOCKET and arg2 is SO_ATTACH_FILTER"],
    ["the kernel's own TLS", "allow setsockopt when arg1 is IPPROTO_TCP and arg2 is 31"],
    ["orders to a device", "allow ioctl when arg1 is USBDEVFS_CONTROL"],
  ])("I5: relay may not open %s", (_what, line) => {
    expect(changed("relay", "stage load\n", `stage load\n${line}\n`)).toContain(line.split(" ")[1]);
  });

  test.each([
    ["a process", "allow clone when arg0 is 17"],
    ["a process that shares memory", "allow clone when arg0 is CLONE_VM|17"],
    ["a thread in a new user namespace", "allow clone when arg0 is 0x103d0f00"],
    ["clone with only these flags or fewer", "allow clone when arg0 only 0x3d0f00"],
    ["clone3", "allow clone3"],
  ])("I5: no profile may start %s", (_what, line) => {
    for (const name of ["relay", "usb"] as const)
      expect(changed(name, "stage load\n", `stage load\n${line}\n`), name).toContain(line.split(" ")[1]);
  });

  test.each([
    ["a reset of the device", "allow ioctl when arg1 is 0x5514"],
    ["orders to the kernel's driver", "allow ioctl when arg1 is 0xc0105512"],
    ["the device taken from its driver", "allow ioctl when arg1 is 0x8108551b"],
    ["typing into a terminal", "allow ioctl when arg1 is 0x5412"],
    ["any request", "allow ioctl"],
    ["requests chosen by bits", "allow ioctl when arg1 only USBDEVFS_CONTROL"],
    ["any socket option to be read", "allow getsockopt"],
    ["a TCP option to be read", "allow getsockopt when arg1 is IPPROTO_TCP and arg2 is TCP_NODELAY"],
    ["a stream", `allow socket when arg0 is AF_INET and ${STREAM} and arg2 is 0`],
    ["an address to bind", "allow bind when arg2 is 16"],
    ["connections", "allow connect"],
  ])("I5: usb may not open %s", (_what, line) => {
    expect(changed("usb", "stage load\n", `stage load\n${line}\n`)).toContain(line.split(" ")[1]);
  });

  test.each([
    ["who gets a descriptor's signals", "arg1 is 8"],
    ["the signal of a descriptor", "arg1 is 10"],
    ["who gets a descriptor's signals, by thread", "arg1 is 15"],
    ["a lease", "arg1 is 1024"],
    ["news of a directory", "arg1 is 1026"],
    ["a larger pipe", "arg1 is 1031"],
    ["any status flag", "arg1 is F_SETFL"],
    ["asynchronous descriptors", "arg1 is F_SETFL and arg2 only O_RDWR|0x2000"],
    ["any command", "arg2 is 0"],
    ["commands chosen by bits", "arg1 only 7"],
  ])("I5: no profile may order fcntl %s", (_what, conditions) => {
    for (const name of PROFILE_NAMES)
      expect(changed(name, "stage load\n", `stage load\nallow fcntl when ${conditions}\n`), name).toContain("fcntl");
  });

  test("I5: after ARM no profile opens a file for writing, or makes or removes one", () => {
    const both = (rule: string): readonly string[] =>
      changed("local", "stage load\n", `stage both\nallow ${rule}\nstage load\n`);
    expect(both("openat")).toEqual(["openat"]);
    expect(both("openat when arg2 only O_RDWR|O_CLOEXEC")).toEqual(["openat"]);
    expect(both("open when arg1 only O_CREAT")).toEqual(["open"]);
    expect(both("open when arg1 only O_CLOEXEC")).toEqual([]);
    for (const name of ["creat", "truncate", "unlink", "unlinkat", "mkdir", "mkdirat", "rmdir"]) {
      expect(both(name), name).toEqual([name]);
      expect(changed("local", "stage load\n", `stage load\nallow ${name}\n`), name).toEqual([]);
    }
  });

  test("I5: what is denied without being shown is listed, and nothing can be added to the list", () => {
    expect(changed("relay", "unwatch clone3", "unwatch clone3 execve")).toEqual(["execve"]);
    expect(changed("relay", "unwatch clone3", "unwatch clone3 socket")).toEqual(["socket"]);
    expect(changed("usb", "unwatch bind", "unwatch bind connect")).toEqual(["connect"]);
    expect(changed("relay", "absent clone3", "absent clone3 io_uring_enter")).toContain("io_uring_enter");
    expect(changed("relay", "absent clone3", "absent clone3 rename")).toEqual(["rename"]);
    expect(changed("relay", "opens inet unix thread", "opens inet unix")).toContain("clone3");
    expect(changed("relay", "unwatch clone3\n", "")).toContain("clone3");
    expect(changed("relay", "absent clone3\n", "")).toEqual([]);
  });

  test("I5: threads are few, and device nodes are below /dev", () => {
    expect(changed("relay", "limit nproc 4", "limit nproc 9")).toEqual(["nproc"]);
    expect(changed("usb", "landlock device /dev", "landlock device /proc")).toEqual(["/proc"]);
    expect(changed("usb", "landlock device /dev", "landlock write /dev")).toContain("/dev");
    expect(lintProfile(parseProfile(text.replace("limit nproc 0", "limit nproc 4"))).map((f) => f.about)).toEqual([
      "nproc",
    ]);
  });
});
