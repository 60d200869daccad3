import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  concatBytes,
  EPOCH_INDEX,
  EPOCH_REF,
  EPOCH_ROOT_REF,
  encodeNvOperand,
  encodeVerificationKeyPublic,
  epochLimit,
  epochStart,
  firstIncrementSteps,
  fromHex,
  measureEpochName,
  measureEpochPolicy,
  measureKeyName,
  measureObjectPolicy,
  measurePolicy,
  RELEASE_REF,
  raiseSteps,
  releaseSteps,
  SEAL_PCRS,
  toHex,
  utf8,
} from "../../policy/index.ts";
import { createSigningKey } from "../../seal/keys.ts";
import { defineEpoch } from "../support/epoch-fixture.ts";
import { createSealKeys, type SealKeys } from "../support/seal-fixture.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";
import { readBytes, tpmTool, withFiles } from "../support/tpm-tools.ts";

const INDEX = `0x0${EPOCH_INDEX.toString(16)}`;
const ENDORSEMENT = fromHex("4000000b");
const BOOT = [4, 9, 11, 12];
let tpm: SoftwareTpm;
let keys: SealKeys;

beforeAll(async () => {
  tpm = await startSwtpm({ endorsement: "keys" });
  keys = await createSealKeys();
  await defineEpoch(tpm, keys);
  await tpmTool(tpm, "tpm2_pcrextend", `13:sha256=${"a5".repeat(32)}`, `9:sha256=${"99".repeat(32)}`);
});
afterAll(() => tpm?.stop());

type Tool = readonly [tool: string, ...args: string[]];

/** The digest that a trial session of the TPM reaches after these tools. */
async function trialDigest(...tools: readonly Tool[]): Promise<Uint8Array> {
  return withFiles({}, async (at) => {
    await tpmTool(tpm, "tpm2_startauthsession", "-S", at("session"));
    for (const [tool, ...args] of tools)
      await tpmTool(tpm, tool, "-S", at("session"), ...(takesDigest(tool) ? ["-L", at("digest")] : []), ...args);
    if (tools.every(([tool]) => !takesDigest(tool))) throw new Error("the last tool gives the digest");
    await tpmTool(tpm, "tpm2_flushcontext", at("session"));
    return readBytes(at("digest"));
  });
}

/** tpm2_policynv and tpm2_policynvwritten of this version take no -L when something follows; the last tool always does. */
const takesDigest = (tool: string) => tool !== "tpm2_policynv" && tool !== "tpm2_policynvwritten";

async function readPcrs(indices: readonly number[]): Promise<ReadonlyMap<number, Uint8Array>> {
  return withFiles({}, async (at) => {
    await tpmTool(tpm, "tpm2_pcrread", `sha256:${indices.join()}`, "-o", at("pcrs"));
    const values = await readBytes(at("pcrs"));
    return new Map(indices.map((index, order) => [index, values.slice(32 * order, 32 * order + 32)]));
  });
}

describe("predicted policy digests are the TPM's", () => {
  it("I2: of a release: PolicyPCR, PolicyNV, PolicyCommandCode, in this order", async () => {
    const pcrs = await readPcrs(SEAL_PCRS);
    const steps = releaseSteps(keys.root.spkiPem, pcrs, 3);
    await withFiles(
      { limit: encodeNvOperand(epochLimit(3)), next: encodeNvOperand(epochLimit(3) + 1n) },
      async (at) => {
        const tools = (limit: string): Tool[] => [
          ["tpm2_policypcr", "-l", `sha256:${SEAL_PCRS.join()}`],
          ["tpm2_policynv", "-C", INDEX, "-i", at(limit), INDEX, "ule"],
          ["tpm2_policycommandcode", "TPM2_CC_Unseal"],
        ];
        expect(measurePolicy(steps)).toEqual(await trialDigest(...tools("limit")));
        expect(measurePolicy(steps)).not.toEqual(await trialDigest(...tools("next")));
      },
    );
    expect(measurePolicy(steps.toReversed())).not.toEqual(measurePolicy(steps));
    const backwards = new Map([...pcrs].toReversed());
    expect(measurePolicy(releaseSteps(keys.root.spkiPem, backwards, 3))).toEqual(measurePolicy(steps));
  });

  it("I2: of a raise, and of the first increment", async () => {
    const steps = raiseSteps(keys.root.spkiPem, await readPcrs(BOOT), 2);
    await withFiles({ start: encodeNvOperand(epochStart(2)) }, async (at) => {
      const raise = trialDigest(
        ["tpm2_policypcr", "-l", `sha256:${BOOT.join()}`],
        ["tpm2_policynv", "-C", INDEX, "-i", at("start"), INDEX, "ult"],
        ["tpm2_policycommandcode", "TPM2_CC_NV_Increment"],
      );
      expect(measurePolicy(steps)).toEqual(await raise);
    });
    expect(measurePolicy(firstIncrementSteps())).toEqual(
      await trialDigest(["tpm2_policynvwritten", "c"], ["tpm2_policycommandcode", "TPM2_CC_NV_Increment"]),
    );
  });

  it("I2: of PolicySecret, PolicyAuthValue and PolicyOR", async () => {
    const ref = utf8("a reference");
    const secret = { kind: "secret", name: ENDORSEMENT, policyRef: new Uint8Array() } as const;
    const secretDigest = await trialDigest(["tpm2_policysecret", "-c", "e"]);
    expect(measurePolicy([secret])).toEqual(secretDigest);
    expect(measurePolicy([{ ...secret, policyRef: ref }])).toEqual(
      await trialDigest(["tpm2_policysecret", "-c", "e", "-q", toHex(ref)]),
    );
    const authValue = await trialDigest(["tpm2_policyauthvalue"]);
    expect(measurePolicy([{ kind: "authValue" }])).toEqual(authValue);
    await withFiles({ a: secretDigest, b: authValue }, async (at) => {
      const or = await trialDigest(["tpm2_policyor", `sha256:${at("a")},${at("b")}`]);
      expect(measurePolicy([{ kind: "or", branches: [secretDigest, authValue] }])).toEqual(or);
    });
  });

  it("I2: of the epoch counter: its Name, once it is written", async () => {
    const shown = await tpmTool(tpm, "tpm2_nvreadpublic", INDEX);
    expect(/name: ([0-9a-f]+)/.exec(shown)?.[1]).toBe(toHex(measureEpochName(keys.root.spkiPem)));
    expect(/authorization policy: ([0-9A-F]+)/i.exec(shown)?.[1]?.toLowerCase()).toBe(
      toHex(measureEpochPolicy(keys.root.spkiPem)),
    );
  });

  it.each(["p256", "rsa2048"] as const)(
    "I2: Names of %s keys and PolicyAuthorize under each reference",
    async (kind) => {
      const { key } = await createSigningKey(kind);
      const keyName = measureKeyName(key.spkiPem);
      const area = encodeVerificationKeyPublic(key.spkiPem);
      const sized = concatBytes(Uint8Array.of(area.length >> 8, area.length & 0xff), area);
      await withFiles({ public: sized, approved: new Uint8Array(32) }, async (at) => {
        await tpmTool(tpm, "tpm2_loadexternal", "-C", "o", "-u", at("public"), "-c", at("context"), "-n", at("name"));
        await tpmTool(tpm, "tpm2_flushcontext", "-t");
        expect(keyName).toEqual(await readBytes(at("name")));
        const authorize = (ref: Uint8Array) =>
          trialDigest(["tpm2_policyauthorize", "-i", at("approved"), "-q", toHex(ref), "-n", at("name")]);
        for (const policyRef of [RELEASE_REF, EPOCH_REF, EPOCH_ROOT_REF])
          expect(measurePolicy([{ kind: "authorize", keyName, policyRef }])).toEqual(await authorize(policyRef));
        expect(measureObjectPolicy(key.spkiPem, "hsm-pin")).toEqual(
          await authorize(utf8("ironclaw/credential/v2/hsm-pin")),
        );
        expect(measureEpochPolicy(key.spkiPem)).toEqual(await authorize(EPOCH_ROOT_REF));
      });
    },
  );

  it("I2: a credential's name is part of its object's policy", () => {
    const policies = ["hsm-pin", "hsm-pi", "tls-key"].map((name) =>
      toHex(measureObjectPolicy(keys.root.spkiPem, name)),
    );
    expect(new Set(policies).size).toBe(3);
    for (const name of ["", "HSM-PIN", "a b", "ä", "x".repeat(33), "a/b"])
      expect(() => measureObjectPolicy(keys.root.spkiPem, name)).toThrow(TypeError);
  });
});
