import { Tpm } from "node-tpm2-tss";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type SoftwareTpm, startSwtpm } from "../../support/swtpm.ts";
import { openInterposer } from "../../support/tpm-interposer.ts";
import { nativeDirectory, refusal, sealedTemplate, storageTemplate, text } from "./fixture.ts";

let swtpm: SoftwareTpm;
beforeAll(async () => {
  swtpm = await startSwtpm({ endorsement: "none" });
});
afterAll(() => swtpm.stop());

const GET_RANDOM = 0x17b;
const secret = text("a secret that is looked for on the bus");
const auth = text("authValue looked for");

/** Seals and unseals `secret` in a session with these attributes. Where it is seen: in commands, in answers; the authValue: in commands. */
async function sealAndUnseal(attributes: { encrypt: boolean; decrypt: boolean }): Promise<readonly boolean[]> {
  await using interposer = await openInterposer(swtpm);
  await using tpm = await Tpm.open({ tcti: interposer.tcti, nativeDirectory });
  await using parent = await tpm.createPrimary("owner", storageTemplate);
  await using session = await tpm.startAuthSession({ kind: "hmac", saltKey: parent, ...attributes });
  const sensitive = { auth, data: secret };
  const made = await tpm.create(parent, sealedTemplate(), { sensitive, sessions: [session] });
  await using object = await tpm.load(parent, made.privateArea, made.publicArea);
  await tpm.setAuth(object, auth);
  expect(await tpm.unseal(object, { sessions: [session] })).toEqual(secret);
  const [commands, answers] = [0, 1].map((side) =>
    Buffer.concat(interposer.traffic.filter((_, at) => at % 2 === side)),
  );
  return [commands?.includes(secret), answers?.includes(secret), commands?.includes(auth)].map((seen) => seen === true);
}

test("I4: a salted session hides the sealed data on its way in (decrypt) and out (encrypt), and the authValue", async () => {
  expect(await sealAndUnseal({ decrypt: false, encrypt: false })).toEqual([true, true, true]);
  expect(await sealAndUnseal({ decrypt: false, encrypt: true })).toEqual([true, false, true]);
  expect(await sealAndUnseal({ decrypt: true, encrypt: false })).toEqual([false, true, false]);
  expect(await sealAndUnseal({ decrypt: true, encrypt: true })).toEqual([false, false, false]);
});

test("an answer that was changed on the bus is taken without a session; in one it is refused, and ends the connection", async () => {
  const rewrite = (code: number, response: Buffer) => {
    const changed = Buffer.from(response);
    // The first random byte: after tag, size, code, with sessions parameterSize, and its own size.
    const place = response.readUInt16BE(0) === 0x8002 ? 16 : 12;
    if (code === GET_RANDOM) changed.writeUInt8(changed.readUInt8(place) ^ 1, place);
    return changed;
  };
  await using interposer = await openInterposer(swtpm, { rewrite });
  await using tpm = await Tpm.open({ tcti: interposer.tcti, nativeDirectory });
  expect((await tpm.getRandom(8)).length).toBe(8);
  await using key = await tpm.createPrimary("owner", storageTemplate);
  await using session = await tpm.startAuthSession({ kind: "hmac", saltKey: key, encrypt: true });
  expect(await refusal(tpm.getRandom(8, { sessions: [session] }))).toBe("esys GetRandom 0x7001b"); // response HMAC
  expect(await refusal(tpm.getRandom(8))).toBe("esys GetRandom 0x70007"); // ESYS: wrong order
});
