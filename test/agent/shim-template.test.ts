import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Shim, UnwrapRequest } from "../../agent/shim-client.ts";
import { SHIM_RV } from "../../agent/shim-replies.ts";
import { utf8 } from "../../policy/index.ts";
import { type Bench, native, openBench, rvOf } from "../support/shim-fixture.ts";
import {
  makeTemplateRecorder,
  RECORDER,
  type RecordedShim,
  type TemplateRecorder,
} from "../support/template-recorder.ts";
import { MECHANISM, SHA1_OAEP } from "../support/wrapping.ts";

const CKR_GENERAL_ERROR = 0x5n;
const CKR_DEVICE_MEMORY = 0x31n;
const CKR_KEY_HANDLE_INVALID = 0x60n;
const CKR_KEY_FUNCTION_NOT_PERMITTED = 0x68n;
const { slot, one, publicOne, two, kek } = RECORDER;

let bench: Bench;
let recorder: TemplateRecorder;
const running: RecordedShim[] = [];

beforeAll(() => {
  bench = openBench();
  recorder = makeTemplateRecorder(bench, native());
});

afterAll(() => {
  for (const { child } of running) child.kill("SIGKILL");
  bench.remove();
});

async function loggedIn(): Promise<RecordedShim> {
  const started = await recorder.start();
  running.push(started);
  await started.shim.load(recorder.library);
  started.give("1234");
  await started.shim.login(slot);
  await started.shim.keys(slot);
  return started;
}

/** An AES key for decryption as a session object; the first byte of `wrapped` chooses the library's lie. */
function request(wrapped: string, changes: Partial<UnwrapRequest> = {}): UnwrapRequest {
  return {
    ...{ slotId: slot, handle: kek, mechanism: MECHANISM.keyWrapPad, oaep: null, where: "session", use: "decrypt" },
    ...{ objectClass: "secret", keyType: 0x1fn, allowedMechanisms: [], label: "", id: new Uint8Array(0) },
    ...changes,
    wrapped: utf8(wrapped),
  };
}

/** The template of the last C_UnwrapKey: attribute -> value, both in hex. */
function templateOf({ lines }: RecordedShim): Readonly<Record<string, string>> {
  const line = lines().findLast((each) => each.startsWith("unwrap ")) ?? "";
  return Object.fromEntries(
    line
      .split(" ")
      .slice(4)
      .map((pair) => pair.split("=")),
  );
}

const ulong = (value: number) => `${value.toString(16).padStart(2, "0")}`.padEnd(16, "0");

describe("the template of an unwrapped key", () => {
  test("I7: is made in the shim: not extractable, sensitive, private, and for one use, whatever is asked for", async () => {
    const started = await loggedIn();
    const always = { "0x2": "01", "0x103": "01", "0x162": "00", "0x107": "00", "0x10c": "00" };
    const secret = { "0x104": "00", "0x10a": "00", "0x106": "00" };
    const names = { label: "fresh", id: Uint8Array.of(0xab, 0xcd) };
    await started.shim.unwrap(request("-", { ...names, allowedMechanisms: [0x1082n, 0x40n, 0x1082n] }));
    expect(templateOf(started)).toEqual({
      ...{ "0x0": ulong(4), "0x100": ulong(0x1f), "0x1": "00", "0x108": "00", "0x105": "01" },
      ...{ ...always, ...secret },
      ...{ "0x40000600": `${ulong(0x40)}8210000000000000`, "0x3": "6672657368", "0x102": "abcd" },
    });
    await started.shim.unwrap(request("=", { objectClass: "private", keyType: 0n, use: "sign", where: "token" }));
    expect(templateOf(started)).toEqual({
      ...{ "0x0": ulong(3), "0x100": ulong(0), "0x1": "01", "0x108": "01", "0x105": "00", "0x109": "00" },
      ...always,
    });
  });

  test("I7: a token object is made in a read-write session that is open for that call alone", async () => {
    const { shim, lines } = await loggedIn();
    await shim.unwrap(request("-"));
    await shim.unwrap(request("=", { where: "token" }));
    await rvOf(shim.unwrap(request("S", { where: "token" })));
    const calls = lines().map((line) => line.replace(/ 0x210a .*/, ""));
    const stored = ["open 0 6", "unwrap 2 5", "close 2"];
    expect(calls).toEqual(["open 0 4", "login", "unwrap 1 5", ...stored, ...stored]);
  });

  test.each([
    ["extractable", "e"],
    ["not private", "p"],
    ["not sensitive", "s"],
    ["able to wrap, or to recover what it signs", "w"],
    ["able to unwrap", "u"],
    ["able to sign and decrypt", "d"],
    ["on the token where it should not be, or the other way round", "t"],
    ["of another type", "k"],
    ["described in longer values", "l"],
    ["allowed another mechanism", "m"],
    ["another one by its id", "i"],
    ["silent about being sensitive", "q"],
  ])("I7: a key that comes out %s is refused, and its handle barred", async (_what, lie) => {
    const { shim } = await loggedIn();
    const names = (id: number) => ({ id: Uint8Array.of(id), label: `l${id}`, allowedMechanisms: [0x9n] });
    const before = new Set((await shim.keys(slot)).map(({ handle }) => handle));
    for (const changes of [
      names(1 + 0x80),
      { ...names(2 + 0x80), objectClass: "private", keyType: 3n, use: "sign" } as const,
    ])
      expect(await rvOf(shim.unwrap(request(`${lie}${changes.label}`, changes)))).toBe(SHIM_RV.unfit);
    const stored = { ...names(3 + 0x80), where: "token" } as const;
    expect(await rvOf(shim.unwrap(request(`${lie}stored`, stored)))).toBe(SHIM_RV.unfitOnToken);
    const made = (await shim.keys(slot)).filter(({ handle }) => !before.has(handle));
    expect(made).toHaveLength(3);
    for (const { handle } of made) await expectBarred(shim, handle);
    await shim.uses([{ slotId: slot, handle: kek, use: "unwrap" }]);
    for (const { handle } of made) await expectBarred(shim, handle);
    expect(await shim.status()).toBe(0n);
  });

  /** KEYS lists it, and it is for nothing all the same. */
  async function expectBarred(shim: Shim, handle: bigint): Promise<void> {
    const key = { slotId: slot, handle };
    const data = new Uint8Array(32);
    for (const refused of [
      shim.sign({ ...key, mechanism: 0x40n, pss: null, data }),
      shim.decrypt({ ...key, mechanism: MECHANISM.oaep, oaep: SHA1_OAEP, ciphertext: data }),
      shim.unwrap(request("-", { handle })),
    ])
      expect(await rvOf(refused)).toBe(CKR_KEY_FUNCTION_NOT_PERMITTED);
  }

  test("I7: USES gives a barred key no use, nor another one to a key that was unwrapped", async () => {
    const { shim } = await loggedIn();
    await rvOf(shim.unwrap(request("e")));
    const good = await shim.unwrap(request("-"));
    for (const handle of [good - 1n, good]) {
      await shim.keys(slot);
      expect(await rvOf(shim.uses([{ slotId: slot, handle, use: "sign" }]))).toBe(0x7n);
    }
    await expectBarred(shim, good - 1n);
  });

  test("I7: a key that comes out under a handle that is there already, or under none, is refused", async () => {
    const { shim } = await loggedIn();
    for (const lie of ["1", "0", "9"]) expect(await rvOf(shim.unwrap(request(lie)))).toBe(SHIM_RV.unfit);
    expect(await rvOf(shim.unwrap(request("2"))), "a public key's").toBe(SHIM_RV.unfit);
    // the key whose handle it was keeps what it had
    const signature = await shim.sign({ slotId: slot, handle: one, mechanism: 0x40n, pss: null, data: utf8("x") });
    expect(signature).toEqual(Uint8Array.of(Number(one)));
    await shim.uses([
      { slotId: slot, handle: one, use: "sign" },
      { slotId: slot, handle: kek, use: "unwrap" },
    ]);
    expect(await rvOf(shim.unwrap(request("1")))).toBe(SHIM_RV.unfit);
    expect(await shim.status()).toBe(1n);
  });

  test("I7: the shim's own words are its own: a library that says them is answered for", async () => {
    const { shim } = await loggedIn();
    expect(await rvOf(shim.unwrap(request("R")))).toBe(CKR_GENERAL_ERROR);
    const started = await recorder.start();
    running.push(started);
    await started.shim.load(recorder.library);
    started.give("lie");
    expect(await rvOf(started.shim.login(slot))).toBe(CKR_GENERAL_ERROR);
  });

  test("I10: the 1025th key is not unwrapped, and keys are still used", async () => {
    const { shim } = await loggedIn();
    for (let made = 0; made < 1024; made += 32)
      await Promise.all(Array.from({ length: 32 }, (_, index) => shim.unwrap(request(`-${made + index}`))));
    expect(await rvOf(shim.unwrap(request("-one more")))).toBe(CKR_DEVICE_MEMORY);
    expect((await shim.sign({ slotId: slot, handle: two, mechanism: 0x40n, pss: null, data: utf8("x") })).length).toBe(
      1,
    );
    expect(await shim.status()).toBe(1025n);
  });
});

describe("USES", () => {
  test("I7: takes a list that holds each handle once and only those of KEYS, and fixes nothing of another", async () => {
    const { shim } = await loggedIn();
    const use = (handle: bigint, word: "sign" | "decrypt" | "unwrap" = "sign") => ({ slotId: slot, handle, use: word });
    expect(await rvOf(shim.uses([use(one), use(two), use(one, "decrypt")]))).toBe(0x7n);
    expect(await rvOf(shim.uses([use(one), use(one)]))).toBe(0x7n);
    expect(await rvOf(shim.uses([use(one), use(publicOne)]))).toBe(CKR_KEY_HANDLE_INVALID);
    expect(await rvOf(shim.uses([use(one), { ...use(two), slotId: RECORDER.otherSlot }]))).toBe(0x3n);
    const decrypt = (handle: bigint) =>
      shim.decrypt({ ...use(handle), mechanism: MECHANISM.oaep, oaep: SHA1_OAEP, ciphertext: utf8("x") });
    expect(await decrypt(one), "nothing is fixed yet").toHaveLength(1);
    await shim.uses([use(one), use(two, "decrypt")]);
    expect(await rvOf(shim.uses([use(kek, "unwrap")])), "once").toBe(0x54n);
    expect(await rvOf(decrypt(one))).toBe(CKR_KEY_FUNCTION_NOT_PERMITTED);
    expect(await decrypt(two)).toHaveLength(1);
  });

  test("I7: an empty list is one: no key does anything then but what is unwrapped, which nothing unwraps", async () => {
    const { shim } = await loggedIn();
    await shim.uses([]);
    for (const refused of [
      shim.sign({ slotId: slot, handle: one, mechanism: 0x40n, pss: null, data: utf8("x") }),
      shim.unwrap(request("-")),
    ])
      expect(await rvOf(refused)).toBe(CKR_KEY_FUNCTION_NOT_PERMITTED);
  });
});
