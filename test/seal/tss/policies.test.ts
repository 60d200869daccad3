import { encodePcrSelection, OPERATION, type Session, type Tpm, type TpmError, type TpmObject } from "node-tpm2-tss";
import { describe, expect, test } from "vitest";
import { concatBytes, toHex } from "../../../policy/index.ts";
import {
  CC,
  failure,
  fileTpm,
  hash,
  NV,
  nothing,
  readWrite,
  refusal,
  sealedTemplate,
  softwareKey,
  storageTemplate,
  text,
  u8,
  u16,
  u32,
} from "./fixture.ts";

const open = fileTpm();
const zero = new Uint8Array(32);
const step = (digest: Uint8Array, code: number, ...parts: Uint8Array[]) => hash("sha256", digest, u32(code), ...parts);

/** The digest that `act` reaches, in a trial and in a policy session: the two must agree. */
async function reached(tpm: Tpm, act: (session: Session) => Promise<unknown>): Promise<string> {
  const digests: string[] = [];
  for (const kind of ["trial", "policy"] as const) {
    await using session = await tpm.startAuthSession({ kind });
    await act(session);
    digests.push(toHex(await tpm.policyGetDigest(session)));
  }
  expect(digests[1]).toBe(digests[0]);
  return digests[0] ?? "";
}

/** An index with these 4 bytes of data. */
async function writtenIndex(tpm: Tpm, index: number, data: Uint8Array): Promise<TpmObject> {
  const object = await tpm.nvDefineSpace({ index, attributes: readWrite, dataSize: data.length });
  await tpm.nvWrite(object, data);
  return object;
}

describe("every policy command reaches the digest computed without a TPM", () => {
  test("I2: PolicyPCR, PolicyCommandCode, and PolicyRestart back to zero", async () => {
    await using tpm = await open();
    const pcrs = [4, 9, 11, 12, 13];
    const selection = [{ bank: "sha256", pcrs }] as const;
    const values = (await tpm.pcrRead(selection)).get("sha256");
    const pcrDigest = hash("sha256", ...pcrs.map((pcr) => values?.get(pcr) ?? u16(0)));
    const afterPcr = step(zero, CC.policyPcr, encodePcrSelection(selection), pcrDigest);
    const digest = await reached(tpm, async (session) => {
      await tpm.policyCommandCode(session, CC.clear);
      await tpm.policyRestart(session);
      expect(await tpm.policyGetDigest(session)).toEqual(zero);
      await tpm.policyPcr(session, selection, pcrDigest);
      await tpm.policyCommandCode(session, CC.unseal);
    });
    expect(digest).toBe(toHex(step(afterPcr, CC.policyCommandCode, u32(CC.unseal))));
  });

  test("PolicyNV, over the index's present Name, and PolicyNvWritten", async () => {
    await using tpm = await open();
    await using index = await writtenIndex(tpm, 0x01800001, u32(7));
    const { name, attributes } = await tpm.nvReadPublic(index);
    expect(attributes & NV.written).not.toBe(0);
    const args = hash("sha256", u16(9), u16(2), u16(OPERATION.unsignedLe));
    const digest = await reached(tpm, async (session) => {
      await tpm.policyNv(session, index, u16(9), { offset: 2, operation: OPERATION.unsignedLe });
      await tpm.policyNvWritten(session, true);
    });
    expect(digest).toBe(toHex(step(step(zero, CC.policyNv, args, name), CC.policyNvWritten, u8(1))));
    await tpm.nvUndefineSpace(index);
  });

  test("PolicyAuthValue and PolicyPassword, which share one", async () => {
    await using tpm = await open();
    const expected = toHex(step(zero, CC.policyAuthValue));
    expect(await reached(tpm, (session) => tpm.policyAuthValue(session))).toBe(expected);
    expect(await reached(tpm, (session) => tpm.policyPassword(session))).toBe(expected);
  });

  test("PolicyCpHash and PolicyNameHash", async () => {
    await using tpm = await open();
    const value = hash("sha256", text("something"));
    expect(await reached(tpm, (session) => tpm.policyCpHash(session, value))).toBe(
      toHex(step(zero, CC.policyCpHash, value)),
    );
    expect(await reached(tpm, (session) => tpm.policyNameHash(session, value))).toBe(
      toHex(step(zero, CC.policyNameHash, value)),
    );
  });

  test("PolicyOR", async () => {
    await using tpm = await open();
    const branches = [step(zero, CC.policyAuthValue), step(zero, CC.policyCommandCode, u32(CC.unseal))];
    const digest = await reached(tpm, async (session) => {
      await tpm.policyCommandCode(session, CC.unseal);
      await tpm.policyOr(session, branches);
    });
    expect(digest).toBe(toHex(step(zero, CC.policyOr, ...branches)));
  });

  test("PolicySecret, with policyRef; a ticket comes when one is asked for", async () => {
    await using tpm = await open();
    const policyRef = text("reference");
    const endorsement = u32(0x4000000b); // a hierarchy's Name is its handle
    const digest = await reached(tpm, (session) => tpm.policySecret("endorsement", session, { policyRef }));
    expect(digest).toBe(toHex(hash("sha256", step(zero, CC.policySecret, endorsement), policyRef)));

    await using session = await tpm.startAuthSession({ kind: "policy" });
    const none = await tpm.policySecret("owner", session);
    expect([none.timeout.length, toHex(none.ticket)]).toEqual([0, "8023400000070000"]);
    const nonceTpm = await tpm.nonceTpm(session);
    const asked = await tpm.policySecret("owner", session, { nonceTpm, expiration: -60 });
    expect(asked.timeout.length).toBeGreaterThan(0);
    expect(asked.ticket.length).toBeGreaterThan(30);
  });

  test("PolicyAuthorize, with a ticket of the owner hierarchy; one of the null hierarchy is refused", async () => {
    await using tpm = await open();
    const { publicArea, name, sign } = softwareKey();
    const policyRef = text("ironclaw/release/v1");
    await using session = await tpm.startAuthSession({ kind: "policy" });
    await tpm.policyCommandCode(session, CC.unseal);
    const approved = await tpm.policyGetDigest(session);
    const message = concatBytes(approved, policyRef);
    const authorize = async (hierarchy: "null" | "owner") => {
      await using key = await tpm.loadExternal(publicArea, hierarchy);
      expect(toHex(key.name)).toBe(toHex(name));
      const ticket = await tpm.verifySignature(key, hash("sha256", message), sign(message));
      await tpm.policyAuthorize(session, approved, policyRef, key.name, ticket);
    };
    expect(await refusal(authorize("null"))).toBe("tpm PolicyAuthorize 0x4c4");
    await authorize("owner");
    const keyed = step(zero, CC.policyAuthorize, name);
    expect(toHex(await tpm.policyGetDigest(session))).toBe(toHex(hash("sha256", keyed, policyRef)));
  });
});

describe("what a policy command refuses", () => {
  const selection = [{ bank: "sha256", pcrs: [4] }] as const;

  test("I2: PolicyPCR with another expected digest, with the TPM's own code, decoded", async () => {
    await using tpm = await open();
    await using session = await tpm.startAuthSession({ kind: "policy" });
    const error = await failure(tpm.policyPcr(session, selection, hash("sha256", u32(9))));
    expect({ rc: error.rc, layer: error.layer, command: error.command }).toEqual({
      rc: 0x1c4,
      layer: "tpm",
      command: "PolicyPCR",
    });
    expect(error.message).toMatch(/^PolicyPCR: tpm:parameter\(1\):value is out of range.*\(0x1c4\)$/);
  });

  test.each<[string, (tpm: Tpm, session: Session) => Promise<unknown>]>([
    ["tpm PolicyCommandCode 0x1c4", (tpm, session) => tpm.policyCommandCode(session, CC.clear)],
    ["tpm PolicyNvWritten 0x1c4", (tpm, session) => tpm.policyNvWritten(session, false)],
    ["tpm PolicyCpHash 0x151", (tpm, session) => tpm.policyCpHash(session, hash("sha256", u8(2)))],
    ["tpm PolicyNameHash 0x1d5", (tpm, session) => tpm.policyNameHash(session, u8(1))],
    ["tpm PolicyOR 0x1c4", (tpm, session) => tpm.policyOr(session, [zero, hash("sha256", u8(2))])],
    ["tpm PolicyOR 0x1d5", (tpm, session) => tpm.policyOr(session, [zero])],
  ])("%s: a step that contradicts those before it, or is malformed", async (expected, contradict) => {
    await using tpm = await open();
    await using session = await tpm.startAuthSession({ kind: "policy" });
    await tpm.policyCommandCode(session, CC.unseal);
    await tpm.policyNvWritten(session, true);
    await tpm.policyCpHash(session, hash("sha256", u8(1)));
    expect(await refusal(contradict(tpm, session))).toBe(expected);
  });

  test("a session that is no policy session", async () => {
    await using tpm = await open();
    await using session = await tpm.startAuthSession({ kind: "hmac" });
    expect(await refusal(tpm.policyAuthValue(session))).toBe("tpm PolicyAuthValue 0x184");
    expect(await refusal(tpm.policyPassword(session))).toBe("tpm PolicyPassword 0x184");
    expect(await refusal(tpm.policyGetDigest(session))).toBe("tpm PolicyGetDigest 0x184");
    expect(await refusal(tpm.policyRestart(session))).toBe("tpm PolicyRestart 0x184");
  });

  test("PolicyNV whose comparison is false, for each operation", async () => {
    await using tpm = await open();
    await using index = await writtenIndex(tpm, 0x01800002, u32(3));
    const met = async (operand: number) => {
      const operations: string[] = [];
      for (const [name, operation] of Object.entries(OPERATION)) {
        await using session = await tpm.startAuthSession({ kind: "policy" });
        const compared = tpm.policyNv(session, index, u32(operand), { operation, authority: "owner" });
        const error = await compared.then(
          () => null,
          (cause: TpmError) => cause,
        );
        if (error === null) operations.push(name);
        else expect(error.rc).toBe(0x126);
      }
      return operations.join(" ");
    };
    expect(await met(1)).toBe("neq signedGt unsignedGt signedGe unsignedGe bitset");
    expect(await met(3)).toBe("eq signedGe unsignedGe signedLe unsignedLe bitset");
    expect(await met(4)).toBe("neq signedLt unsignedLt signedLe unsignedLe bitclear");
    expect(await met(0x80000000)).toBe("neq signedGt unsignedLt signedGe unsignedLe bitclear");
    await tpm.nvUndefineSpace(index);
  });

  test("PolicySecret without the authority's authValue", async () => {
    await using tpm = await open();
    await using session = await tpm.startAuthSession({ kind: "policy" });
    await tpm.setAuth("owner", u8(1));
    expect(await refusal(tpm.policySecret("owner", session))).toBe("tpm PolicySecret 0x9a2");
  });
});

describe("a policy that is met authorises its command, and no other", () => {
  const auth = text("authValue");
  const secret = text("secret");

  /** Seals `secret` with `auth` under the policy, and unseals it in a session in which `act` was done. */
  async function unsealUnder(
    tpm: Tpm,
    policy: Uint8Array,
    act: (session: Session, object: TpmObject) => Promise<unknown>,
    known = auth,
  ) {
    await using parent = await tpm.createPrimary("owner", storageTemplate);
    const made = await tpm.create(parent, sealedTemplate(policy), { sensitive: { auth, data: secret } });
    await using object = await tpm.load(parent, made.privateArea, made.publicArea);
    await tpm.setAuth(object, known);
    await using session = await tpm.startAuthSession({ kind: "policy" });
    await act(session, object);
    return await tpm.unseal(object, { sessions: [session] });
  }

  test.each(["policyAuthValue", "policyPassword"] as const)("%s needs the authValue too", async (method) => {
    await using tpm = await open();
    const policy = step(zero, CC.policyAuthValue);
    expect(await unsealUnder(tpm, policy, (session) => tpm[method](session))).toEqual(secret);
    expect(await refusal(unsealUnder(tpm, policy, (session) => tpm[method](session), u8(1)))).toBe("tpm Unseal 0x9a2");
  });

  test.each(["policyCpHash", "policyNameHash"] as const)("%s pins the object that is unsealed", async (method) => {
    await using tpm = await open();
    // The object's Name depends on its policy, so the policy cannot contain it: a signed one can.
    const { publicArea, name, sign } = softwareKey();
    const policy = hash("sha256", step(zero, CC.policyAuthorize, name));
    const pinned = (of: Uint8Array) =>
      method === "policyCpHash" ? hash("sha256", u32(CC.unseal), of) : hash("sha256", of);
    const pin = (nameOf: (object: TpmObject) => Uint8Array) => async (session: Session, object: TpmObject) => {
      await tpm[method](session, pinned(nameOf(object)));
      const approved = await tpm.policyGetDigest(session);
      await using key = await tpm.loadExternal(publicArea, "owner");
      const ticket = await tpm.verifySignature(key, hash("sha256", approved), sign(approved));
      await tpm.policyAuthorize(session, approved, nothing, name, ticket);
    };
    expect(
      await unsealUnder(
        tpm,
        policy,
        pin((object) => object.name),
      ),
    ).toEqual(secret);
    expect(
      await refusal(
        unsealUnder(
          tpm,
          policy,
          pin(() => name),
        ),
      ),
    ).toBe("tpm Unseal 0x99d");
  });

  test("a session that met nothing is refused", async () => {
    await using tpm = await open();
    const policy = step(zero, CC.policyCommandCode, u32(CC.unseal));
    expect(await refusal(unsealUnder(tpm, policy, async () => undefined))).toBe("tpm Unseal 0x99d");
  });
});
