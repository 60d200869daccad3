import { HANDLE_RANGE, Tpm, type TpmError } from "node-tpm2-tss";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { attestationKeyTemplate } from "../../../seal/tpm-templates.ts";
import { LOSING_FAULTS, TPM_FAULTS } from "../../faults/tpm-answers.ts";
import { type SoftwareTpm, startSwtpm } from "../../support/swtpm.ts";
import { openTpmBus, type TpmBus } from "../../support/tpm-bus.ts";
import { nativeDirectory, refusal } from "./fixture.ts";

const GET_RANDOM = 0x17b;
const lost = "esys GetRandom 0x70007"; // ESYS: wrong order

let swtpm: SoftwareTpm;
let bus: TpmBus;
beforeAll(async () => {
  swtpm = await startSwtpm({ endorsement: "none" });
  bus = await openTpmBus(swtpm);
});
beforeEach(() => bus.arm());
afterAll(async () => {
  await bus?.[Symbol.asyncDispose]();
  await swtpm?.stop();
});

const open = () => Tpm.open({ tcti: bus.tcti("agent"), nativeDirectory });
/** Whether the connection says by now that it is lost, and with which command's error. */
const lossOf = (tpm: Tpm): Promise<TpmError | null> =>
  Promise.race([
    tpm.lost,
    tpm.getRandom(1).then(
      () => null,
      () => null,
    ),
  ]);

describe("a connection whose command was not answered", () => {
  test.each(LOSING_FAULTS)("says so and takes no more until it is opened again: $name", async (fault) => {
    await using tpm = await open();
    bus.arm(({ code }) => (code === GET_RANDOM ? fault : null));
    const failed = await tpm.getRandom(8).catch((error: TpmError) => error);
    bus.arm();
    expect(await refusal(tpm.getRandom(8))).toBe(lost);
    expect(await lossOf(tpm)).toMatchObject({ command: "GetRandom", rc: (failed as TpmError).rc });
    expect(bus.commands).toEqual([]);
    await tpm.reopen();
    expect((await tpm.getRandom(8)).length).toBe(8);
    expect(bus.commands.map(({ code }) => code)).toEqual([GET_RANDOM]);
  });

  test.each(TPM_FAULTS.filter(({ kind }) => kind === "code"))("is not lost by a refusal: $name", async (fault) => {
    await using tpm = await open();
    bus.arm(({ code }) => (code === GET_RANDOM ? fault : null));
    await expect(tpm.getRandom(8)).rejects.toThrow("GetRandom");
    bus.arm();
    expect(await lossOf(tpm)).toBeNull();
    expect((await tpm.getRandom(8)).length).toBe(8);
  });

  test("is not lost by a caller's mistake that ESYS finds", async () => {
    await using tpm = await open();
    await using session = await tpm.startAuthSession({ kind: "hmac" });
    await tpm.flushContext(session);
    await expect(tpm.nonceTpm(session)).rejects.toThrow("TRSess_GetNonceTPM");
    expect(await lossOf(tpm)).toBeNull();
  });

  test("opened again it has none of its handles, and what was left in the TPM can be flushed", async () => {
    await using tpm = await open();
    const key = await tpm.createPrimary("endorsement", attestationKeyTemplate);
    const context = await tpm.contextSave(key);
    await tpm.startAuthSession({ kind: "policy" });
    bus.arm(() => ({ obeyed: false, answer: () => Buffer.alloc(0), hangsUp: true }));
    await expect(tpm.getRandom(8)).rejects.toThrow("GetRandom");
    bus.arm();
    await tpm.reopen(async (fresh) => {
      expect(await refusal(tpm.getRandom(8))).toBe(lost);
      for (const range of [HANDLE_RANGE.transient, HANDLE_RANGE.loadedSession]) {
        const left = await fresh.handles(range);
        expect(left.length).toBe(1);
        for (const handle of left) await fresh.flushHandle(handle);
        expect(await fresh.handles(range)).toEqual([]);
      }
    });
    await expect((async () => tpm.readPublic(key))()).rejects.toMatchObject({ command: "handle", rc: 0x70007 });
    await key[Symbol.asyncDispose]();
    await using again = await tpm.contextLoad(context);
    expect(await tpm.handles(HANDLE_RANGE.transient)).toHaveLength(1);
    expect(again).toMatchObject({ name: key.name });
  });

  test("one that cannot be opened or prepared again stays lost, and can be opened later", async () => {
    await using tpm = await open();
    const hangUp = { obeyed: false, answer: () => Buffer.alloc(0), hangsUp: true };
    bus.arm(({ code }) => (code === GET_RANDOM ? hangUp : null));
    await expect(tpm.getRandom(8)).rejects.toThrow("GetRandom");
    const prepare = async (fresh: Tpm) => void (await fresh.getRandom(8));
    await expect(tpm.reopen(prepare)).rejects.toThrow("GetRandom");
    expect(await refusal(tpm.getRandom(8))).toBe(lost);
    bus.arm();
    await tpm.reopen(prepare);
    expect((await tpm.getRandom(8)).length).toBe(8);
    await tpm.close();
    await expect(tpm.reopen()).rejects.toThrow("closed for good");
  });
});
