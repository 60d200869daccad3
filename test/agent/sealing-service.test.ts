import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { createSealingService, type SealingSources } from "../../agent/control/sealing.ts";
import type { LaunchState } from "../../agent/launch/state.ts";
import { toHex } from "../../policy/index.ts";
import {
  type Anchor,
  encodeAnchor,
  type MachineTpm,
  memoryMedium,
  openTpm,
  provisionRecords,
  readAnchor,
  readFreeze,
  Store,
  setFreeze,
  signOrder,
  writeAnchor,
} from "../../seal/index.ts";
import { type BenchKeys, createBenchKeys, NATIVE_DIRECTORY, sealedEnvelope } from "../support/sealing-bench.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";

// What a machine refuses an operator, and why: what it does take is proven by test/agent/cli and test/e2e/life.

const ANCHOR: Anchor = { volumeId: new Uint8Array(16).fill(7), seq: 3, hash: "ab".repeat(32) };

let machine: SoftwareTpm;
let tpm: MachineTpm;
let keys: BenchKeys;
let identity: ReturnType<SealingSources["identity"]>;
const store = Store.open(memoryMedium()).store;

beforeAll(async () => {
  machine = await startSwtpm();
  tpm = await openTpm({ tcti: machine.tcti, nativeDirectory: NATIVE_DIRECTORY });
  keys = await createBenchKeys();
  const { name: ekName } = await tpm.endorsementKey("p384");
  identity = { tpm, ak: await tpm.createAttestationKey(), ekKind: "p384", ekName };
  await provisionRecords(tpm.tss);
});
beforeEach(() => writeAnchor(tpm.tss, ANCHOR));
afterAll(async () => {
  await tpm?.close();
  await machine?.stop();
});

function service(state: LaunchState, { storeKeeps = true } = {}) {
  const inputs = { partial: { anchors: keys.anchors, releases: [] }, reasons: [] };
  return createSealingService(
    { tss: tpm.tss, store, now: Date.now, inputs },
    { identity: () => identity, record: { state }, storeKeeps },
  );
}

const newVolume = async () => {
  const order = {
    version: 1,
    order: "new-volume",
    ekName: toHex(identity.ekName),
    anchor: toHex(encodeAnchor(ANCHOR)),
  };
  return signOrder({ ...order, version: 1, order: "new-volume" }, keys.operator);
};

describe("an order for a new volume", () => {
  test("I8: is refused while the machine serves, because the volume in use is anchored again and again", async () => {
    const serving = service({ kind: "serving", scopes: [] });
    await expect(serving.order(await newVolume(), null)).rejects.toMatchObject({ code: "ERR_LAUNCH", got: "serving" });
    expect(await readAnchor(tpm.tss)).toEqual({ kind: "anchor", anchor: ANCHOR });
  });

  test("I8: is carried out on a machine whose launch was refused, once", async () => {
    const refused = service({ kind: "refused", reasons: [], answers: [] });
    const order = await newVolume();
    expect(await refused.order(order, null)).toEqual({ order: "new-volume" });
    expect(await readAnchor(tpm.tss)).toEqual({ kind: "none" });
    await expect(refused.order(order, null)).rejects.toMatchObject({ code: "ERR_ORDER" });
  });
});

describe("a reseal", () => {
  test("I11: is refused by a machine whose store forgets, before anything is asked of the TPM", async () => {
    const envelope = await sealedEnvelope((await tpm.ekCertificates())[0]?.der ?? new Uint8Array(), keys);
    const forgetful = service({ kind: "serving", scopes: [] }, { storeKeeps: false });
    await expect(forgetful.reseal(envelope)).rejects.toMatchObject({ code: "ERR_ENVIRONMENT", message: /reboot/ });
    expect(store.content.entries).toEqual([]);
  });

  test("I3: and every change is refused while the launch is under way", async () => {
    const launching = service({ kind: "unsealing" });
    const acts = [
      launching.reseal(new Uint8Array()),
      launching.abortReseal("hsm-pin"),
      launching.order(await newVolume(), null),
      launching.own(new Uint8Array(), new Uint8Array()),
    ];
    for (const act of await Promise.allSettled(acts))
      expect(act).toMatchObject({ status: "rejected", reason: { code: "ERR_LAUNCH", got: "unsealing" } });
  });
});

describe("an order to unfreeze", () => {
  const unfreeze = async (serving: ReturnType<typeof service>) => {
    const { boot, freeze: bits } = await serving.records();
    const ekName = toHex(identity.ekName);
    const fields = { ekName, boot, id: "05".repeat(16), bits, keep: "0".repeat(16) };
    return signOrder({ version: 1, order: "unfreeze", ...fields }, keys.operator);
  };

  test("I8: is carried out once, also when the same bits are set again meanwhile, and not in another boot", async () => {
    const serving = service({ kind: "serving", scopes: [] });
    await setFreeze(tpm.tss, 1n);
    const order = await unfreeze(serving);
    expect(await serving.order(order, null)).toEqual({ order: "unfreeze" });
    expect(await readFreeze(tpm.tss)).toEqual({ kind: "bits", bits: 0n });
    await setFreeze(tpm.tss, 1n);
    const rebooted = service({ kind: "refused", reasons: [], answers: [] });
    for (const machine of [serving, rebooted])
      await expect(machine.order(order, null)).rejects.toMatchObject({ code: "ERR_ORDER" });
    expect(await readFreeze(tpm.tss)).toEqual({ kind: "bits", bits: 1n });
    expect(await rebooted.order(await unfreeze(rebooted), null)).toEqual({ order: "unfreeze" });
  });
});
