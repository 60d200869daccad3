import { existsSync, lstatSync, mkdirSync, readFileSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { SHIM_RV } from "../../agent/shim-replies.ts";
import { ByteWriter } from "../../policy/bytes.ts";
import { openShimBench } from "../support/shim-bench.ts";
import { benchSlot, buildHostile, rvOf, SOFTHSM, type Started, TEST_PIN } from "../support/shim-fixture.ts";

const CKR_FUNCTION_FAILED = 0x6n;
const CKR_ARGUMENTS_BAD = 0x7n;
const CKR_DATA_LEN_RANGE = 0x21n;
const CKR_FUNCTION_NOT_SUPPORTED = 0x54n;
const LARGEST = 32_766;

const shims = openShimBench();
let attacker: string;

beforeAll(() => {
  attacker = buildHostile(shims.bench, "attacker", "module");
});

let files = 0;
/** A path in the one directory that the profile lets the shim write to. */
function writable(name = `key-${files++}.pem`): string {
  return join(shims.token.tokens, name);
}

function secretOf(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => (index * 7 + length) & 0xff);
}

describe("a credential file", () => {
  test.each([1, 255, 4096, LARGEST])("I4: %i bytes reach a new file that its owner alone may read", async (length) => {
    const { shim, give } = await shims.start();
    const path = writable();
    give(secretOf(length));
    await shim.credential(path);
    expect(new Uint8Array(readFileSync(path))).toEqual(secretOf(length));
    expect(statSync(path).mode & 0o777).toBe(0o400);
  });

  test("I4: several secrets and the PIN come through the one channel, in order", async () => {
    const { shim, give, attempts } = await shims.start();
    const paths = [writable(), writable()];
    for (const [index, path] of paths.entries()) {
      give(secretOf(LARGEST - index));
      await shim.credential(path);
    }
    give(TEST_PIN);
    const library = await shim.load(SOFTHSM);
    await shim.login(benchSlot(library));
    expect((await shim.keys(benchSlot(library))).length).toBe(2);
    for (const [index, path] of paths.entries())
      expect(new Uint8Array(readFileSync(path))).toEqual(secretOf(LARGEST - index));
    expect(attempts).toEqual([]);
  });

  test("I5: nothing outside the profile's writable directories is written", async () => {
    for (const path of [
      join(shims.bench.directory, "key.pem"),
      "/tmp/ironclaw-key.pem",
      "/ironclaw-key.pem",
      "/etc/key.pem",
    ]) {
      const { shim, give } = await shims.start();
      give("secret");
      expect(await rvOf(shim.credential(path)), path).toBe(CKR_FUNCTION_FAILED);
      expect(existsSync(path), path).toBe(false);
    }
  });

  test("I5: what is there already is not written through, and no directory is made", async () => {
    const existing = writable();
    const target = join(shims.token.tokens, "target");
    const link = writable();
    const dangling = writable();
    writeFileSync(existing, "before");
    writeFileSync(target, "before");
    symlinkSync(target, link);
    symlinkSync(join(shims.token.tokens, "nothing"), dangling);
    mkdirSync(writable("directory"));
    for (const path of [existing, link, dangling, writable("directory"), writable("missing/key.pem")]) {
      const { shim, give } = await shims.start();
      give("secret");
      expect(await rvOf(shim.credential(path)), path).toBe(CKR_FUNCTION_FAILED);
    }
    expect([existing, target].map((path) => readFileSync(path, "utf8"))).toEqual(["before", "before"]);
    expect(lstatSync(dangling).isSymbolicLink()).toBe(true);
    expect(existsSync(writable("missing"))).toBe(false);
    expect(existsSync(join(shims.token.tokens, "nothing"))).toBe(false);
  });

  test("I10: a path that is not absolute, or too long, is refused", async () => {
    for (const path of ["", "key.pem", `/${"k".repeat(255)}`, "/a\0b"]) {
      const { shim } = await shims.start();
      expect(await rvOf(shim.credential(path)), path).toBe(CKR_ARGUMENTS_BAD);
    }
  });

  test("I10: a frame that is empty, too long or cut short makes no file", async () => {
    const frames = [
      new Uint8Array(0),
      Uint8Array.of(0),
      new ByteWriter().u16(0).finish(),
      new ByteWriter()
        .u16(LARGEST + 1)
        .bytes(new Uint8Array(LARGEST + 1))
        .finish(),
      new ByteWriter().u16(10).bytes(new Uint8Array(9)).finish(),
    ];
    for (const frame of frames) {
      const { shim, giveBroken } = await shims.start();
      const path = writable();
      giveBroken(frame);
      expect(await rvOf(shim.credential(path))).toBe(CKR_DATA_LEN_RANGE);
      expect(existsSync(path)).toBe(false);
    }
  });

  test("I11: after a failure nothing of the channel can be tried as a PIN", async () => {
    const { shim, give } = await shims.start();
    give("a key, not a PIN");
    expect(await rvOf(shim.credential("key.pem"))).toBe(CKR_ARGUMENTS_BAD);
    for (const refused of [shim.credential(writable()), shim.load(SOFTHSM), shim.login(0n), shim.arm()])
      expect(await rvOf(refused)).toBe(CKR_FUNCTION_NOT_SUPPORTED);
    expect(await shim.status()).toBe(0n);
  });

  test("I5: once a library is loaded, and after ARM, no credential is taken any more", async () => {
    const { shim, give } = await shims.start();
    const paths = [writable(), writable(), writable()];
    const refused = async (path = "") => {
      expect(await rvOf(shim.credential(path))).toBe(CKR_FUNCTION_NOT_SUPPORTED);
      expect(existsSync(path)).toBe(false);
    };
    const library = await shim.load(SOFTHSM);
    await refused(paths[0]);
    give(TEST_PIN);
    await shim.login(benchSlot(library));
    await refused(paths[1]);
    await shim.arm();
    await refused(paths[2]);
    expect((await shim.keys(benchSlot(library))).length).toBe(2);
  });
});

describe("the PIN in the channel", () => {
  test.each([1, 64, 255])("I4: a PIN of %i bytes reaches the library", async (length) => {
    const { shim, give } = await shims.start();
    await shim.load(attacker);
    give("7".repeat(length));
    await shim.login(0n);
    expect(await shim.keys(0n)).toHaveLength(1);
  });

  test("I11: without a PIN of 1 to 255 bytes C_Login is not called, and not asked for again", async () => {
    const long = new ByteWriter().u16(256).bytes(new Uint8Array(256).fill(0x37)).finish();
    const old = Uint8Array.of(4, 0x31, 0x32, 0x33, 0x34); // length in one byte, as once
    for (const bytes of [new Uint8Array(0), Uint8Array.of(0, 0), Uint8Array.of(0, 5, 0x31), long, old]) {
      const { shim, giveBroken } = await shims.start();
      const library = await shim.load(SOFTHSM);
      giveBroken(bytes);
      const error = await shim.login(benchSlot(library)).catch((reason: unknown) => reason);
      expect(error).toMatchObject({ code: "ERR_SHIM_REFUSED", rv: SHIM_RV.notTried });
      expect(String(error)).toMatch(/credential channel 0x21/);
      expect(await rvOf(shim.login(benchSlot(library)))).toBe(CKR_FUNCTION_NOT_SUPPORTED);
    }
  });
});

describe("the pages that a credential is read into", () => {
  /** KiB that the kernel may not swap out. */
  const locked = ({ child }: Started): number =>
    Number(/^VmLck:\s*(\d+) kB$/m.exec(readFileSync(`/proc/${child.pid}/status`, "utf8"))?.[1]);

  test("I4: are locked into memory before the first byte of a file or PIN comes, and gone after it", async () => {
    const started = await shims.start();
    expect(locked(started)).toBe(0);
    const file = started.shim.credential(writable());
    await expect.poll(() => locked(started)).toBeGreaterThanOrEqual(LARGEST / 1024);
    started.give(secretOf(100));
    await file;
    expect(locked(started)).toBe(0);
    await started.shim.load(attacker);
    const login = started.shim.login(0n);
    await expect.poll(() => locked(started)).toBeGreaterThan(0);
    started.give(TEST_PIN);
    await login;
    expect(locked(started)).toBe(0);
  });
});
