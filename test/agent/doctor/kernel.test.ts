import { describe, expect, test } from "vitest";
import {
  kernelFindings,
  NOT_PROBED,
  openFiles,
  parseProbe,
  probeKernel,
  weakerFindings,
} from "../../../agent/doctor/index.ts";
import { SANDBOX_FEATURES, WEAKER_GUARANTEES } from "../../../policy/index.ts";
import { NATIVE_DIRECTORY } from "../../support/shim-fixture.ts";
import { systemTree } from "../../support/system-tree.ts";

const FULL = { landlock: 6, userNotification: true, pidfd: true, peerPidfd: true, ioUring: true };
const level = (findings: readonly { id: string; level: string }[], id: string) =>
  findings.find((found) => found.id === id)?.level;

const MOUNTS = "/proc/self/mountinfo";
const VERIFIED = "25 1 254:0 / / ro - erofs /dev/dm-0 ro\n";
const DEVICE = "/sys/dev/block/254:0";

describe("what is weaker than in our image", () => {
  test("I5: nothing is where everything holds, and every guarantee is looked at", () => {
    using tree = systemTree();
    const found = weakerFindings(tree.files);
    expect(found.filter((finding) => finding.level !== "ok")).toEqual([]);
    const ids = found.map(({ id }) => id);
    // What PCRs tell, the TPM is asked.
    expect(["boot-not-measured", ...ids]).toEqual(WEAKER_GUARANTEES.map(({ name }) => name));
  });

  test.each([
    ["root-not-verified", MOUNTS, "25 1 254:1 / / rw,relatime - ext4 /dev/vda1 rw\n", "ext4, writable"],
    ["root-not-verified", MOUNTS, `${VERIFIED}26 25 254:1 / / rw - ext4 /dev/vda1 rw\n`, "ext4, writable"],
    ["root-not-verified", MOUNTS, "25 1 0:25 / / ro - overlay overlay ro\n", "none of the device mapper's"],
    ["root-not-verified", MOUNTS, "", "no root among the mounts"],
    ["root-not-verified", `${DEVICE}/ro`, "0\n", "erofs, writable"],
    // A command line that says so makes no root verified: not of a plain device, nor of another one of the device mapper's.
    ["root-not-verified", `${DEVICE}/dm/uuid`, null, "none of the device mapper's"],
    ["root-not-verified", `${DEVICE}/dm/uuid`, "LVM-0123456789abcdef\n", "no verity device"],
    ["root-not-verified", `${DEVICE}/dm/uuid`, `CRYPT-VERITY-${"ab".repeat(32)}-root\n`, "without its root hash"],
    ["root-not-verified", `${DEVICE}/dm/uuid`, `CRYPT-VERITY-${"ab".repeat(16)}-root\n`, "without its root hash"],
    ["root-not-verified", "/proc/cmdline", "init_on_free=1 verity_off\n", "without its root hash"],
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
    expect(weakerFindings(tree.files).find((found) => found.id === id)).toMatchObject({
      ...{ level: "warn", got: expect.stringContaining(got), fix: expect.any(String) },
    });
  });

  test("I5: a root that systemd verified is one, by its own word on the command line", () => {
    const uuid = { "/sys/dev/block/254:0/dm/uuid": `CRYPT-VERITY-${"ab".repeat(16)}-root\n` };
    using tree = systemTree({ ...uuid, "/proc/cmdline": `init_on_free=1 roothash=${"12".repeat(32)}\n` });
    expect(level(weakerFindings(tree.files), "root-not-verified")).toBe("ok");
  });

  test("I4: is said of this very machine, which is no image of ours", () => {
    const found = weakerFindings(openFiles()).flatMap(({ id, level: its }) => (its === "ok" ? [] : [id]));
    expect(found).toEqual(expect.arrayContaining(["root-not-verified", "core-dumps"]));
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
