import { execFile } from "node:child_process";
import { createHash, createPublicKey, generateKeyPairSync, sign as signData, verify } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import fc from "fast-check";
import {
  encodePcrSelection,
  HANDLE_RANGE,
  type HashName,
  loadBinding,
  type PcrSelection,
  PROPERTY,
  parsePcrSelection,
  Tpm,
  TpmError,
  type TpmObject,
} from "node-tpm2-tss";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { concatBytes, fromHex, toHex } from "../../policy/index.ts";
import { attestationKeyTemplate, ekTemplates } from "../../seal/tpm-templates.ts";
import { leftovers, type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";

const root = join(import.meta.dirname, "..", "..");
const nativeDirectory = join(root, "build", "native");
const rsaEk = 0x81010001;
const p384Ek = 0x81010016;

let swtpm: SoftwareTpm;
beforeAll(async () => {
  swtpm = await startSwtpm();
});
afterAll(() => swtpm.stop());

const open = () => Tpm.open({ tcti: swtpm.tcti, nativeDirectory });
const hash = (name: HashName, ...parts: Uint8Array[]) =>
  new Uint8Array(
    createHash(name)
      .update(concatBytes(...parts))
      .digest(),
  );
const u16 = (value: number) => Uint8Array.of(value >> 8, value & 0xff);
const u32 = (value: number) => concatBytes(u16(value >>> 16), u16(value & 0xffff));
const sized = (bytes: Uint8Array) => concatBytes(u16(bytes.length), bytes);

/** The TpmError that `command` ends in. */
async function failure(command: Promise<unknown>): Promise<TpmError> {
  const error = await command.then(
    () => new Error("the command succeeded"),
    (cause: unknown) => cause,
  );
  if (!(error instanceof TpmError)) throw error;
  return error;
}

/** A fresh P-256 key: its TPMT_PUBLIC for LoadExternal, its Name, and TPMT_SIGNATURE over a message. */
function releaseKey() {
  const { privateKey, publicKey } = generateKeyPairSync("ec", {
    namedCurve: "P-256",
  });
  const jwk = publicKey.export({ format: "jwk" });
  const [x, y] = [jwk.x, jwk.y].map((text) => new Uint8Array(Buffer.from(text ?? "", "base64url")));
  const publicArea = concatBytes(
    fromHex("0023000b00040040000000100010000300100020"),
    x ?? u16(0),
    fromHex("0020"),
    y ?? u16(0),
  );
  const sign = (message: Uint8Array) => {
    const raw = new Uint8Array(
      signData("sha256", message, {
        key: privateKey,
        dsaEncoding: "ieee-p1363",
      }),
    );
    return concatBytes(fromHex("0018000b"), sized(raw.slice(0, 32)), sized(raw.slice(32)));
  };
  return {
    publicArea,
    name: concatBytes(fromHex("000b"), hash("sha256", publicArea)),
    sign,
  };
}

describe("quotes and PCRs", () => {
  test("I9: a quote's raw bytes carry the asked extraData and selection", async () => {
    await using tpm = await open();
    await using key = await tpm.createPrimary("endorsement", attestationKeyTemplate);
    const extraData = hash("sha256", u32(7));
    const selection = [{ bank: "sha384", pcrs: [0, 7, 13, 16] }] as const;
    const { attest, signature } = await tpm.quote(key, extraData, selection);

    const { qualifiedName } = await tpm.readPublic(key);
    const head = concatBytes(fromHex("ff5443478018"), sized(qualifiedName), sized(extraData));
    expect(toHex(attest.slice(0, head.length))).toBe(toHex(head));
    const values = (await tpm.pcrRead(selection)).get("sha384");
    const digest = hash("sha256", ...[0, 7, 13, 16].map((pcr) => values?.get(pcr) ?? u16(0)));
    // clockInfo (17 bytes) and firmwareVersion (8) lie between
    expect(toHex(attest.slice(head.length + 25))).toBe(
      toHex(concatBytes(encodePcrSelection(selection), sized(digest))),
    );

    const point = key.publicArea.slice(-68);
    const spki = {
      kty: "EC",
      crv: "P-256",
      x: base64url(point.slice(2, 34)),
      y: base64url(point.slice(36)),
    };
    const raw = concatBytes(signature.slice(6, 38), signature.slice(40));
    expect(
      verify(
        "sha256",
        attest,
        {
          key: createPublicKey({ key: spki, format: "jwk" }),
          dsaEncoding: "ieee-p1363",
        },
        raw,
      ),
    ).toBe(true);
  });

  test("every asked PCR of every bank is read, however many commands it takes", async () => {
    await using tpm = await open();
    const all = Array.from({ length: 24 }, (_, pcr) => pcr);
    const values = await tpm.pcrRead([
      { bank: "sha256", pcrs: all },
      { bank: "sha384", pcrs: all },
    ]);
    expect([...(values.get("sha256")?.keys() ?? [])].sort((a, b) => a - b)).toEqual(all);
    expect([...(values.get("sha384")?.values() ?? [])].map((value) => value.length)).toEqual(all.map(() => 48));
  });

  test("a PCR of a bank that is not active is left out, and reading ends", async () => {
    await using tpm = await open();
    const values = await tpm.pcrRead([{ bank: "sha512", pcrs: [0] }]);
    expect(values.get("sha512")?.size ?? 0).toBe(0);
  });

  test("one extend changes each given bank to H(old || digest) and no other bank", async () => {
    await using tpm = await open();
    const selection = [
      { bank: "sha256", pcrs: [13] },
      { bank: "sha384", pcrs: [13] },
    ] as const;
    const read = async (bank: HashName) => (await tpm.pcrRead(selection)).get(bank)?.get(13) ?? u16(0);
    const [old256, old384] = [await read("sha256"), await read("sha384")];
    const digests = {
      sha256: hash("sha256", u32(1)),
      sha384: hash("sha384", u32(1)),
    };
    await tpm.pcrExtend(13, new Map(Object.entries(digests) as [HashName, Uint8Array][]));
    expect(await read("sha256")).toEqual(hash("sha256", old256, digests.sha256));
    const extended384 = hash("sha384", old384, digests.sha384);
    expect(await read("sha384")).toEqual(extended384);
    await tpm.pcrExtend(13, new Map([["sha256", digests.sha256] as const]));
    expect(await read("sha384")).toEqual(extended384);
  });

  test("a selection encodes and parses to itself; an index out of range or doubled is a TypeError", () => {
    const bank = fc.constantFrom<HashName>("sha1", "sha256", "sha384", "sha512");
    const pcrs = fc.uniqueArray(fc.integer({ min: 0, max: 23 })).map((list) => list.sort((a, b) => a - b));
    fc.assert(
      fc.property(fc.array(fc.record({ bank, pcrs }), { maxLength: 4 }), (selection: PcrSelection[]) => {
        expect(parsePcrSelection(encodePcrSelection(selection))).toEqual(selection);
      }),
    );
    for (const wrong of [[24], [-1], [0.5], [3, 3]]) {
      expect(() => encodePcrSelection([{ bank: "sha256", pcrs: wrong }])).toThrow(TypeError);
    }
  });
});

describe("policies", () => {
  const refused = { rc: 0x1c4, layer: "tpm", command: "PolicyPCR" };
  const unseal = 0x15e;

  test("I2: PolicyPCR and PolicyCommandCode reach the digest computed without a TPM, in trial and in real sessions", async () => {
    await using tpm = await open();
    const selection = [{ bank: "sha256", pcrs: [4, 9, 11, 12, 13] }] as const;
    const values = (await tpm.pcrRead(selection)).get("sha256");
    const pcrDigest = hash("sha256", ...[4, 9, 11, 12, 13].map((pcr) => values?.get(pcr) ?? u16(0)));
    const afterPcr = hash("sha256", new Uint8Array(32), u32(0x17f), encodePcrSelection(selection), pcrDigest);
    const expected = hash("sha256", afterPcr, u32(0x16c), u32(unseal));
    for (const kind of ["trial", "policy"] as const) {
      await using session = await tpm.startAuthSession({ kind });
      await tpm.policyPcr(session, selection, pcrDigest);
      await tpm.policyCommandCode(session, unseal);
      expect(toHex(await tpm.policyGetDigest(session))).toBe(toHex(expected));
      await tpm.policyRestart(session);
      expect(toHex(await tpm.policyGetDigest(session))).toBe("00".repeat(32));
    }
  });

  test("I2: PolicyPCR with another expected digest is refused with the TPM's own code, decoded", async () => {
    await using tpm = await open();
    await using session = await tpm.startAuthSession({ kind: "policy" });
    const error = await failure(tpm.policyPcr(session, [{ bank: "sha256", pcrs: [4] }], hash("sha256", u32(9))));
    expect({
      rc: error.rc,
      layer: error.layer,
      command: error.command,
    }).toEqual(refused);
    expect(error.message).toMatch(/^PolicyPCR: tpm:parameter\(1\):value is out of range.*\(0x1c4\)$/);
  });

  test("I2: an approval signed by the key moves the session to PolicyAuthorize's digest; a null-hierarchy ticket does not", async () => {
    await using tpm = await open();
    const { publicArea, name, sign } = releaseKey();
    const policyRef = new TextEncoder().encode("ironclaw/release/v1");
    await using session = await tpm.startAuthSession({ kind: "policy" });
    await tpm.policyCommandCode(session, unseal);
    const approved = await tpm.policyGetDigest(session);
    const message = concatBytes(approved, policyRef);
    for (const [hierarchy, accepted] of [
      ["null", false],
      ["owner", true],
    ] as const) {
      await using key = await tpm.loadExternal(publicArea, hierarchy);
      expect(toHex(key.name)).toBe(toHex(name));
      const ticket = await tpm.verifySignature(key, hash("sha256", message), sign(message));
      const step = tpm.policyAuthorize(session, approved, policyRef, key.name, ticket);
      if (accepted) await step;
      else expect((await failure(step)).rc).toBe(0x4c4);
    }
    const keyed = hash("sha256", new Uint8Array(32), u32(0x16a), name);
    expect(toHex(await tpm.policyGetDigest(session))).toBe(toHex(hash("sha256", keyed, policyRef)));
  });

  test("a signature over something else gives no ticket", async () => {
    await using tpm = await open();
    const { publicArea, sign } = releaseKey();
    await using key = await tpm.loadExternal(publicArea, "owner");
    const error = await failure(tpm.verifySignature(key, hash("sha256", u32(1)), sign(u32(2))));
    expect(error.rc).toBe(0x2db);
  });

  test("PolicySecret(endorsement) reaches the L-1 EK's own policy", async () => {
    await using tpm = await open();
    await using session = await tpm.startAuthSession({ kind: "policy" });
    await tpm.policySecret("endorsement", session);
    expect(toHex(await tpm.policyGetDigest(session))).toBe(toHex(ekTemplates.rsa2048.template.slice(10, 42)));
    expect((await tpm.nonceTpm(session)).length).toBe(32);
  });
});

describe("keys and credentials", () => {
  test.each([
    ["RSA-2048", rsaEk, ekTemplates.rsa2048],
    ["P-384", p384Ek, ekTemplates.p384],
  ] as const)("the %s template makes the key at its persistent handle again", async (_, handle, { template }) => {
    await using tpm = await open();
    await using persistent = await tpm.trFromTpmPublic(handle);
    await using made = await tpm.createPrimary("endorsement", template);
    const { publicArea, name } = await tpm.readPublic(persistent);
    expect(toHex(made.publicArea)).toBe(toHex(publicArea));
    expect(toHex(made.name)).toBe(toHex(name));
    expect(toHex(persistent.name)).toBe(toHex(name));
  });

  test.each([["RSA-2048", rsaEk] as const, ["P-384", p384Ek] as const])(
    "I9: a credential for the %s EK and this AK opens, for another Name it does not",
    async (_, handle) => {
      await using tpm = await open();
      await using key = await tpm.createPrimary("endorsement", attestationKeyTemplate);
      await using ek = await tpm.trFromTpmPublic(handle);
      const credential = await tpm.getRandom(32);
      const activate = async (name: Uint8Array) => {
        const { credentialBlob, encryptedSecret } = await tpm.makeCredential(ek, credential, name);
        await using policy = await tpm.startAuthSession({ kind: "policy" });
        if (handle === rsaEk) await tpm.policySecret("endorsement", policy);
        const sessions = ["password", handle === rsaEk ? policy : "password"] as const;
        return await tpm.activateCredential(key, ek, credentialBlob, encryptedSecret, { sessions });
      };
      expect(await activate(key.name)).toEqual(credential);
      const error = await failure(activate(concatBytes(fromHex("000b"), hash("sha256", key.name))));
      expect({ layer: error.layer, command: error.command }).toEqual({
        layer: "tpm",
        command: "ActivateCredential",
      });
    },
  );

  test("an object imported under the P-384 EK loads and has the Name of its public area", async () => {
    await using tpm = await open();
    await using ek = await tpm.trFromTpmPublic(p384Ek);
    const [seed, data] = [hash("sha256", u32(1)), hash("sha256", u32(2))];
    const publicArea = concatBytes(
      fromHex("0008000b00000440"),
      sized(u16(0).slice(0, 0)),
      u16(0x10),
      sized(hash("sha256", seed, data)),
    );
    const sensitive = concatBytes(u16(8), u16(0), sized(seed), sized(data));
    const privateArea = await tpm.import(ek, publicArea, sized(sensitive), new Uint8Array(0));
    await using object = await tpm.load(ek, privateArea, publicArea);
    expect(toHex(object.name)).toBe(toHex(concatBytes(fromHex("000b"), hash("sha256", publicArea))));
    privateArea[privateArea.length - 1] = (privateArea.at(-1) ?? 0) ^ 1;
    expect((await failure(tpm.load(ek, privateArea, publicArea))).rc).toBe(0x1df);
  });

  test("I10: any bytes as a public area end in a TpmError or a Name of them, never otherwise", async () => {
    await using tpm = await open();
    const { publicArea } = releaseKey();
    const mutated = fc
      .tuple(fc.nat(publicArea.length - 1), fc.integer({ min: 1, max: 255 }))
      .map(([at, flip]) => publicArea.map((byte, index) => (index === at ? byte ^ flip : byte)));
    await fc.assert(
      fc.asyncProperty(fc.oneof(mutated, fc.uint8Array({ maxLength: 400 })), async (bytes) => {
        try {
          await using key = await tpm.loadExternal(bytes, "owner");
          expect(key.name.length).toBeGreaterThan(2);
        } catch (cause) {
          expect(cause).toBeInstanceOf(TpmError);
        }
      }),
      { numRuns: 60 },
    );
  });
});

describe("NV, capabilities, random, sessions", () => {
  test("an index is read whole, in chunks when it must be", async () => {
    await using tpm = await open();
    await using index = await tpm.trFromTpmPublic(0x01c00002);
    const { dataSize } = await tpm.nvReadPublic(index);
    const whole = await tpm.nvRead(index);
    expect(whole.length).toBe(dataSize);
    expect(await tpm.nvRead(index, { authority: "owner", maxChunk: 100 })).toEqual(whole);
  });

  test("capabilities list the persistent EKs, the active banks and the properties", async () => {
    await using tpm = await open();
    expect(await tpm.handles(HANDLE_RANGE.persistent)).toEqual([rsaEk, p384Ek]);
    const active = (await tpm.pcrBanks()).filter(({ pcrs }) => pcrs.length === 24).map(({ bank }) => bank);
    expect(active).toEqual(["sha256", "sha384"]);
    const properties = await tpm.properties(PROPERTY.manufacturer, 1);
    expect(properties).toEqual(new Map([[PROPERTY.manufacturer, 0x49424d00]]));
  });

  test.each([["RSA-2048", rsaEk] as const, ["P-384", p384Ek] as const])(
    "a session salted to the %s EK encrypts and authenticates the response",
    async (_, handle) => {
      await using tpm = await open();
      await using ek = await tpm.trFromTpmPublic(handle);
      await using session = await tpm.startAuthSession({
        kind: "hmac",
        saltKey: ek,
        encrypt: true,
        decrypt: false,
      });
      const random = await tpm.getRandom(100, { sessions: [session] });
      expect(new Set(random).size).toBeGreaterThan(20);
    },
  );
});

describe("handles, queue, errors", () => {
  const inTpm = async (tpm: Tpm) => [
    ...(await tpm.handles(HANDLE_RANGE.transient)),
    ...(await tpm.handles(HANDLE_RANGE.loadedSession)),
    ...(await tpm.handles(HANDLE_RANGE.savedSession)),
  ];

  test("disposing leaves no transient object and no session, also after an error", async () => {
    await using tpm = await open();
    const work = async () => {
      await using _key = await tpm.createPrimary("endorsement", attestationKeyTemplate);
      await using session = await tpm.startAuthSession({ kind: "policy" });
      expect((await inTpm(tpm)).length).toBe(2);
      await tpm.policyPcr(session, [{ bank: "sha256", pcrs: [4] }], new Uint8Array(32).fill(1));
    };
    expect((await failure(work())).command).toBe("PolicyPCR");
    expect(await inTpm(tpm)).toEqual([]);
  });

  test("closing flushes what was not disposed, ends queued commands first, and later commands are refused", async () => {
    const tpm = await open();
    const key = await tpm.createPrimary("endorsement", attestationKeyTemplate);
    const session = tpm.startAuthSession({ kind: "trial" });
    await tpm.close();
    await tpm.close();
    expect((await session).kind).toBe("trial");
    await key[Symbol.asyncDispose]();
    await expect(tpm.getRandom(1)).rejects.toThrow("GetRandom: the connection is closed");
    await using next = await open();
    expect(await inTpm(next)).toEqual([]);
  });

  test("commands run in the order of the calls, and a failed one does not hold up the next", async () => {
    await using tpm = await open();
    const selection = [{ bank: "sha256", pcrs: [16] }] as const;
    const value = async () => (await tpm.pcrRead(selection)).get("sha256")?.get(16) ?? u16(0);
    const digests = Array.from({ length: 20 }, (_, index) => hash("sha256", u32(index)));
    const before = await value();
    const commands = digests.map((digest) => tpm.pcrExtend(16, new Map([["sha256", digest] as const])));
    const wrong = failure(tpm.trFromTpmPublic(0x81ffffff));
    const after = value();
    await Promise.all(commands);
    expect((await wrong).rc & 0xff).toBe(0x8b);
    expect(await after).toEqual(digests.reduce((pcr, digest) => hash("sha256", pcr, digest), before));
  });

  test("the third transient object too many is refused by the TPM, and disposing makes room again", async () => {
    await using tpm = await open();
    const keys: TpmObject[] = [];
    const load = async () => keys.push(await tpm.loadExternal(releaseKey().publicArea, "owner"));
    for (let index = 0; index < 3; index++) await load();
    expect((await failure(load())).rc).toBe(0x902);
    await keys.pop()?.[Symbol.asyncDispose]();
    await load();
  });

  test("a wrong TCTI is a TpmError of the connection; a missing one is a TypeError, never a search for some TPM", async () => {
    const error = await failure(Tpm.open({ tcti: "swtpm:path=/nonexistent/tpm.sock", nativeDirectory }));
    expect({ layer: error.layer, command: error.command }).toEqual({
      layer: "tcti",
      command: "Open",
    });
    expect((await failure(Tpm.open({ tcti: "nosuchtcti:x", nativeDirectory }))).command).toBe("Open");
    for (const tcti of ["", "swtpm", "device:", ":x", "/tmp/evil.so:x", "swtpm:path=\0"]) {
      await expect(Tpm.open({ tcti, nativeDirectory })).rejects.toThrow(TypeError);
    }
  });

  test("a failing command writes nothing to stderr, whatever TSS2_LOG asks for", async () => {
    const script = `
      const { Tpm } = await import("node-tpm2-tss");
      await Tpm.open({ tcti: "swtpm:path=/nonexistent", nativeDirectory: ${JSON.stringify(nativeDirectory)} }).catch((error) => console.log(error.command));`;
    const options = {
      cwd: root,
      env: { ...process.env, TSS2_LOG: "all+TRACE" },
    };
    const { stdout, stderr } = await promisify(execFile)(
      process.execPath,
      ["--input-type=module", "-e", script],
      options,
    );
    expect({ stdout, stderr }).toEqual({ stdout: "Open\n", stderr: "" });
  });

  test("the addon refuses unknown commands, wrong inputs and foreign connections", () => {
    const binding = loadBinding(nativeDirectory);
    const connection = binding.connection();
    const none = [0xfff, 0xfff, 0xfff] as const;
    expect(() => binding.run(connection, "NoSuchCommand", none, [1])).toThrow(TypeError);
    expect(() => binding.run(connection, "GetRandom", none, [])).toThrow(TypeError);
    expect(() => binding.run(connection, "GetRandom", none, [new Uint8Array(1)])).toThrow(TypeError);
    expect(() => binding.run({} as typeof connection, "GetRandom", none, [1])).toThrow(TypeError);
  });

  test("two commands at once on one native connection are refused; before opening a command fails", async () => {
    const binding = loadBinding(nativeDirectory);
    const connection = binding.connection();
    const none = [0xfff, 0xfff, 0xfff] as const;
    const first = binding.run(connection, "GetRandom", none, [1]);
    expect(() => binding.run(connection, "GetRandom", none, [1])).toThrow(TypeError);
    await expect(first).rejects.toBe(0x70005);
  });
});

test("I4: no source of the agent unseals through the binding: that is the unsealer's, in C", async () => {
  const isSource = (name: string) => /\.[cm]?[jt]s$/.test(name) && !name.startsWith("node-tpm2-tss/");
  for (const folder of ["agent", "attest", "policy", "seal"]) {
    for (const name of (await readdir(join(root, folder), { recursive: true })).filter(isSource)) {
      expect(await readFile(join(root, folder, name), "utf8"), `${folder}/${name}`).not.toMatch(
        /\.\s*unseal(ToFd)?\s*\(/,
      );
    }
  }
});

test("the software TPM leaves no file and no process when stopped, and a restart clears its PCRs", async () => {
  const other = await startSwtpm({ endorsement: "none" });
  const selection = [{ bank: "sha384", pcrs: [13] }] as const;
  {
    await using tpm = await Tpm.open({ tcti: other.tcti, nativeDirectory });
    await tpm.pcrExtend(13, new Map([["sha384", new Uint8Array(48).fill(7)] as const]));
  }
  await other.restart();
  {
    await using tpm = await Tpm.open({ tcti: other.tcti, nativeDirectory });
    expect((await tpm.pcrRead(selection)).get("sha384")?.get(13)).toEqual(new Uint8Array(48));
  }
  await other.stop();
  await other.stop();
  expect(await leftovers(other.directory)).toEqual([]);
});

function base64url(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("base64url");
}
