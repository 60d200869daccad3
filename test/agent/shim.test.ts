import { constants, verify } from "node:crypto";
import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";
import type { Shim, SignRequest } from "../../agent/shim-client.ts";
import { parseFrame } from "../../agent/shim-connection.ts";
import { parseProbe, type ShimKey } from "../../agent/shim-replies.ts";
import { ByteWriter, utf8 } from "../../policy/bytes.ts";
import { syscallNumber } from "../../policy/runtime/syscalls.ts";
import { findInMemory } from "../support/process-memory.ts";
import { openShimBench } from "../support/shim-bench.ts";
import {
  benchSlot,
  buildHostile,
  codeOf,
  keyNamed,
  publicKeyOf,
  rvOf,
  SOFTHSM,
  type Started,
  startRaw,
  TEST_PIN,
} from "../support/shim-fixture.ts";

const EPERM = 1;
const ENOSYS = 38;
const CKR_FUNCTION_NOT_SUPPORTED = 0x54n;
const MESSAGE = utf8("a message to sign");
/** Behind magic, version and the name `local`. */
const OPENS_AT = 4 + 4 + 2 + 5;

const shims = openShimBench();
let attacker: string;

beforeAll(() => {
  attacker = buildHostile(shims.bench, "attacker", "module");
});

function number(name: string): number {
  return syscallNumber(name) ?? -1;
}

async function loggedIn(): Promise<{ started: Started; slotId: bigint; keys: readonly ShimKey[] }> {
  const started = await shims.start();
  const library = await started.shim.load(SOFTHSM);
  started.give(TEST_PIN);
  const slotId = benchSlot(library);
  await started.shim.login(slotId);
  return { started, slotId, keys: await started.shim.keys(slotId) };
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

describe("the library behind the shim", () => {
  test("I1: SoftHSM loads, and every mapped object is reported", async () => {
    const { shim } = await shims.start();
    const { objects, slots, cryptoki } = await shim.load(SOFTHSM);
    expect(cryptoki).toBe("2.40");
    expect(slots.map(({ label }) => label)).toContain("bench");
    for (const name of [SOFTHSM, "libcrypto.so.3", "libc.so.6"])
      expect(
        objects.some((path) => path.endsWith(name)),
        name,
      ).toBe(true);
  });

  test("I6: EC and RSA signatures made before and after ARM verify with the public key the shim reports", async () => {
    const { started, slotId, keys } = await loggedIn();
    await signAll(started.shim, slotId, keys);
    await started.shim.uses(keys.map(({ handle }) => ({ slotId, handle, use: "sign" as const })));
    expect(await started.shim.arm()).toBe(3);
    await signAll(started.shim, slotId, await started.shim.keys(slotId));
    expect(await started.shim.status()).toBe(8n);
    expect(started.shim.attempts()).toEqual({});
  });

  test("I7: the shim reports what the keys may do, and no key is extractable", async () => {
    const { keys } = await loggedIn();
    expect(keys.map(({ label }) => label).sort()).toEqual(["ec", "rsa"]);
    for (const { flags } of keys) {
      expect(flags.get("sign")).toBe(true);
      expect(flags.get("extractable")).toBe(false);
      expect(flags.get("neverExtractable")).toBe(true);
      expect(flags.get("alwaysAuthenticate")).toBe(false);
    }
  });

  test("I11: a wrong PIN is tried once and never again", async () => {
    const { shim, give } = await shims.start();
    const library = await shim.load(SOFTHSM);
    give("wrong-pin");
    expect(await rvOf(shim.login(benchSlot(library)))).toBe(0xa0n);
    expect(await rvOf(shim.login(benchSlot(library)))).toBe(CKR_FUNCTION_NOT_SUPPORTED);
    expect(await rvOf(shim.keys(benchSlot(library)))).toBe(CKR_FUNCTION_NOT_SUPPORTED);
  });

  test("I4: the PIN leaves no copy in the shim's memory after login", async () => {
    const { started } = await loggedIn();
    const pid = started.child.pid ?? 0;
    if (process.getuid?.() === 0) {
      for (const encoding of ["latin1", "utf16le"] as const)
        expect(findInMemory(pid, Buffer.from(TEST_PIN, encoding))).toEqual([]);
      expect(findInMemory(pid, utf8("SOFTHSM2_CONF="))).not.toEqual([]);
    }
    // another user, this one included, may not even look
    else expect(() => openSync(`/proc/${pid}/mem`, "r")).toThrow(/EACCES|EPERM/);
  });
});

async function signAll(shim: Shim, slotId: bigint, keys: readonly ShimKey[]): Promise<void> {
  const ec = keyNamed(keys, "ec");
  const rsa = keyNamed(keys, "rsa");
  const digest = await sha256(MESSAGE);
  const sign = (
    handle: bigint,
    mechanism: bigint,
    data: Uint8Array,
    pss: SignRequest["pss"] = null,
  ): Promise<Uint8Array> => shim.sign({ slotId, handle, mechanism, pss, data });
  const pss = { hash: 0x250n, mgf: 2n, saltLength: 32n };
  const ecKey = { key: publicKeyOf(ec), dsaEncoding: "ieee-p1363" as const };
  const pssKey = { key: publicKeyOf(rsa), padding: constants.RSA_PKCS1_PSS_PADDING, saltLength: 32 };
  expect(verify("sha256", MESSAGE, ecKey, await sign(ec.handle, 0x1041n, digest))).toBe(true);
  expect(verify("sha256", MESSAGE, publicKeyOf(rsa), await sign(rsa.handle, 0x40n, MESSAGE))).toBe(true);
  expect(verify("sha256", MESSAGE, pssKey, await sign(rsa.handle, 0x43n, MESSAGE, pss))).toBe(true);
  expect(verify("sha256", MESSAGE, pssKey, await sign(rsa.handle, 0xdn, digest, pss))).toBe(true);
}

async function sha256(bytes: Uint8Array): Promise<Uint8Array> {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", new Uint8Array(bytes)));
}

describe("the shim's table", () => {
  test("I7: an op outside the table, or out of order, does nothing and returns CKR_FUNCTION_NOT_SUPPORTED", async () => {
    const { fd, child } = await startReady();
    for (const [index, op] of [0, 1, 4, 5, 7, 13, 14, 0x7f, 0x80, 0xff].entries()) {
      const payload = op === 4 || op === 5 ? new Uint8Array(8) : new Uint8Array(0);
      writeSync(fd, frame(index + 1, op, payload));
      const reply = (await shims.addon.receiveWithFds(fd, 100, 5_000)).bytes;
      expect(reply.length, `op ${op}`).toBe(17);
      expect(new DataView(reply.buffer).getBigUint64(9), `op ${op}`).toBe(CKR_FUNCTION_NOT_SUPPORTED);
    }
    shims.addon.closeFd(fd);
    child.kill();
  });

  test("I7: raw RSA, MACs, wrong parameters and unlisted handles cannot be signed with", async () => {
    const { started, slotId, keys } = await loggedIn();
    const rsa = keyNamed(keys, "rsa").handle;
    const sign = (handle: bigint, mechanism: bigint, pss: SignRequest["pss"] = null): Promise<bigint | undefined> =>
      rvOf(started.shim.sign({ slotId, handle, mechanism, pss, data: new Uint8Array(32) }));
    for (const mechanism of [0x3n, 0x221n, 0x251n, 0x108an, 0x1050n, 0xffff_ffff_ffff_ffffn]) {
      expect(await sign(rsa, mechanism), `${mechanism}`).toBe(0x70n);
    }
    expect(await sign(rsa, 0xdn)).toBe(0x71n);
    expect(await sign(rsa, 0x1n, { hash: 0x250n, mgf: 2n, saltLength: 32n })).toBe(0x71n);
    expect(await sign(rsa, 0xdn, { hash: 0x250n, mgf: 2n, saltLength: 1n << 40n })).toBe(0x71n);
    expect(await sign(rsa + 100n, 0x1n)).toBe(0x60n);
  });

  test("I10: malformed frames end the shim they reach and no other", async () => {
    const other = await shims.start();
    const bad = fc.oneof(
      fc.constantFrom(
        new Uint8Array(4),
        Uint8Array.of(0, 0, 0, 4, 0, 0, 0, 1),
        Uint8Array.of(0xff, 0xff, 0xff, 0xff),
        Uint8Array.of(0, 1),
      ),
      fc.constantFrom(
        frame(0, 8, new Uint8Array(0)),
        frame(1, 8, new Uint8Array(1)),
        frame(1, 3, Uint8Array.of(0, 9, 47)),
        frame(1, 6, new Uint8Array(28)),
      ),
      fc
        .tuple(fc.constantFrom(2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12), fc.uint8Array({ minLength: 40, maxLength: 60 }))
        .map(([op, bytes]) => frame(7, op, bytes)),
      fc.uint8Array({ minLength: 1, maxLength: 3 }),
    );
    await fc.assert(
      fc.asyncProperty(bad, async (bytes) => {
        const { fd, ended } = await startReady();
        writeSync(fd, bytes);
        shims.addon.closeFd(fd);
        expect((await ended).code).toBe(3);
      }),
      { numRuns: 15 },
    );
    expect(await other.shim.status()).toBe(0n);
  });

  test("I10: request ids are used once, and begin again after the last one alone", async () => {
    const ids: readonly (readonly [readonly number[], boolean])[] = [
      [[0xffff_fffe, 0xffff_ffff, 1, 2], true],
      [[1, 3, 0xffff_ffff, 1, 0xffff_ffff], true],
      [[2, 1], false],
      [[5, 5], false],
      [[0xffff_fffe, 1], false],
      [[0xffff_ffff, 0], false],
      [[0xffff_ffff, 0xffff_ffff, 0xffff_ffff], true],
      [[0], false],
    ];
    for (const [list, good] of ids) {
      const { fd, ended } = await startReady();
      for (const id of list) {
        writeSync(fd, frame(id, 8, new Uint8Array(0)));
        await shims.addon.receiveWithFds(fd, 25, 5_000);
      }
      shims.addon.closeFd(fd);
      expect((await ended).code, list.join()).toBe(good ? 0 : 3);
    }
  });

  test("I10: a damaged profile never starts a shim", async () => {
    const damaged = `${shims.profile}.damaged`;
    const bytes = readFileSync(shims.profile);
    for (const change of [
      () => bytes.subarray(0, 400),
      () => Buffer.concat([bytes, Buffer.from([0])]),
      () => Buffer.from("ICPF"),
      // another version, and something that no profile can open
      () => bytes.map((byte, at) => (at === 7 ? 1 : byte)),
      () => bytes.map((byte, at) => (at === OPENS_AT ? 32 : byte)),
    ]) {
      const fd = openSync(damaged, "w");
      writeSync(fd, change());
      closeSync(fd);
      const { fd: socket, ended } = startRaw(shims.addon, { profile: damaged });
      expect((await ended).code).toBe(4);
      shims.addon.closeFd(socket);
    }
  });
});

function frame(id: number, op: number, payload: Uint8Array): Uint8Array {
  return new ByteWriter()
    .u32(payload.length + 5)
    .u32(id)
    .u8(op)
    .bytes(payload)
    .finish();
}

/** A shim that has said READY, with its filter supervised and its socket in the test's hands. */
async function startReady(): Promise<ReturnType<typeof startRaw>> {
  const raw = startRaw(shims.addon, { profile: shims.profile, environment: shims.token.environment });
  const { fds } = await shims.addon.receiveWithFds(raw.fd, 100, 5_000);
  shims.addon.watchNotifications(fds[0] ?? -1, () => undefined);
  return raw;
}

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
