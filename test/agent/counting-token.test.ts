import { createPublicKey, verify } from "node:crypto";
import { afterEach, beforeEach, expect, test } from "vitest";
import { AgentError } from "../../agent/errors.ts";
import { TOKEN_FLAG } from "../../agent/shim-replies.ts";
import { sha256, utf8 } from "../../policy/index.ts";
import { type CountingToken, makeCountingToken } from "../support/counting-token.ts";
import {
  type Bench,
  native,
  openBench,
  type Started,
  startShim,
  TEST_PIN,
  writeHostProfile,
} from "../support/shim-fixture.ts";

const CKR_PIN_INCORRECT = 0xa0n;
const CKR_PIN_LOCKED = 0xa4n;
const PIN_FLAGS = TOKEN_FLAG.userPinCountLow | TOKEN_FLAG.userPinFinalTry | TOKEN_FLAG.userPinLocked;

let bench: Bench;
let token: CountingToken;
let profile: string;
const addon = native();
const running: Started[] = [];

beforeEach(() => {
  bench = openBench();
  token = makeCountingToken(bench, { pin: TEST_PIN });
  profile = writeHostProfile(bench, { environment: token.environment, tokens: token.directory });
});

afterEach(() => {
  for (const { child } of running.splice(0)) child.kill("SIGKILL");
  bench.remove();
});

async function load(): Promise<Started & { readonly flags: number }> {
  const started = await startShim(addon, { profile, environment: token.environment });
  running.push(started);
  const { slots } = await started.shim.load(token.library);
  expect(slots).toMatchObject([{ label: token.label, serial: token.serial }]);
  return { ...started, flags: (slots[0]?.flags ?? 0) & PIN_FLAGS };
}

/** The rv of a log-in with this PIN, 0 when it succeeded. */
async function logIn({ shim, give }: Started, pin: string): Promise<bigint | undefined> {
  give(pin);
  return shim.login(0n).then(
    () => 0n,
    (error: unknown) => (error instanceof AgentError ? error.rv : undefined),
  );
}

test("I11: the flags of a slot tell of wrong PINs, of the last try and of the lock, and a right PIN resets them", async () => {
  const { userPinCountLow, userPinFinalTry, userPinLocked } = TOKEN_FLAG;
  const after = [0, userPinCountLow, userPinCountLow | userPinFinalTry, userPinCountLow | userPinLocked];
  for (const [wrong, expected] of after.entries()) {
    const started = await load();
    expect(started.flags, `${wrong} wrong`).toBe(expected);
    const rv = await logIn(started, "wrong");
    expect(rv).toBe(wrong < 3 ? CKR_PIN_INCORRECT : CKR_PIN_LOCKED);
  }
  expect(await logIn(await load(), TEST_PIN)).toBe(CKR_PIN_LOCKED);
  expect(token.logins()).toEqual(["wrong", "wrong", "wrong", "locked", "locked"]);
  token.setTries(2);
  expect(await logIn(await load(), TEST_PIN)).toBe(0n);
  expect(token.tries()).toBe(0);
  expect((await load()).flags).toBe(0);
});

test("I6: the key of the counting token is found, described and signs inside the sandbox", async () => {
  const started = await load();
  expect(await logIn(started, TEST_PIN)).toBe(0n);
  const [key, ...others] = await started.shim.keys(0n);
  if (key === undefined) throw new Error("one key");
  expect(others).toEqual([]);
  expect(key).toMatchObject({ label: "release-ec", keyType: 3n });
  expect(key.flags.get("sign")).toBe(true);
  expect(key.flags.get("extractable")).toBe(false);
  await started.shim.uses([{ slotId: 0n, handle: key.handle, use: "sign" }]);
  await started.shim.arm();
  const message = utf8("a message");
  const signature = await started.shim.sign({
    slotId: 0n,
    handle: key.handle,
    mechanism: 0x1041n,
    pss: null,
    data: sha256(message),
  });
  const publicKey = createPublicKey({ key: Buffer.from(token.spki), format: "der", type: "spki" });
  expect(verify("sha256", message, { key: publicKey, dsaEncoding: "ieee-p1363" }, signature)).toBe(true);
  expect(Buffer.from(key.ecPoint.slice(3)).equals(Buffer.from(token.spki.slice(-64)))).toBe(true);
  expect(started.attempts).toEqual([]);
});
