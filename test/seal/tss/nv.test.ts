import { encodeNvPublic, type NvDefinition, type Tpm, type TpmObject } from "node-tpm2-tss";
import { describe, expect, test } from "vitest";
import { concatBytes, fromHex, toHex } from "../../../policy/index.ts";
import { CC, fileTpm, hash, NV, readWrite, refusal, signingTemplate, sized, text, u8, u16, u32 } from "./fixture.ts";

const open = fileTpm();
const index = 0x01800010;

/** Defines an index, runs `use` with it, and undefines it. */
async function withIndex(
  tpm: Tpm,
  definition: Partial<NvDefinition>,
  use: (object: TpmObject) => Promise<unknown>,
): Promise<void> {
  const object = await tpm.nvDefineSpace({ index, attributes: readWrite, dataSize: 8, ...definition });
  try {
    await use(object);
  } finally {
    await tpm.nvUndefineSpace(object);
  }
}

describe("defining", () => {
  test("an index has the asked public area and its Name; the same handle a second time is refused", async () => {
    await using tpm = await open();
    const authPolicy = hash("sha384", text("policy"));
    await withIndex(tpm, { authPolicy, nameAlg: "sha384", dataSize: 20 }, async (object) => {
      const { raw, name, ...parsed } = await tpm.nvReadPublic(object);
      expect(parsed).toEqual({ index, nameAlg: "sha384", attributes: readWrite, authPolicy, dataSize: 20 });
      expect(raw).toEqual(encodeNvPublic(parsed));
      expect(name).toEqual(concatBytes(u16(0x000c), hash("sha384", raw)));
      expect(object.name).toEqual(name);
      const again = tpm.nvDefineSpace({ index, attributes: readWrite, dataSize: 1 });
      expect(await refusal(again)).toBe("tpm NV_DefineSpace 0x14c");
    });
  });

  test.each(["owner", "platform"] as const)(
    "an index that %s undefined is gone, for this connection and the TPM",
    async (authority) => {
      await using tpm = await open();
      const object = await tpm.nvDefineSpace({ index, attributes: readWrite, dataSize: 1 });
      await tpm.nvUndefineSpace(object, { authority });
      expect(await refusal(tpm.nvUndefineSpace(object))).toMatch(/^esys NV_UndefineSpace /);
      expect(await refusal(tpm.nvReadPublic(object))).toMatch(/^esys NV_ReadPublic /);
      expect(await refusal(tpm.trFromTpmPublic(index))).toMatch(/TR_FromTPMPublic .*8b$/);
      await object[Symbol.asyncDispose]();
    },
  );

  test("the platform's index can be undefined by the platform only", async () => {
    await using tpm = await open();
    const platformCreate = 0x40000000;
    const definition = { index, attributes: readWrite | platformCreate, dataSize: 1 };
    expect(await refusal(tpm.nvDefineSpace(definition))).toBe("tpm NV_DefineSpace 0x182");
    const object = await tpm.nvDefineSpace({ ...definition, authority: "platform" });
    expect(await refusal(tpm.nvUndefineSpace(object))).toBe("tpm NV_UndefineSpace 0x149");
    await tpm.nvUndefineSpace(object, { authority: "platform" });
  });

  test.each([{ dataSize: 70000 }, { dataSize: -1 }, { index: 2 ** 32 }, { attributes: 0.5 }])(
    "a number out of its range is a TypeError: %o",
    async (wrong) => {
      await using tpm = await open();
      const definition = { index, attributes: readWrite, dataSize: 1, ...wrong };
      await expect(tpm.nvDefineSpace(definition)).rejects.toThrow(TypeError);
    },
  );

  test("an index's authValue is known to the connection that made it, and to another after setAuth", async () => {
    const auth = text("authValue");
    await using tpm = await open();
    await using _made = await tpm.nvDefineSpace({ index, attributes: readWrite, dataSize: 4, auth });
    await using same = await tpm.trFromTpmPublic(index);
    await tpm.setAuth(same, auth);
    await tpm.nvWrite(same, u32(5));
    await using session = await tpm.startAuthSession({ kind: "hmac" });
    expect(await tpm.nvRead(same, { sessions: [session] })).toEqual(u32(5));
    await tpm.setAuth(same, u8(0));
    // A trailing zero is no part of an authValue: this is the empty one.
    expect(await refusal(tpm.nvRead(same))).toBe("tpm NV_Read 0x9a2");
    expect(await refusal(tpm.nvWrite(same, u32(6)))).toBe("tpm NV_Write 0x9a2");
    expect(await tpm.nvRead(same, { authority: "owner" })).toEqual(u32(5));
    await tpm.nvUndefineSpace(same);
  });
});

describe("reading and writing", () => {
  test("data larger than one command takes is written and read whole, and in the chunks that are asked for", async () => {
    await using tpm = await open();
    const data = await tpm.getRandom(2048);
    await withIndex(tpm, { dataSize: 2048 }, async (object) => {
      expect(await refusal(tpm.nvRead(object))).toBe("tpm NV_Read 0x14a");
      const given = new Uint8Array(data);
      const written = tpm.nvWrite(object, given);
      given.fill(0);
      await written;
      expect(await tpm.nvRead(object)).toEqual(data);
      await tpm.nvWrite(object, data.slice(0, 1000), { authority: "owner", offset: 7, maxChunk: 33 });
      const changed = concatBytes(data.slice(0, 7), data.slice(0, 1000), data.slice(1007));
      expect(await tpm.nvRead(object, { authority: "owner", maxChunk: 100 })).toEqual(changed);
      expect(await tpm.nvRead(object, { size: 1500 })).toEqual(changed.slice(0, 1500));
      expect(await refusal(tpm.nvRead(object, { size: 2049 }))).toBe("tpm NV_Read 0x146");
      await expect(tpm.nvRead(object, { size: 65536 })).rejects.toThrow(TypeError);
      expect(await refusal(tpm.nvWrite(object, u8(1), { offset: 2048 }))).toBe("tpm NV_Write 0x146");
      await expect(tpm.nvWrite(object, u16(1), { offset: 65535 })).rejects.toThrow(TypeError);
    });
  });

  test("an empty write marks the index as written, which changes its Name", async () => {
    await using tpm = await open();
    await withIndex(tpm, { dataSize: 0 }, async (object) => {
      await tpm.nvWrite(object, new Uint8Array(0));
      const { attributes, name } = await tpm.nvReadPublic(object);
      expect(attributes).toBe(readWrite | NV.written);
      expect(name).not.toEqual(object.name);
      expect((await tpm.nvRead(object)).length).toBe(0);
    });
  });

  test("an authority that the attributes do not name is refused", async () => {
    await using tpm = await open();
    await withIndex(tpm, { attributes: NV.authWrite | NV.authRead | NV.noDa }, async (object) => {
      expect(await refusal(tpm.nvWrite(object, u8(1), { authority: "owner" }))).toBe("tpm NV_Write 0x149");
      await tpm.nvWrite(object, u8(1));
      expect(await refusal(tpm.nvRead(object, { authority: "platform" }))).toBe("tpm NV_Read 0x149");
    });
  });

  test("an index that only a policy may write", async () => {
    await using tpm = await open();
    const policyWrite = 0x8;
    const authPolicy = hash("sha256", new Uint8Array(32), u32(CC.policyCommandCode), u32(CC.nvWrite));
    await withIndex(tpm, { attributes: policyWrite | NV.authRead | NV.noDa, authPolicy }, async (object) => {
      expect(await refusal(tpm.nvWrite(object, u8(1)))).toBe("tpm NV_Write 0x12f");
      await using policy = await tpm.startAuthSession({ kind: "policy" });
      await tpm.policyCommandCode(policy, CC.nvWrite);
      await tpm.nvWrite(object, u8(1), { sessions: [policy] });
      expect((await tpm.nvRead(object))[0]).toBe(1);
    });
  });
});

describe("counters, bits, extended indices, certificates", () => {
  test("a counter only grows, also across its deletion", async () => {
    await using tpm = await open();
    const definition = { attributes: readWrite | NV.counter };
    const values: bigint[] = [];
    for (let round = 0; round < 2; round++) {
      await withIndex(tpm, definition, async (object) => {
        for (let count = 0; count < 3; count++) {
          await tpm.nvIncrement(object, { authority: count === 0 ? "owner" : "index" });
          values.push(Buffer.from(await tpm.nvRead(object)).readBigUInt64BE());
        }
        expect(await refusal(tpm.nvWrite(object, new Uint8Array(8)))).toBe("tpm NV_Write 0x82");
      });
    }
    const first = values[0] ?? 0n;
    expect(values).toEqual([0n, 1n, 2n, 3n, 4n, 5n].map((more) => first + more));
    await withIndex(tpm, {}, async (object) =>
      expect(await refusal(tpm.nvIncrement(object))).toBe("tpm NV_Increment 0x282"),
    );
  });

  test("bits are set and never cleared", async () => {
    await using tpm = await open();
    await withIndex(tpm, { attributes: readWrite | NV.bits }, async (object) => {
      await tpm.nvSetBits(object, 0x8000_0000_0000_0001n);
      await tpm.nvSetBits(object, 1n << 32n, { authority: "owner" });
      expect(toHex(await tpm.nvRead(object))).toBe("8000000100000001");
      for (const wrong of [-1n, 1n << 64n]) await expect(tpm.nvSetBits(object, wrong)).rejects.toThrow(TypeError);
    });
    await withIndex(tpm, {}, async (object) =>
      expect(await refusal(tpm.nvSetBits(object, 1n))).toBe("tpm NV_SetBits 0x282"),
    );
  });

  test("an extend index holds H(old || data)", async () => {
    await using tpm = await open();
    await withIndex(tpm, { attributes: readWrite | NV.extend, dataSize: 32 }, async (object) => {
      await tpm.nvExtend(object, text("one"));
      await tpm.nvExtend(object, text("two"), { authority: "owner" });
      const first = hash("sha256", new Uint8Array(32), text("one"));
      expect(await tpm.nvRead(object)).toEqual(hash("sha256", first, text("two")));
    });
    await withIndex(tpm, {}, async (object) =>
      expect(await refusal(tpm.nvExtend(object, u8(1)))).toBe("tpm NV_Extend 0x282"),
    );
  });

  test("NV_Certify states Name, offset and data; an unwritten index is refused", async () => {
    await using tpm = await open();
    await using key = await tpm.createPrimary("endorsement", signingTemplate);
    const nonce = text("nonce");
    await withIndex(tpm, {}, async (object) => {
      expect(await refusal(tpm.nvCertify(key, object, nonce))).toBe("tpm NV_Certify 0x14a");
      await tpm.nvWrite(object, fromHex("0102030405060708"));
      const { name } = await tpm.nvReadPublic(object);
      const whole = await tpm.nvCertify(key, object, nonce);
      expect(toHex(whole.attest).startsWith("ff5443478014")).toBe(true);
      expect(toHex(whole.attest)).toContain(toHex(sized(nonce)));
      expect(
        toHex(whole.attest).endsWith(toHex(concatBytes(sized(name), u16(0), sized(fromHex("0102030405060708"))))),
      ).toBe(true);
      const ticket = await tpm.verifySignature(key, hash("sha256", whole.attest), whole.signature);
      expect(ticket.length).toBeGreaterThan(0);
      const part = await tpm.nvCertify(key, object, nonce, { authority: "owner", offset: 2, size: 3 });
      expect(toHex(part.attest).endsWith(toHex(concatBytes(sized(name), u16(2), sized(fromHex("030405")))))).toBe(true);
      const rest = await tpm.nvCertify(key, object, nonce, { offset: 6 });
      expect(toHex(rest.attest).endsWith("0006" + "0002" + "0708")).toBe(true);
    });
  });
});
