import { randomBytes, verify } from "node:crypto";
import type { Writable } from "node:stream";
import { afterAll, beforeAll, expect, test } from "vitest";
import { AgentError } from "../../agent/errors.ts";
import type { KeyUse, Shim } from "../../agent/shim-client.ts";
import type { ShimKey } from "../../agent/shim-replies.ts";
import { OP } from "../../agent/shim-requests.ts";
import { ByteWriter, equalBytes, PolicyError, sha256, utf8 } from "../../policy/index.ts";
import {
  type Bench,
  benchSlot,
  keyNamed,
  makeToken,
  native,
  openBench,
  publicKeyOf,
  SOFTHSM,
  startRaw,
  TEST_PIN,
  type Token,
  writeHostProfile,
} from "../support/shim-fixture.ts";
import { encryptOaep, importWrappingKey, MECHANISM, SHA1_OAEP, type WrappingKey } from "../support/wrapping.ts";
import { casesOf, endsInTime } from "./extent.ts";
import { caseName, type Damage, damagesOf, only } from "./shim-damage.ts";
import { openWiredShim, type WireFrame } from "./shim-wire.ts";

const MESSAGE = utf8("a message to sign");
const [SHA256_RSA_PKCS, ECDSA] = [0x40n, 0x1041n];
const AES = 0x1fn;
/** Runs at a time; most of them wait for an answer that does not come. */
const LANES = 4;

let bench: Bench;
let token: Token;
let profile: string;
let kek: WrappingKey;
/** A shim that nobody tampers with, in the same agent. */
let other: Wired;
let known: Place;
beforeAll(async () => {
  bench = openBench();
  token = makeToken(bench);
  kek = importWrappingKey(bench, token);
  profile = writeHostProfile(bench, token);
  other = await start(20_000);
  known = await life(other, { done: [], wrong: [] });
});
afterAll(async () => {
  await other?.end();
  bench?.remove();
});

interface Wired extends Awaited<ReturnType<typeof openWiredShim>> {
  give(secret: Uint8Array): void;
  /** Closes it, and waits until its process is gone. */
  end(): Promise<void>;
}

async function start(timeoutMs: number): Promise<Wired> {
  const { fd, child, ended } = startRaw(native(), { profile, environment: token.environment });
  const wire = await openWiredShim(fd, native(), { timeoutMs });
  // child_process types fd 4 as either direction; "pipe" gives a stream for both
  const channel = child.stdio[4] as Writable;
  return Object.assign(wire, {
    give: (secret: Uint8Array) => void channel.write(new ByteWriter().sized16(secret).finish()),
    end: async () => {
      wire.shim.close();
      await ended;
    },
  });
}

interface Lived {
  /** What it has got through. */
  readonly done: string[];
  /** Of these the results that are not right. */
  readonly wrong: string[];
}

/** Everything that an agent asks of a shim from its start on, once. Rejects with what ended it. */
async function life({ shim, give }: Wired, { done, wrong }: Lived): Promise<Place> {
  const step = async <T>(name: string, act: Promise<T>, isRight: (value: T) => boolean = () => true): Promise<T> => {
    const value = await act;
    done.push(name);
    if (!isRight(value)) wrong.push(name);
    return value;
  };
  await step("probe", shim.probe());
  give(randomBytes(20));
  await step("credential", shim.credential(`${token.tokens}/file-${randomBytes(6).toString("hex")}`));
  const slotId = benchSlot(await step("load", shim.load(SOFTHSM)));
  give(utf8(TEST_PIN));
  await step("login", shim.login(slotId));
  const keys = await step("keys", shim.keys(slotId));
  const place = (name: string): Place => ({ slotId, key: keyNamed(keys, name) });
  const [ec, rsa, wrapper] = [place("ec"), place("rsa"), place("kek")];
  const use = ({ key: { handle } }: Place, how: KeyUse["use"]): KeyUse => ({ slotId, handle, use: how });
  await step("sign rsa", signRsa(shim, rsa), (good) => good);
  await step("uses", shim.uses([use(ec, "sign"), use(rsa, "decrypt"), use(wrapper, "unwrap")]));
  await step("arm", shim.arm(), (filters) => filters === 3);
  await step("sign", signEc(shim, ec), (good) => good);
  await step("decrypt", decryptOne(shim, rsa), (plaintext) => equalBytes(plaintext, MESSAGE));
  await step("unwrap", unwrapOne(shim, wrapper));
  await step("status", shim.status(), (count) => count === 4n);
  return ec;
}

interface Place {
  readonly slotId: bigint;
  readonly key: ShimKey;
}

async function signRsa(shim: Shim, { slotId, key }: Place): Promise<boolean> {
  const request = { slotId, handle: key.handle, mechanism: SHA256_RSA_PKCS, pss: null, data: MESSAGE };
  return verify("sha256", MESSAGE, publicKeyOf(key), await shim.sign(request));
}

async function signEc(shim: Shim, { slotId, key }: Place): Promise<boolean> {
  const request = { slotId, handle: key.handle, mechanism: ECDSA, pss: null, data: sha256(MESSAGE) };
  const publicKey = { key: publicKeyOf(key), dsaEncoding: "ieee-p1363" as const };
  return verify("sha256", MESSAGE, publicKey, await shim.sign(request));
}

function decryptOne(shim: Shim, { slotId, key }: Place): Promise<Uint8Array> {
  const ciphertext = encryptOaep(publicKeyOf(key), MESSAGE);
  return shim.decrypt({ slotId, handle: key.handle, mechanism: MECHANISM.oaep, oaep: SHA1_OAEP, ciphertext });
}

function unwrapOne(shim: Shim, { slotId, key: { handle } }: Place): Promise<bigint> {
  const wanted = { objectClass: "secret", keyType: AES, use: "decrypt", where: "session" } as const;
  const nameless = { allowedMechanisms: [], label: "", id: new Uint8Array() };
  const wrapped = kek.wrapPadded(randomBytes(32));
  return shim.unwrap({ slotId, handle, ...wanted, ...nameless, mechanism: MECHANISM.keyWrapPad, oaep: null, wrapped });
}

/** The fixture's own complaints: of a slot or a key that a changed payload does not have, or that is none. */
const FIXTURE = /^(Error: (no slot|not one key) |TypeError: Invalid JWK)/;
const isTyped = (error: unknown) =>
  error instanceof AgentError || error instanceof PolicyError || FIXTURE.test(String(error));

/** One life with one damaged frame; what is wrong with it. */
async function brokenLaws(frame: WireFrame, damage: Damage): Promise<readonly string[]> {
  const wired = await start(3_000);
  const lived: Lived = { done: [], wrong: [] };
  const found: string[] = [];
  wired.arm(only(frame, damage));
  const control = signEc(other.shim, known);
  await life(wired, lived).catch((error: unknown) => {
    if (!isTyped(error)) found.push(`after ${lived.done.at(-1)}: ${error}`);
  });
  if (damage.silent !== true) found.push(...lived.wrong.map((what) => `${what} gave a wrong result`));
  if (!(await control)) found.push("another shim's signature is wrong");
  await wired.end();
  return found.map((what) => `${caseName(frame, damage)}: ${what}`);
}

test("I10: whatever becomes of one message, each request ends in its result or typed, the shim's process ends with its connection, and no other shim is affected", {
  timeout: 3_600_000,
}, async () => {
  const clean = await start(20_000);
  clean.arm(() => null);
  const lived: Lived = { done: [], wrong: [] };
  await life(clean, lived);
  const frames = [...clean.frames];
  await clean.end();
  expect(lived.wrong).toEqual([]);
  expect(new Set(frames.map(({ op }) => op))).toEqual(new Set(Object.keys(OP).filter((op) => op !== "ready")));
  const cases = frames.flatMap((frame) => damagesOf(frame).map((damage) => ({ frame, damage })));
  const left = [...casesOf(cases, 24)];
  const found: string[] = [];
  const lane = async () => {
    for (let next = left.shift(); next !== undefined; next = left.shift())
      found.push(...(await endsInTime(caseName(next.frame, next.damage), brokenLaws(next.frame, next.damage))));
  };
  await Promise.all(Array.from({ length: LANES }, lane));
  expect(found).toEqual([]);
});
