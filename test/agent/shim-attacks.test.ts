import { readFileSync, writeSync } from "node:fs";
import { beforeAll, describe, expect, test } from "vitest";
import type { Shim, SignRequest } from "../../agent/shim-client.ts";
import { parseFrame } from "../../agent/shim-connection.ts";
import { parseProbe } from "../../agent/shim-replies.ts";
import { utf8 } from "../../policy/bytes.ts";
import { syscallNumber } from "../../policy/runtime/syscalls.ts";
import { openShimBench } from "../support/shim-bench.ts";
import { buildHostile, codeOf, frame, rvOf, SOFTHSM, type Started, startRaw } from "../support/shim-fixture.ts";

const EPERM = 1;
const ENOSYS = 38;
const CKR_FUNCTION_NOT_SUPPORTED = 0x54n;

const shims = openShimBench();
let attacker: string;

beforeAll(() => {
  attacker = buildHostile(shims.bench, "attacker", "module");
});

function number(name: string): number {
  return syscallNumber(name) ?? -1;
}

async function underAttack(): Promise<Started> {
  const started = await shims.start({ timeoutMs: 2_000 });
  await started.shim.load(attacker);
  started.give("x");
  await started.shim.login(0n);
  await started.shim.keys(0n);
  await started.shim.uses([{ slotId: 0n, handle: 7n, use: "sign" }]);
  return started;
}

function attackRequest(letter: string): SignRequest {
  return { slotId: 0n, handle: 7n, mechanism: 0x1041n, pss: null, data: utf8(letter) };
}

/** The errno of an attack made inside C_Sign; 0 means that it succeeded. */
async function attack(shim: Shim, letter: string): Promise<number> {
  return (await shim.sign(attackRequest(letter)))[0] ?? -1;
}

describe("confinement", () => {
  test("I5: exec, fork and every socket family are denied in the shim and the kernel's notifier shows each attempt", async () => {
    const { shim, attempts } = await shims.start();
    expect(shim.ready.landlockAbi).toBeGreaterThanOrEqual(1);
    const probe = await shim.probe();
    expect(probe.length).toBeGreaterThan(30);
    for (const { name, errno } of probe) {
      if (/^(open|write) /.test(name)) expect([1, 2, 13, 30], name).toContain(errno);
      else expect(errno, name).toBe(EPERM);
    }
    const counts = shim.attempts();
    const watched =
      "execve execveat fork vfork clone clone3 socketpair ptrace process_vm_readv io_uring_setup bpf userfaultfd keyctl mount unshare setns memfd_create pidfd_getfd kill perf_event_open seccomp prctl";
    for (const name of watched.split(" ")) expect(counts[number(name)], name).toBe(1);
    expect(counts[number("socket")]).toBe(9);
    for (const name of ["connect", "bind", "listen", "accept4"]) expect(counts[number(name)], name).toBe(1);
    await expect
      .poll(() => attempts.filter(({ nr }) => nr === number("socket")).map(({ args }) => args[0]))
      .toEqual([2n, 10n, 1n, 16n, 40n, 17n, 2n, 10n, 1n]);
  });

  test("I5: with the agent gone, and nobody left to notify, the kernel denies each watched call with ENOSYS and lets none through", async () => {
    const { fd, child, ended } = startRaw(shims.addon, {
      profile: shims.profile,
      environment: shims.token.environment,
    });
    const { fds } = await shims.addon.receiveWithFds(fd, 100, 5_000);
    for (const listener of fds) shims.addon.closeFd(listener);
    writeSync(fd, frame(1, 2, new Uint8Array(0)));
    const { bytes } = await shims.addon.receiveWithFds(fd, 65_536, 20_000);
    const probe = parseProbe(parseFrame(bytes.subarray(4)).payload);
    expect(probe.length).toBeGreaterThan(30);
    for (const { name, errno } of probe) {
      if (/^(open|write) /.test(name)) expect([1, 2, 13, 30], name).toContain(errno);
      // these two are denied without a notification, and the last by the filters' own pages
      else expect(errno, name).toBe(/^(sendmsg|recvmsg|mprotect .*)$/.test(name) ? EPERM : ENOSYS);
    }
    shims.addon.closeFd(fd);
    child.kill("SIGKILL");
    await ended;
  });

  test("I5: a library that attacks from its constructor is denied every time and cannot change the filters", async () => {
    const { shim, ended } = await shims.start();
    const library = await shim.load(attacker);
    expect(library.description).toBe("0 of 23 succeeded");
    const counts = shim.attempts();
    for (const name of ["execve", "fork", "clone", "ptrace", "kill", "io_uring_setup", "prctl"])
      expect(counts[number(name)], name).toBe(1);
    // the attempt to install the lock filter a second time is denied by that filter itself
    expect(counts[number("seccomp")]).toBe(1);
    expect(counts[number("socket")]).toBe(2);
    shim.close();
    expect((await ended).code).toBe(0);
  });

  test("I5: after ARM no new code can be mapped and no file opened for writing", async () => {
    const { shim } = await underAttack();
    expect(await attack(shim, "m")).toBe(0);
    expect(await attack(shim, "p")).toBe(0);
    expect(await attack(shim, "M"), "a page to write code into later").toBe(EPERM);
    expect(await attack(shim, "P"), "a page to write code into later").toBe(EPERM);
    expect(await shim.arm()).toBe(3);
    expect(await attack(shim, "m")).toBe(EPERM);
    expect(await attack(shim, "p")).toBe(EPERM);
    expect(await attack(shim, "w")).toBe(EPERM);
    expect(await attack(shim, "s")).toBe(EPERM);
    expect(await rvOf(shim.arm())).toBe(CKR_FUNCTION_NOT_SUPPORTED);
  });

  test("I5: a library that arms the shim itself gains nothing, and ARM then fails", async () => {
    const { shim } = await underAttack();
    expect(await attack(shim, "s")).toBe(0);
    expect(await attack(shim, "m")).toBe(EPERM);
    expect(await rvOf(shim.arm())).toBe(5n);
  });

  test.each([
    ["int 0x80", "i"],
    ["x32", "x"],
  ])("I5: a call through the %s entry kills the shim", async (_entry, letter) => {
    const { shim, ended } = await underAttack();
    expect(await codeOf(shim.sign(attackRequest(letter)))).toBe("ERR_SHIM_GONE");
    expect((await ended).signal).toBe("SIGSYS");
  });

  test("I5: a flood of attempts is counted in full and handed over in part", async () => {
    const { shim, attempts } = await underAttack();
    const before = shim.attempts()[number("socket")] ?? 0;
    expect(await attack(shim, "f")).toBe(EPERM);
    expect(shim.attempts()[number("socket")]).toBe(before + 500);
    await expect.poll(() => attempts.length).toBe(64);
  });

  test("I5: the shim is not dumpable, has no new privileges and no limit to spare", async () => {
    const { shim, child } = await shims.start();
    await shim.status();
    const status = readFileSync(`/proc/${child.pid}/status`, "utf8");
    expect(status).toMatch(/^NoNewPrivs:\t1$/m);
    expect(status).toMatch(/^Seccomp:\t2$/m);
    const own = Number(/^Seccomp_filters:\t(\d+)$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1]);
    expect(status).toMatch(new RegExp(`^Seccomp_filters:\\t${own + 2}$`, "m"));
    const limits =
      process.getuid?.() === 0 ? readFileSync(`/proc/${child.pid}/limits`, "utf8") : "Max core file size 0 0";
    expect(limits).toMatch(/^Max core file size +0 +0/m);
  });
});

describe("what the agent believes of a shim", () => {
  test.each([
    ["a reply to no request", "n"],
    ["a frame without end", "e"],
  ])("I10: %s closes the shim", async (_what, letter) => {
    const { shim } = await underAttack();
    expect(await codeOf(shim.sign(attackRequest(letter)))).toBe("ERR_SHIM_PROTOCOL");
    expect((await shim.closed).code).toBe("ERR_SHIM_PROTOCOL");
    expect(await codeOf(shim.status())).toBe("ERR_SHIM_PROTOCOL");
  });

  test("I10: a library that never returns costs one timeout and the shim", async () => {
    const started = await underAttack();
    expect(await codeOf(started.shim.sign(attackRequest("h")))).toBe("ERR_SHIM_TIMEOUT");
    started.child.kill("SIGKILL");
    expect((await started.ended).signal).toBe("SIGKILL");
  });

  test("I10: a library that lies about a signature's length is refused", async () => {
    const { shim } = await underAttack();
    expect(await rvOf(shim.sign(attackRequest("l")))).toBe(5n);
    expect(await attack(shim, "m")).toBe(0);
  });

  test("I1: a library that is not there or has no function list is refused with the loader's reason", async () => {
    const { shim } = await shims.start();
    const error = await shim.load("/usr/lib/no-such-module.so").then(
      () => null,
      (reason: unknown) => reason,
    );
    expect(error).toMatchObject({ code: "ERR_SHIM_REFUSED", rv: 5n });
    expect(String(error)).toMatch(/cannot open shared object file/);
    expect(await rvOf(shim.load(SOFTHSM))).toBe(CKR_FUNCTION_NOT_SUPPORTED);
    const next = await shims.start();
    expect(await rvOf(next.shim.load("$ORIGIN/lib.so"))).toBe(7n);
    expect(await rvOf(next.shim.load("libsofthsm2.so"))).toBe(7n);
  });
});
