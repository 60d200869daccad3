import { createPublicKey, verify } from "node:crypto";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { SHIM_RV } from "../../agent/shim-replies.ts";
import { sha256, utf8 } from "../../policy/index.ts";
import { type CountingToken, makeCountingToken } from "../support/counting-token.ts";
import {
  type Bench,
  native,
  openBench,
  rvOf,
  type Started,
  startShim,
  writeHostProfile,
} from "../support/shim-fixture.ts";

const CKR_SLOT_ID_INVALID = 0x3n;
const CKR_FUNCTION_NOT_SUPPORTED = 0x54n;
const CKR_PIN_INCORRECT = 0xa0n;
const TOKENS = 2;
const pinOf = (slot: number) => `pin-${slot}-of-two-4471`;
const MESSAGE = utf8("a message to sign");

let bench: Bench;
let tokens: readonly CountingToken[];
let profile: string;
const addon = native();
const running: Started[] = [];

beforeAll(() => {
  bench = openBench();
  const directory = join(bench.directory, "tokens");
  tokens = Array.from({ length: TOKENS }, (_, slot) =>
    makeCountingToken(bench, {
      ...{ pin: pinOf(slot), label: `token-${slot}`, serial: `serial-${slot}` },
      directory: slot === 0 ? directory : join(directory, `${slot}`),
    }),
  );
  profile = writeHostProfile(bench, { environment: { COUNTING_TOKEN: directory }, tokens: directory });
});
afterEach(() => {
  for (const { child } of running.splice(0)) child.kill("SIGKILL");
  for (const token of tokens) token.setTries(0);
});
afterAll(() => bench.remove());

function tokenIn(slot: number): CountingToken {
  const token = tokens[slot];
  if (token === undefined) throw new Error(`no token in slot ${slot}`);
  return token;
}

/** A shim that has loaded the library of both tokens. */
async function loaded(): Promise<Started> {
  const { library, environment } = tokenIn(0);
  const started = await startShim(addon, { profile, environment });
  running.push(started);
  expect((await started.shim.load(library)).slots).toHaveLength(TOKENS);
  return started;
}

async function logIn({ shim, give }: Started, slot: number): Promise<void> {
  give(pinOf(slot));
  await shim.login(BigInt(slot));
}

async function handleIn({ shim }: Started, slot: number): Promise<bigint> {
  const [key, ...others] = await shim.keys(BigInt(slot));
  if (key === undefined || others.length > 0) throw new Error("one key");
  return key.handle;
}

const request = (slot: number, handle: bigint) => ({
  ...{ slotId: BigInt(slot), handle, mechanism: 0x1041n, pss: null },
  data: sha256(MESSAGE),
});

/** The slots whose public key verifies this signature. */
function signersOf(signature: Uint8Array): readonly number[] {
  return [...tokens.keys()].filter((slot) => {
    const key = createPublicKey({ key: Buffer.from(tokenIn(slot).spki), format: "der", type: "spki" });
    return verify("sha256", MESSAGE, { key, dsaEncoding: "ieee-p1363" }, signature);
  });
}

describe("a shim before a library with several tokens", () => {
  test("I6: logs in to the one that it is told, and lists and uses that one's key alone", async () => {
    for (const slot of [0, 1]) {
      const started = await loaded();
      await logIn(started, slot);
      const handle = await handleIn(started, slot);
      const other = 1 - slot;
      for (const armed of [false, true]) {
        if (armed) {
          await started.shim.uses([{ slotId: BigInt(slot), handle, use: "sign" }]);
          await started.shim.arm();
        }
        expect(signersOf(await started.shim.sign(request(slot, handle)))).toEqual([slot]);
        expect(await rvOf(started.shim.keys(BigInt(other)))).toBe(CKR_SLOT_ID_INVALID);
        // the same handle is a key there
        expect(await rvOf(started.shim.sign(request(other, handle)))).toBe(CKR_SLOT_ID_INVALID);
      }
      expect(started.attempts).toEqual([]);
    }
  });

  test("I11: logs in once: a second LOGIN, for that slot or another, reads nothing and tries nothing", async () => {
    const started = await loaded();
    await logIn(started, 0);
    const before = tokens.map((token) => token.logins().length);
    for (const slot of [0, 1]) {
      started.give(pinOf(slot));
      expect(await rvOf(started.shim.login(BigInt(slot)))).toBe(CKR_FUNCTION_NOT_SUPPORTED);
    }
    expect(tokens.map((token) => token.logins().length)).toEqual(before);
    expect(signersOf(await started.shim.sign(request(0, await handleIn(started, 0))))).toEqual([0]);
  });

  test("I11: after a PIN that was refused no other is tried, no key is used, and the channel is closed", async () => {
    const started = await loaded();
    const before = tokenIn(0).logins().length;
    const closed = channelClosed(started);
    started.give(pinOf(0)); // slot 1 gets another token's PIN
    started.give(pinOf(1));
    expect(await rvOf(started.shim.login(1n))).toBe(CKR_PIN_INCORRECT);
    await closed;
    for (const refused of [started.shim.login(0n), started.shim.login(1n), started.shim.keys(1n), started.shim.arm()])
      expect(await rvOf(refused)).toBe(CKR_FUNCTION_NOT_SUPPORTED);
    expect(await rvOf(started.shim.sign(request(1, 1n)))).toBe(CKR_FUNCTION_NOT_SUPPORTED);
    expect([tokenIn(1).tries(), tokenIn(0).logins().length]).toEqual([1, before]);
  });

  test("I11: says of a PIN that was not tried that no try was spent, and why", async () => {
    const cases: readonly (readonly [bigint, (started: Started) => void, RegExp])[] = [
      [0n, ({ giveBroken }) => giveBroken(new Uint8Array(0)), /credential channel 0x21/],
      [0n, ({ giveBroken }) => giveBroken(Uint8Array.of(0, 9, 1)), /credential channel 0x21/],
      [77n, ({ give }) => give(pinOf(0)), /C_OpenSession 0x3\)/],
    ];
    for (const [slot, feed, why] of cases) {
      const started = await loaded();
      const before = tokens.map((token) => [token.logins().length, token.tries()]);
      feed(started);
      const error = await started.shim.login(slot).catch((reason: unknown) => reason);
      expect(error).toMatchObject({ code: "ERR_SHIM_REFUSED", rv: SHIM_RV.notTried });
      expect(String(error)).toMatch(why);
      expect(await rvOf(started.shim.login(0n))).toBe(CKR_FUNCTION_NOT_SUPPORTED);
      expect(tokens.map((token) => [token.logins().length, token.tries()])).toEqual(before);
    }
  });

  test("I4: gives the credential channel up at the log-in, whatever still lies in it", async () => {
    const started = await loaded();
    const channel = started.child.stdio[4] as Duplex; // "pipe" gives a stream for both directions
    const closed = channelClosed(started);
    expect(channel.readableEnded).toBe(false);
    await logIn(started, 0);
    started.give(pinOf(1));
    await closed;
    expect(signersOf(await started.shim.sign(request(0, await handleIn(started, 0))))).toEqual([0]);
  });
});

/** Settles when the shim has given up its end of the credential channel. */
async function channelClosed({ child }: Started): Promise<void> {
  const channel = child.stdio[4] as Duplex; // "pipe" gives a stream for both directions
  channel.resume();
  // Closing it over unread bytes resets it, which node shows as an error first.
  await new Promise<void>((settle) => channel.once("close", settle));
}
