import { HASH_SIZE, type HashName } from "node-tpm2-tss";
import { expect, test } from "vitest";
import { startSwtpm } from "../../support/swtpm.ts";
import { fileTpm, hash, openAt, refusal, text, u8, u16, u32 } from "./fixture.ts";

const open = fileTpm();
const active = ["sha1", "sha256", "sha384", "sha512"] as const;
const all = Array.from({ length: 24 }, (_, pcr) => pcr);
const everyBank = (pcr: number) => active.map((bank) => ({ bank, pcrs: [pcr] }));

test("every asked PCR of every bank is read, however many commands it takes", async () => {
  await using tpm = await open();
  const values = await tpm.pcrRead(active.map((bank) => ({ bank, pcrs: all })));
  for (const bank of active) {
    expect([...(values.get(bank)?.keys() ?? [])].sort((a, b) => a - b)).toEqual(all);
    expect([...(values.get(bank)?.values() ?? [])].map((value) => value.length)).toEqual(
      all.map(() => HASH_SIZE[bank]),
    );
  }
  expect(await tpm.pcrRead([])).toEqual(new Map());
});

test("a PCR of a bank that is not active is left out, and reading ends", async () => {
  await using narrow = await startSwtpm({ endorsement: "keys", banks: "sha256" });
  await using tpm = await openAt(narrow);
  const values = await tpm.pcrRead([
    { bank: "sha512", pcrs: [0] },
    { bank: "sha256", pcrs: [0] },
  ]);
  expect(values.get("sha512")?.size ?? 0).toBe(0);
  expect(values.get("sha256")?.size).toBe(1);
  // libtpms answers the digest of every algorithm it implements, active or not.
  expect((await tpm.pcrEvent(16, text("event"))).get("sha256")).toEqual(hash("sha256", text("event")));
  expect((await tpm.pcrBanks()).filter(({ pcrs }) => pcrs.length > 0).map(({ bank }) => bank)).toEqual(["sha256"]);
});

test("one extend changes each given bank to H(old || digest) and no other bank", async () => {
  await using tpm = await open();
  const read = async (bank: HashName) => (await tpm.pcrRead(everyBank(13))).get(bank)?.get(13) ?? u16(0);
  const [old256, old384] = [await read("sha256"), await read("sha384")];
  const digests = { sha256: hash("sha256", u32(1)), sha384: hash("sha384", u32(1)) };
  await tpm.pcrExtend(13, new Map(Object.entries(digests) as [HashName, Uint8Array][]));
  expect(await read("sha256")).toEqual(hash("sha256", old256, digests.sha256));
  const extended384 = hash("sha384", old384, digests.sha384);
  expect(await read("sha384")).toEqual(extended384);
  await tpm.pcrExtend(13, new Map([["sha256", digests.sha256] as const]));
  expect(await read("sha384")).toEqual(extended384);
});

test("several extends are those commands one after the other; none follows one that fails", async () => {
  await using tpm = await open();
  const digest = (value: number) => hash("sha256", u32(value));
  const events = Array.from({ length: 70 }, (_, value) => new Map([["sha256", digest(value)] as const]));
  const after = (count: number) =>
    events.slice(0, count).reduce((old, _, value) => hash("sha256", old, digest(value)), new Uint8Array(32));
  const read = async () => (await tpm.pcrRead(everyBank(16))).get("sha256")?.get(16);
  await tpm.pcrReset(16);
  await tpm.pcrExtendAll(16, events);
  expect(await read()).toEqual(after(70));
  await tpm.pcrReset(16);
  const unknown = new Map([["sm3_256", new Uint8Array(32)] as const]);
  const failing = tpm.pcrExtendAll(16, [...events.slice(0, 35), unknown, ...events.slice(35)]);
  expect(await refusal(failing)).toMatch(/PCR_Extend/);
  expect(await read()).toEqual(after(35));
  await tpm.pcrExtendAll(16, []);
  expect(await read()).toEqual(after(35));
});

test("I3: an event extends every active bank with its digest, in one command, and reset returns PCR 16 to zero", async () => {
  await using tpm = await open();
  await tpm.pcrReset(16);
  const event = text("event");
  const digests = await tpm.pcrEvent(16, event);
  expect(digests).toEqual(new Map(active.map((bank) => [bank, hash(bank, event)])));
  const values = await tpm.pcrRead(everyBank(16));
  for (const bank of active) {
    expect(values.get(bank)?.get(16)).toEqual(hash(bank, new Uint8Array(HASH_SIZE[bank]), hash(bank, event)));
  }
  await tpm.pcrReset(16);
  expect((await tpm.pcrRead(everyBank(16))).get("sha512")?.get(16)).toEqual(new Uint8Array(64));
});

test("what cannot be: resetting PCR 13, extending an unknown bank, an event too long, a digest of the wrong size", async () => {
  await using tpm = await open();
  expect(await refusal(tpm.pcrReset(13))).toBe("tpm PCR_Reset 0x907");
  expect(await refusal(tpm.pcrEvent(16, new Uint8Array(1025)))).toMatch(/^mu PCR_Event /);
  expect(await refusal(tpm.pcrExtend(16, new Map([["sm3_256", new Uint8Array(32)] as const])))).toMatch(/PCR_Extend/);
  await expect(tpm.pcrExtend(16, new Map([["sha256", u8(1)] as const]))).rejects.toThrow("sha256 digest: expected 32");
  for (const wrong of [-1, 24, 0.5]) {
    await expect(tpm.pcrExtend(wrong, new Map())).rejects.toThrow(TypeError);
    await expect(tpm.pcrEvent(wrong, u8(1))).rejects.toThrow(TypeError);
    await expect(tpm.pcrReset(wrong)).rejects.toThrow(TypeError);
    await expect(tpm.pcrRead([{ bank: "sha256", pcrs: [wrong] }])).rejects.toThrow(TypeError);
  }
});
