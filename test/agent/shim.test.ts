import { constants, verify } from "node:crypto";
import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import type { Shim, SignRequest } from "../../agent/shim-client.ts";
import type { ShimKey } from "../../agent/shim-replies.ts";
import { utf8 } from "../../policy/bytes.ts";
import { findInMemory } from "../support/process-memory.ts";
import { openShimBench } from "../support/shim-bench.ts";
import {
  benchSlot,
  frame,
  keyNamed,
  publicKeyOf,
  rvOf,
  SOFTHSM,
  type Started,
  startRaw,
  TEST_PIN,
} from "../support/shim-fixture.ts";

const CKR_FUNCTION_NOT_SUPPORTED = 0x54n;
const MESSAGE = utf8("a message to sign");
/** Behind magic, version and the name `local`. */
const OPENS_AT = 4 + 4 + 2 + 5;

const shims = openShimBench();

async function loggedIn(): Promise<{ started: Started; slotId: bigint; keys: readonly ShimKey[] }> {
  const started = await shims.start();
  const library = await started.shim.load(SOFTHSM);
  started.give(TEST_PIN);
  const slotId = benchSlot(library);
  await started.shim.login(slotId);
  return { started, slotId, keys: await started.shim.keys(slotId) };
}

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

/** A shim that has said READY, with its filter supervised and its socket in the test's hands. */
async function startReady(): Promise<ReturnType<typeof startRaw>> {
  const raw = startRaw(shims.addon, { profile: shims.profile, environment: shims.token.environment });
  const { fds } = await shims.addon.receiveWithFds(raw.fd, 100, 5_000);
  shims.addon.watchNotifications(fds[0] ?? -1, () => undefined);
  return raw;
}
