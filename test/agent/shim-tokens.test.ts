import { createPublicKey, verify } from "node:crypto";
import { join } from "node:path";
import type { Duplex } from "node:stream";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { AgentError } from "../../agent/errors.ts";
import { sha256, utf8 } from "../../policy/index.ts";
import { type CountingToken, makeCountingToken } from "../support/counting-token.ts";
import { type Bench, native, openBench, type Started, startShim, writeHostProfile } from "../support/shim-fixture.ts";

const CKR_SLOT_ID_INVALID = 0x3n;
const CKR_FUNCTION_NOT_SUPPORTED = 0x54n;
const CKR_PIN_INCORRECT = 0xa0n;
const TOKENS = 9;
const pinOf = (slot: number) => `pin-${slot}-of-nine-4471`;
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

/** A shim that has loaded the library of the nine tokens. */
async function loaded(): Promise<Started> {
  const { library, environment } = tokenIn(0);
  const started = await startShim(addon, { profile, environment });
  running.push(started);
  expect((await started.shim.load(library)).slots).toHaveLength(TOKENS);
  return started;
}

async function logIn({ shim, give }: Started, ...slots: readonly number[]): Promise<void> {
  for (const slot of slots) give(pinOf(slot));
  for (const slot of slots) await shim.login(BigInt(slot));
}

/** The rv of a refusal; 0 when there was none. */
function rvOf(promise: Promise<unknown>): Promise<bigint | undefined> {
  return promise.then(
    () => 0n,
    (error: unknown) => (error instanceof AgentError ? error.rv : undefined),
  );
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

describe("a shim with several tokens", () => {
  test("I6: takes each PIN for its own token, and the same handle signs with each token's own key", async () => {
    const started = await loaded();
    await logIn(started, 1, 0);
    const handles = [await handleIn(started, 0), await handleIn(started, 1)];
    expect(handles[0]).toBe(handles[1]);
    for (const armed of [false, true]) {
      if (armed) await started.shim.arm();
      for (const [slot, handle] of handles.entries())
        expect(signersOf(await started.shim.sign(request(slot, handle)))).toEqual([slot]);
    }
    expect(started.attempts).toEqual([]);
  });

  test("I6: lists and uses no key of a token that is not logged in to, and none before it is listed", async () => {
    const started = await loaded();
    await logIn(started, 0, 1);
    const handle = await handleIn(started, 0);
    expect(await rvOf(started.shim.sign(request(1, handle)))).toBe(0x60n);
    expect(await rvOf(started.shim.keys(2n))).toBe(CKR_SLOT_ID_INVALID);
    expect(await rvOf(started.shim.sign(request(2, handle)))).toBe(CKR_SLOT_ID_INVALID);
    expect(signersOf(await started.shim.sign(request(0, handle)))).toEqual([0]);
  });

  test("I11: tries a token once: a second LOGIN for its slot reads nothing, and the next PIN is the next token's", async () => {
    const started = await loaded();
    const before = tokenIn(0).logins().length;
    await logIn(started, 0);
    started.give(pinOf(1));
    expect(await rvOf(started.shim.login(0n))).toBe(CKR_FUNCTION_NOT_SUPPORTED);
    await started.shim.login(1n);
    expect(tokenIn(0).logins().length).toBe(before + 1);
    expect(tokenIn(1).tries()).toBe(0);
    expect(await handleIn(started, 0)).toBe(await handleIn(started, 1));
  });

  test("I11: takes eight tokens and no ninth", async () => {
    const started = await loaded();
    await logIn(started, 0, 1, 2, 3, 4, 5, 6, 7);
    started.give(pinOf(8));
    expect(await rvOf(started.shim.login(8n))).toBe(CKR_FUNCTION_NOT_SUPPORTED);
    expect(tokenIn(8).logins()).toEqual([]);
    expect(signersOf(await started.shim.sign(request(7, await handleIn(started, 7))))).toEqual([7]);
  });

  test("I11: after a PIN that was refused no other is tried, no key is used, and the channel is closed", async () => {
    const started = await loaded();
    await logIn(started, 0);
    const handle = await handleIn(started, 0);
    const before = tokenIn(2).logins().length;
    const closed = channelClosed(started);
    started.give(pinOf(2)); // slot 1 gets another token's PIN
    started.give(pinOf(2));
    expect(await rvOf(started.shim.login(1n))).toBe(CKR_PIN_INCORRECT);
    await closed;
    for (const refused of [started.shim.login(2n), started.shim.login(1n), started.shim.keys(0n)])
      expect(await rvOf(refused)).toBe(CKR_FUNCTION_NOT_SUPPORTED);
    expect(await rvOf(started.shim.sign(request(0, handle)))).toBe(CKR_FUNCTION_NOT_SUPPORTED);
    expect(await rvOf(started.shim.arm())).toBe(CKR_FUNCTION_NOT_SUPPORTED);
    expect([tokenIn(1).tries(), tokenIn(2).logins().length]).toEqual([1, before]);
  });

  test("I4: reads nothing of the credential channel once it is armed, whatever still lies in it", async () => {
    const started = await loaded();
    await logIn(started, 0);
    const channel = started.child.stdio[4] as Duplex; // "pipe" gives a stream for both directions
    const closed = channelClosed(started);
    const before = tokenIn(1).logins().length;
    started.give(pinOf(1));
    await started.shim.keys(0n);
    expect(channel.readableEnded).toBe(false);
    expect(await started.shim.arm()).toBe(3);
    await closed;
    expect(await rvOf(started.shim.login(1n))).toBe(CKR_FUNCTION_NOT_SUPPORTED);
    expect(tokenIn(1).logins()).toHaveLength(before);
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
