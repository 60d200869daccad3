import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import { openNative } from "../../agent/native/index.ts";
import type { Release } from "../../policy/index.ts";
import { openStandbyUnsealer, type StandbyUnsealer } from "../../seal/standby-unsealer.ts";
import { unsealRequest } from "../../seal/unseal.ts";
import { defineEpoch } from "../support/epoch-fixture.ts";
import {
  bootInto,
  createSealKeys,
  delivered,
  drain,
  extendAgentPcr,
  type Imported,
  makeRelease,
  openPipes,
  openSealed,
  type Pipe,
  type SealKeys,
  tpmTool,
  UNSEALER,
} from "../support/seal-fixture.ts";
import { NATIVE_DIRECTORY } from "../support/shim-fixture.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";
import { openTpmBus, TPM_CC, type TpmBus } from "../support/tpm-bus.ts";

let tpm: SoftwareTpm;
let bus: TpmBus;
let keys: SealKeys;
let release: Release;
let pin: Imported;
let pipes: readonly Pipe[] = [];

beforeAll(async () => {
  tpm = await startSwtpm();
  keys = await createSealKeys();
  await defineEpoch(tpm, keys);
  release = await makeRelease(keys);
  pin = await openSealed(tpm, "p384", keys);
  bus = await openTpmBus(tpm);
});
beforeEach(async () => {
  await bootInto(tpm);
  bus.arm();
  pipes = await openPipes(2);
});
afterEach(() => {
  for (const { readEnd, writeEnd } of pipes) for (const fd of [readEnd, writeEnd]) closeSync(fd);
});
afterAll(async () => {
  await bus?.[Symbol.asyncDispose]();
  await tpm?.stop();
});

const native = openNative(NATIVE_DIRECTORY);
const request = (sinks = 2) => unsealRequest({ ...pin, release, anchors: keys.anchors, sinks });
const sinks = () => pipes.map(({ writeEnd }) => writeEnd);
const start = (): StandbyUnsealer => openStandbyUnsealer({ path: UNSEALER, tcti: bus.tcti("unsealer") }, native);
const received = () => pipes.map(({ readEnd }) => drain(readEnd));
const NOTHING = [new Uint8Array(), new Uint8Array()];
const NOT_TOLD = { kind: "failed", command: "wait" };

/** The root's approval of the policy is the last that it does by itself; the release key's is the one before. */
async function comeToWait(): Promise<void> {
  const approvals = () => bus.times.filter((_, index) => bus.commands[index]?.code === TPM_CC.policyAuthorize).length;
  await expect.poll(approvals, { timeout: 10_000 }).toBe(2);
}

async function expectNothingLoaded(): Promise<void> {
  for (const handles of ["handles-transient", "handles-loaded-session", "handles-saved-session"])
    expect((await tpmTool(tpm, "tpm2_getcap", handles)).trim()).toBe("");
}

/** Nobody has the secret, and nobody asked for it. */
async function expectSealed(): Promise<void> {
  expect(bus.commands.map(({ code }) => code)).not.toContain(TPM_CC.unseal);
  expect(received()).toEqual(NOTHING);
  await expectNothingLoaded();
}

describe("an unsealer that stands by", () => {
  it("I2: sends the TPM nothing before it has a request, and ends without one", async () => {
    const standby = start();
    await standby.end();
    expect(bus.commands).toEqual([]);
    expect(() => standby.prepare(request())).toThrow(TypeError);
    await expect(standby.ask(sinks())).rejects.toThrow(TypeError);
  });

  it("I2 I4: does everything but TPM2_Unseal, and that once when it is told to", async () => {
    const standby = start();
    standby.prepare(request());
    await comeToWait();
    const before = bus.commands.length;
    expect(received()).toEqual(NOTHING);
    expect(await standby.ask(sinks())).toEqual({ kind: "released", ms: expect.any(Number) });
    expect(received()).toEqual([delivered(), delivered()]);
    const after = bus.commands.slice(before).map(({ code }) => code);
    expect(after.filter((code) => code === TPM_CC.unseal)).toHaveLength(1);
    await standby.end();
    await expectNothingLoaded();
  });

  it("I2: is told by the TPM what has been measured meanwhile", async () => {
    const standby = start();
    standby.prepare(request());
    await comeToWait();
    await extendAgentPcr(tpm, [{ kind: "cap", name: "refused", sha256: new Uint8Array(32) }]);
    expect(await standby.ask(sinks())).toMatchObject({ kind: "refused", answers: [{ command: "TPM2_PolicyPCR" }, {}] });
    expect(received()).toEqual(NOTHING);
    await standby.end();
    await expectNothingLoaded();
  });

  it("I2: answers at once where the TPM refuses before there is anything to wait for", async () => {
    await extendAgentPcr(tpm, [{ kind: "cap", name: "refused", sha256: new Uint8Array(32) }]);
    const standby = start();
    standby.prepare(request());
    expect(await standby.ask(sinks())).toMatchObject({ kind: "refused", answers: [{ command: "TPM2_PolicyPCR" }, {}] });
    expect(received()).toEqual(NOTHING);
    await standby.end();
  });

  it("I4: that is given up ends, has asked for nothing, and leaves nothing in the TPM", async () => {
    const standby = start();
    standby.prepare(request());
    await comeToWait();
    await standby.end();
    await expectSealed();
  });

  it("I10: takes one request: a second one is nobody's order", async () => {
    const standby = start();
    standby.prepare(request());
    expect(() => standby.prepare(request())).toThrow(TypeError);
    await standby.end();
    await expectSealed();
  });

  it("I2: whose TPM cannot be reached answers its request with that", async () => {
    const standby = openStandbyUnsealer({ path: UNSEALER, tcti: "nonsense" }, native);
    standby.prepare(request());
    expect(await standby.ask(sinks())).toMatchObject({ kind: "failed", command: "TCTI" });
    await standby.end();
  });

  it("I10: and cannot be started is an error when it is asked", async () => {
    const standby = openStandbyUnsealer({ path: "/nonexistent", tcti: tpm.tcti }, native);
    standby.prepare(request());
    await expect(standby.ask(sinks())).rejects.toMatchObject({ code: "ERR_UNSEALER" });
    await standby.end();
  });

  it("I10: and does not answer in time is killed, and an error", async () => {
    bus.arm(({ code }) => (code === TPM_CC.load ? new Promise<null>((done) => setTimeout(done, 2000, null)) : null));
    const standby = openStandbyUnsealer({ path: UNSEALER, tcti: bus.tcti("unsealer"), timeout: 300 }, native);
    standby.prepare(request());
    await expect(standby.ask(sinks())).rejects.toMatchObject({ code: "ERR_UNSEALER" });
    await standby.end();
    expect(received()).toEqual(NOTHING);
    await expect.poll(() => bus.times.length, { timeout: 10_000 }).toBe(bus.commands.length);
    await bus.flushClient("unsealer");
  });
});

/** One below nobody's care: what is said to it is up to the test. */
class Bare {
  readonly child: ChildProcess;
  readonly socket: number;
  readonly ended: Promise<unknown[]>;

  constructor() {
    const [socket, its] = native.socketPair("seqpacket");
    this.socket = socket;
    this.child = spawn(UNSEALER, [bus.tcti("unsealer"), "--wait"], { stdio: [its, its, "ignore"], env: {} });
    this.ended = once(this.child, "exit");
    native.closeFd(its);
  }

  async say(packet: Uint8Array, fds: readonly number[] = []): Promise<unknown> {
    const { bytes } = await native.call(this.socket, packet, fds, 8192, 10_000);
    return JSON.parse(Buffer.from(bytes).toString());
  }
}

describe("what is said to an unsealer that stands by", () => {
  it("I3 I4: the end of whoever started it is no word", async () => {
    const bare = new Bare();
    expect(await bare.say(request())).toEqual({ kind: "waiting" });
    native.closeFd(bare.socket);
    expect(await bare.ended).toEqual([4, null]);
    await expectSealed();
  });

  it("I3 I4: nor is it a request", async () => {
    const bare = new Bare();
    native.closeFd(bare.socket);
    expect(await bare.ended).toEqual([4, null]); // nobody took its line either
    expect(bus.commands).toEqual([]);
  });

  const file = () => openSync(join(NATIVE_DIRECTORY, "unsealer"), "r");
  const WRONG: readonly (readonly [string, () => readonly [Uint8Array, readonly number[]]])[] = [
    ["without sinks", () => [Uint8Array.of(1), []]],
    ["with fewer than the request says", () => [Uint8Array.of(1), sinks().slice(1)]],
    ["with more", () => [Uint8Array.of(1), [...sinks(), ...sinks()]]],
    ["with more than any request may say", () => [Uint8Array.of(1), Array<number>(16).fill(sinks()[0] ?? -1)]],
    ["with a file in the place of one", () => [Uint8Array.of(1), [...sinks().slice(1), file()]]],
    ["of two bytes", () => [Uint8Array.of(1, 1), sinks()]],
    ["that is the request once more", () => [request(), sinks()]],
  ];
  it.each(WRONG)("I4 I10: a word %s ends it, and nothing was asked for", async (_, word) => {
    const bare = new Bare();
    expect(await bare.say(request())).toEqual({ kind: "waiting" });
    expect(await bare.say(...word())).toMatchObject(NOT_TOLD);
    expect(await bare.ended).toEqual([4, null]);
    native.closeFd(bare.socket);
    await expectSealed();
  });

  it.each([
    ["a byte more", () => Uint8Array.of(...request(), 0), "end"],
    ["more than any", () => new Uint8Array(49_153), "size"],
  ])("I10: a request with %s is refused, and nothing was sent to the TPM", async (_, bytes, text) => {
    const bare = new Bare();
    expect(await bare.say(bytes())).toMatchObject({ kind: "failed", command: "request", text });
    expect(await bare.ended).toEqual([3, null]);
    native.closeFd(bare.socket);
    expect(bus.commands).toEqual([]);
  });

  it("I4: what comes with a request is nobody's sink", async () => {
    const bare = new Bare();
    expect(await bare.say(request(), sinks())).toEqual({ kind: "waiting" });
    expect(await bare.say(Uint8Array.of(1))).toMatchObject(NOT_TOLD);
    expect(await bare.ended).toEqual([4, null]);
    native.closeFd(bare.socket);
    await expectSealed();
  });

  it("I4: a word that lies there before the request is done is taken then, and a second one by nobody", async () => {
    const bare = new Bare();
    const [first, ...later] = [bare.say(request()), bare.say(Uint8Array.of(1), sinks())];
    const lines = await Promise.all([first, ...later]);
    expect(lines.map((line) => (line as { kind: string }).kind).sort()).toEqual(["released", "waiting"]);
    expect(await bare.ended).toEqual([0, null]);
    await expect(bare.say(Uint8Array.of(1), sinks())).rejects.toMatchObject({ code: "ERR_NATIVE" });
    native.closeFd(bare.socket);
    expect(received()).toEqual([delivered(), delivered()]);
    await expectNothingLoaded();
  });
});
