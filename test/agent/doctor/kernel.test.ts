import { describe, expect, test } from "vitest";
import {
  kernelFindings,
  NOT_PROBED,
  openFiles,
  parseProbe,
  probeKernel,
  weakerFindings,
  weakerHere,
} from "../../../agent/doctor/index.ts";
import { SANDBOX_FEATURES, WEAKER_GUARANTEES } from "../../../policy/index.ts";
import { NATIVE_DIRECTORY } from "../../support/shim-fixture.ts";
import { systemTree } from "../../support/system-tree.ts";

const FULL = { landlock: 6, userNotification: true, pidfd: true, peerPidfd: true, ioUring: true };
const level = (findings: readonly { id: string; level: string }[], id: string) =>
  findings.find((found) => found.id === id)?.level;

describe("what is weaker than in our image", () => {
  test("I5: nothing is where everything holds, and every guarantee is looked at", () => {
    using tree = systemTree();
    expect(weakerHere(tree.files)).toEqual([]);
    const ids = weakerFindings(tree.files).map(({ id }) => id);
    // What PCRs tell, the TPM is asked.
    expect(["boot-not-measured", ...ids]).toEqual(WEAKER_GUARANTEES.map(({ name }) => name));
  });

  test.each([
    ["root-not-verified", "/proc/self/mounts", "/dev/vda1 / ext4 rw,relatime 0 0\n", "ext4, writable"],
    ["root-not-verified", "/proc/self/mounts", "/dev/dm-0 / erofs ro 0 0\n/dev/vda1 / ext4 rw 0 0\n", "ext4, writable"],
    ["root-not-verified", "/proc/cmdline", "init_on_free=1 verity_off\n", "no root hash on the command line"],
    ["memory-not-wiped", "/proc/cmdline", "verity=x init_on_free=0\n", "no such word"],
    ["memory-readable", "/sys/kernel/security/lockdown", "none [integrity] confidentiality\n", "lockdown integrity"],
    ["memory-readable", "/sys/kernel/security/lockdown", null, "lockdown not there"],
    ["processes-traceable", "/proc/sys/kernel/yama/ptrace_scope", "1\n", "kernel.yama.ptrace_scope=1"],
    ["processes-traceable", "/proc/sys/kernel/yama/ptrace_scope", null, "no kernel.yama.ptrace_scope in this kernel"],
    ["kernel-replaceable", "/proc/sys/kernel/modules_disabled", "0\n", "kernel.modules_disabled=0"],
    ["kernel-replaceable", "/proc/sys/kernel/kexec_load_disabled", "0\n", "kernel.kexec_load_disabled=0"],
    ["swap", "/proc/swaps", "Filename Type Size\n/dev/vda5 partition 1\n/swapfile file 2\n", "/dev/vda5 /swapfile"],
    ["core-dumps", "/proc/sys/kernel/core_pattern", "|/lib/systemd/systemd-coredump %P\n", "systemd-coredump"],
    ["core-dumps", "/proc/sys/fs/suid_dumpable", "2\n", "fs.suid_dumpable=2"],
    ["core-dumps", "/sys/kernel/kexec_crash_loaded", "1\n", "one that is loaded"],
  ] as const)("I4 I5: %s is said when %s reads %j", (id, path, text, got) => {
    using tree = systemTree({ [path]: text });
    expect(weakerHere(tree.files)).toContain(id);
    expect(weakerFindings(tree.files).find((found) => found.id === id)).toMatchObject({
      ...{ level: "warn", got: expect.stringContaining(got), fix: expect.any(String) },
    });
  });

  test("I4: is said of this very machine, which is no image of ours", () => {
    expect(weakerHere(openFiles())).toEqual(expect.arrayContaining(["root-not-verified", "core-dumps"]));
  });
});

describe("the kernel", () => {
  test("I5: is good where it has everything, asked or not", () => {
    using tree = systemTree();
    for (const probe of [FULL, NOT_PROBED]) {
      const found = kernelFindings(tree.files, probe, []);
      expect(found.map((finding) => finding.level)).toEqual(["ok", "ok", "ok", "ok", "ok"]);
      expect(found.map(({ id }) => id)).toEqual(["seccomp-notify", "landlock", "pidfd", "namespaces", "io-uring"]);
    }
  });

  test("I5: without user notification, Landlock, pidfds or a namespace is no kernel for the sandbox", () => {
    const cases = [
      [
        "seccomp-notify",
        FULL,
        { "/proc/sys/kernel/seccomp/actions_avail": "kill errno\n" },
        { userNotification: null },
      ],
      ["seccomp-notify", FULL, {}, { userNotification: false }],
      ["landlock", FULL, {}, { landlock: 0 }],
      ["landlock", NOT_PROBED, { "/sys/kernel/security/lsm": "capability,yama\n" }, {}],
      ["pidfd", FULL, {}, { pidfd: false }],
      ["pidfd", NOT_PROBED, { "/proc/sys/kernel/osrelease": "5.2.0\n" }, {}],
      ["namespaces", FULL, { "/proc/self/ns/cgroup": null }, {}],
    ] as const;
    for (const [id, probe, changes, answers] of cases) {
      using tree = systemTree(changes);
      expect([id, level(kernelFindings(tree.files, { ...probe, ...answers }, []), id)]).toEqual([id, "fail"]);
    }
  });

  test("I5: an older Landlock is as good as the policy says, and without a policy a warning", () => {
    using tree = systemTree();
    const abi = { ...FULL, landlock: 3 };
    const lacks = SANDBOX_FEATURES.filter(({ landlockAbi }) => landlockAbi > 3).map(({ name }) => name);
    const levels = [lacks, lacks.slice(1), null].map((given) =>
      level(kernelFindings(tree.files, abi, given), "landlock"),
    );
    expect(levels).toEqual(["ok", "fail", "warn"]);
    using silent = systemTree({ "/sys/kernel/security/lsm": null });
    expect(level(kernelFindings(silent.files, NOT_PROBED, []), "landlock")).toBe("warn");
  });

  test("I6: that gives a pidfd by number only is a warning, by what it answers before what its version says", () => {
    const old = { "/proc/sys/kernel/osrelease": "6.1.0-49-amd64\n" };
    using tree = systemTree(old);
    expect(level(kernelFindings(tree.files, NOT_PROBED, []), "pidfd")).toBe("warn");
    expect(level(kernelFindings(tree.files, FULL, []), "pidfd")).toBe("ok");
  });

  test("I5: answers the probe, which changes nothing, and says what the shim is told of it", async () => {
    const probe = await probeKernel(`${NATIVE_DIRECTORY}/kernel-probe`);
    expect(probe).toEqual({
      ...{ landlock: expect.any(Number), userNotification: true, pidfd: true },
      ...{ peerPidfd: expect.any(Boolean), ioUring: expect.any(Boolean) },
    });
    expect(await probeKernel("/nonexistent")).toEqual(NOT_PROBED);
    expect(await probeKernel("/bin/false")).toEqual(NOT_PROBED);
  });

  test("I10: what a probe does not say as it should stays unknown", () => {
    expect(parseProbe("landlock -1\npidfd yes\nuserNotification 1\nother 3\nlandlock 99999\n")).toEqual({
      ...{ ...NOT_PROBED, userNotification: true },
    });
  });
});
