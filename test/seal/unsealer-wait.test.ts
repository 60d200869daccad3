import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync } from "node:fs";
import type { Writable } from "node:stream";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import type { Release } from "../../policy/index.ts";
import { startUnsealer, unsealRequest, type WaitingUnsealer } from "../../seal/unseal.ts";
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

const request = (sinks = 2) => unsealRequest({ ...pin, release, anchors: keys.anchors, sinks });
const start = (): WaitingUnsealer =>
  startUnsealer({
    ...{ path: UNSEALER, tcti: bus.tcti("unsealer"), request: request() },
    sinks: pipes.map(({ writeEnd }) => writeEnd),
  });
const received = () => pipes.map(({ readEnd }) => drain(readEnd));
const NOTHING = [new Uint8Array(), new Uint8Array()];
/** The root's approval of the policy is the last that it does by itself; the release key's is the one before. */
async function comeToWait(): Promise<void> {
  const approvals = () => bus.times.filter((_, index) => bus.commands[index]?.code === TPM_CC.policyAuthorize).length;
  await expect.poll(approvals, { timeout: 10_000 }).toBe(2);
}

async function expectNothingLoaded(): Promise<void> {
  for (const handles of ["handles-transient", "handles-loaded-session", "handles-saved-session"])
    expect((await tpmTool(tpm, "tpm2_getcap", handles)).trim()).toBe("");
}

describe("an unsealer that waits", () => {
  it("I2 I4: does everything but TPM2_Unseal, and that once when it is told to", async () => {
    const waiting = start();
    await comeToWait();
    const before = bus.commands.length;
    expect(received()).toEqual(NOTHING);
    expect(await waiting.ask()).toEqual({ kind: "released", ms: expect.any(Number) });
    expect(received()).toEqual([delivered(), delivered()]);
    const after = bus.commands.slice(before).map(({ code }) => code);
    expect(after.filter((code) => code === TPM_CC.unseal)).toHaveLength(1);
    await waiting.abandon();
    await expectNothingLoaded();
  });

  it("I2: is told by the TPM what has been measured meanwhile", async () => {
    const waiting = start();
    await comeToWait();
    await extendAgentPcr(tpm, [{ kind: "cap", name: "refused", sha256: new Uint8Array(32) }]);
    expect(await waiting.ask()).toMatchObject({ kind: "refused", answers: [{ command: "TPM2_PolicyPCR" }, {}] });
    expect(received()).toEqual(NOTHING);
    await expectNothingLoaded();
  });

  it("I4: that is abandoned ends, has asked for nothing, and leaves nothing in the TPM", async () => {
    const waiting = start();
    await comeToWait();
    await waiting.abandon();
    expect(await waiting.ask()).toMatchObject({ kind: "failed", command: "wait" });
    expect(bus.commands.map(({ code }) => code)).not.toContain(TPM_CC.unseal);
    expect(received()).toEqual(NOTHING);
    await expectNothingLoaded();
  });

  it("I3 I4: takes the end of whoever started it for no word", async () => {
    const sinks = pipes.map(({ writeEnd }) => writeEnd);
    const stdio = ["pipe", "pipe", "ignore", ...sinks, "pipe"] as const;
    const child = spawn(UNSEALER, [bus.tcti("unsealer"), "--wait"], { stdio: [...stdio], env: {} });
    const line = once(child.stdout ?? child, "data");
    const ended = once(child, "exit");
    child.stdin?.end(request());
    await comeToWait();
    (child.stdio[stdio.length - 1] as Writable | undefined)?.destroy();
    expect(await ended).toEqual([4, null]);
    expect(JSON.parse(String((await line)[0]))).toMatchObject({ kind: "failed", command: "wait" });
    expect(bus.commands.map(({ code }) => code)).not.toContain(TPM_CC.unseal);
    expect(received()).toEqual(NOTHING);
  });

  it("I10: is refused where it could be told nothing", async () => {
    const stdio = ["pipe", "pipe", "ignore", ...pipes.map(({ writeEnd }) => writeEnd)] as const;
    const child = spawn(UNSEALER, [bus.tcti("unsealer"), "--wait"], { stdio: [...stdio], env: {} });
    const line = once(child.stdout ?? child, "data");
    child.stdin?.end(request());
    expect(JSON.parse(String((await line)[0]))).toMatchObject({ kind: "failed", command: "request", text: "sinks" });
    expect(bus.commands).toEqual([]);
  });

  it("I10: and cannot be started is an error when it is asked", async () => {
    const waiting = startUnsealer({ path: "/nonexistent", tcti: tpm.tcti, request: request(1), sinks: [1] });
    await expect(waiting.ask()).rejects.toMatchObject({ code: "ERR_UNSEALER" });
    await waiting.abandon();
  });
});
