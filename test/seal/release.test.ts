import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { predictAgentPcr } from "../../attest/index.ts";
import {
  encodeRelease,
  epochLimit,
  measureEpochName,
  PolicyError,
  type PolicyStep,
  parseEnvelope,
  parseRelease,
  RELEASE_TYPE,
  type Release,
  releaseSteps,
  SEAL_PCRS,
  sealPcrValues,
  sha256,
  signEnvelope,
  utf8,
  verifyRelease,
} from "../../policy/index.ts";
import { SealError } from "../../seal/errors.ts";
import { checkReleasePolicy, type ReleaseDraft, signRelease } from "../../seal/release.ts";
import {
  createSealKeys,
  LAUNCH,
  NOW,
  releaseDraft,
  type SealKeys,
  signDelegationOf,
  signedRelease,
} from "../support/seal-fixture.ts";

let keys: SealKeys;
let bytes: Uint8Array;

const AGENT = predictAgentPcr(LAUNCH).sha256;
const GOOD_PCRS = sealPcrValues(releaseDraft());
const UNSEAL: PolicyStep = { kind: "commandCode", code: 0x15e };
const EPOCH = 1;

beforeAll(async () => {
  keys = await createSealKeys();
  bytes = await signedRelease(keys, { ...releaseDraft(), raise: true });
});

const verify = (document: Uint8Array, root = keys.root.spkiPem, now = NOW) => verifyRelease(document, root, now);

/** A release that its own release key signed, whatever is in it. */
async function resigned(change: (release: Release) => Release): Promise<Uint8Array> {
  return signEnvelope(RELEASE_TYPE, encodeRelease(change(parseRelease(parseEnvelope(bytes).payload))), keys.releaseKey);
}

async function sign(change: Partial<ReleaseDraft>): Promise<Uint8Array> {
  return signedRelease(keys, { ...releaseDraft(), ...change });
}

const withPcr = (index: number, value: string): Pick<ReleaseDraft, "pcrs"> => {
  const { sha256: first, sha384 } = releaseDraft().pcrs;
  return { pcrs: { sha256: { ...first, [index]: value }, sha384 } };
};

describe("the policy that a release key approves", () => {
  const context = () => ({ events: LAUNCH, epochName: measureEpochName(keys.root.spkiPem), epoch: EPOCH });
  const check = (steps: readonly PolicyStep[]) => checkReleasePolicy(steps, context());
  const pcr = (pcrs: ReadonlyMap<number, Uint8Array>): PolicyStep => ({ kind: "pcr", pcrs });
  const nv = (change: Partial<Extract<PolicyStep, { kind: "nv" }>> = {}): PolicyStep => ({
    ...{ kind: "nv", name: context().epochName, operation: "unsignedLe", operand: epochLimit(EPOCH) },
    ...change,
  });
  const good = pcr(GOOD_PCRS);
  const refusal = expect.objectContaining({ code: "ERR_RELEASE_REFUSED", exitCode: 1 });

  it("I2: is PolicyPCR over 4 9 11 12 13, PolicyNV of the epoch, PolicyCommandCode(Unseal)", () => {
    expect(() => check(releaseSteps(keys.root.spkiPem, GOOD_PCRS, EPOCH))).not.toThrow();
    expect(() => check([good, nv(), UNSEAL])).not.toThrow();
  });

  it("I3: without PolicyPCR it is refused: a satisfied session would outlive the cap", () => {
    for (const steps of [[nv(), UNSEAL], [UNSEAL], [nv(), good, UNSEAL], [UNSEAL, nv(), good]])
      expect(() => check(steps)).toThrow(refusal);
    expect(() => check([nv(), UNSEAL])).toThrow(/policy step 1: expected PolicyPCR/);
  });

  it("I2: without PolicyNV of this epoch's limit it is refused: no later release could end it", () => {
    expect(() => check([good, UNSEAL])).toThrow(/policy step 2: expected PolicyNV/);
    for (const other of [
      nv({ operand: epochLimit(EPOCH) + 1n }),
      nv({ operand: epochLimit(EPOCH + 1) }),
      nv({ operation: "unsignedGe" }),
      nv({ operation: "unsignedLt" }),
      nv({ name: context().epochName.map((byte, at) => (at === 33 ? byte ^ 1 : byte)) }),
      { kind: "nvWritten", written: true } as const,
    ]) {
      expect(() => check([good, other, UNSEAL])).toThrow(refusal);
    }
  });

  it("I7: without PolicyCommandCode(Unseal) it is refused: the object could be duplicated in clear", () => {
    expect(() => check([good, nv()])).toThrow(/policy step 3: expected PolicyCommandCode/);
    const duplicate: PolicyStep = { kind: "commandCode", code: 0x14b };
    for (const steps of [
      [good, nv(), duplicate],
      [good, nv(), nv()],
    ])
      expect(() => check(steps)).toThrow(refusal);
  });

  it("I2: every other shape is refused", () => {
    const without = (index: number) => new Map([...GOOD_PCRS].filter(([each]) => each !== index));
    const authorize: PolicyStep = { kind: "authorize", keyName: new Uint8Array(34), policyRef: new Uint8Array(1) };
    const shapes: readonly (readonly PolicyStep[])[] = [
      [],
      [good],
      [good, nv(), UNSEAL, UNSEAL],
      [good, nv(), UNSEAL, { kind: "authValue" }],
      [good, good, nv(), UNSEAL],
      [authorize, nv(), UNSEAL],
      [good, authorize, UNSEAL],
      [good, nv(), authorize],
      [good, nv(), { kind: "or", branches: [new Uint8Array(32), new Uint8Array(32)] }],
      [{ kind: "secret", name: new Uint8Array(4), policyRef: new Uint8Array() }, nv(), UNSEAL],
      [pcr(new Map()), nv(), UNSEAL],
      ...SEAL_PCRS.map((index) => [pcr(without(index)), nv(), UNSEAL]),
      [pcr(new Map([...GOOD_PCRS, [16, new Uint8Array(32)]])), nv(), UNSEAL],
      [pcr(new Map([...GOOD_PCRS, [23, new Uint8Array(32)]])), nv(), UNSEAL],
      [pcr(new Map([...GOOD_PCRS, [9, new Uint8Array(31)]])), nv(), UNSEAL],
    ];
    for (const steps of shapes) expect(() => check(steps)).toThrow(refusal);
  });

  it("I3: an agent PCR that is zero, capped, or not the replay of the events is refused", () => {
    const withAgent = (value: Uint8Array) => [pcr(new Map([...GOOD_PCRS, [13, value]])), nv(), UNSEAL];
    const capped = (name: string) =>
      predictAgentPcr([...LAUNCH, { kind: "cap", name, sha256: sha256(new Uint8Array()) }]).sha256;
    expect(() => check(withAgent(new Uint8Array(32)))).toThrow(/zero/);
    for (const name of ["serving", "refused"]) expect(() => check(withAgent(capped(name)))).toThrow(/capped/);
    expect(() => checkReleasePolicy(withAgent(AGENT), { ...context(), events: LAUNCH.slice(1) })).toThrow(/replay/);
    expect(() => checkReleasePolicy(withAgent(new Uint8Array(32)), { ...context(), events: [] })).toThrow(/zero/);
  });
});

describe("signing a release", () => {
  it("I2: a boot PCR of zero is refused, but for PCR 12", async () => {
    for (const index of [4, 9, 11])
      await expect(sign(withPcr(index, "00".repeat(32)))).rejects.toThrow(
        new RegExp(`PCR ${index}: expected a measured`),
      );
    await expect(sign(withPcr(12, "00".repeat(32)))).resolves.toBeInstanceOf(Uint8Array);
  });

  it("I2: a second bank that does not replay is refused", async () => {
    const { pcrs } = releaseDraft();
    const wrong = sign({ pcrs: { ...pcrs, sha384: { ...pcrs.sha384, 13: "00".repeat(48) } } });
    await expect(wrong).rejects.toBeInstanceOf(SealError);
  });

  it("I2: an epoch that the root has not delegated, and one with no epoch to end, are refused", async () => {
    await expect(sign({ epoch: 4 })).resolves.toBeInstanceOf(Uint8Array);
    await expect(sign({ epoch: 5 })).rejects.toThrow(/epoch: expected at most 4/);
    await expect(sign({ epoch: 0, raise: true })).rejects.toThrow(/to end a lower one/);
    await expect(sign({ epoch: 0 })).resolves.toBeInstanceOf(Uint8Array);
  });

  it("I2: a delegation of another key or of another root is refused", async () => {
    const delegation = await signDelegationOf(keys);
    const stranger = await createSealKeys();
    const draft = releaseDraft();
    const { releaseKey, root } = keys;
    for (const other of [
      { releaseKey: keys.operator, delegation, rootKeyPem: root.spkiPem },
      { releaseKey, delegation, rootKeyPem: stranger.root.spkiPem },
      { releaseKey, delegation: await signDelegationOf(stranger), rootKeyPem: root.spkiPem },
    ]) {
      await expect(signRelease(draft, other)).rejects.toMatchObject({ code: "ERR_RELEASE_SIGNATURE" });
    }
  });

  it("I2: PCRs 16 to 23, uneven banks, dates out of order and an event of after the unseal are refused", async () => {
    const draft = releaseDraft();
    const more = (index: string, both = true) => ({
      pcrs: {
        sha256: { ...draft.pcrs.sha256, [index]: "00".repeat(32) },
        sha384: both ? { ...draft.pcrs.sha384, [index]: "00".repeat(48) } : draft.pcrs.sha384,
      },
    });
    for (const change of [
      more("16"),
      more("23"),
      more("17"),
      more("04"),
      more("0", false),
      { notAfter: "2026-01-01T00:00:00Z" },
      { notAfter: "2027-12-31T23:59:59+01:00" },
    ]) {
      await expect(sign(change)).rejects.toMatchObject({ code: "ERR_RELEASE_MALFORMED" });
    }
    await expect(sign(more("0"))).resolves.toBeInstanceOf(Uint8Array);
    await expect(sign({ epoch: -1 })).rejects.toBeInstanceOf(Error);
    const cap = { kind: "cap", name: "serving", sha256: "00".repeat(32) } as unknown as ReleaseDraft["events"][number];
    await expect(sign({ events: [...draft.events, cap] })).rejects.toBeInstanceOf(Error);
  });
});

describe("verifying a release", () => {
  it("I2: a signed release verifies and reads as it was written", async () => {
    const release = await verify(bytes);
    const { raise: _raise, ...draft } = releaseDraft();
    expect(release).toMatchObject({ ...draft, version: 2, agentPcr: 13 });
    expect(release.raise).not.toBeNull();
    expect((await verify(await sign({}))).raise).toBeNull();
    expect(encodeRelease(release)).toEqual(parseEnvelope(bytes).payload);
  });

  it("I2: another root refuses it", async () => {
    const other = await createSealKeys();
    const refusal = { code: "ERR_RELEASE_SIGNATURE" };
    await expect(verify(bytes, other.root.spkiPem)).rejects.toMatchObject(refusal);
    await expect(verify(await signedRelease(other))).rejects.toMatchObject(refusal);
  });

  it("I2: outside its dates it is refused, at both ends it is not", async () => {
    for (const day of ["2027-01-01T00:00:00Z", "2027-12-31T23:59:59Z"]) await verify(bytes, undefined, new Date(day));
    await expect(verify(bytes, undefined, new Date("2026-12-31T23:59:59Z"))).rejects.toMatchObject({
      code: "ERR_RELEASE_NOT_YET_VALID",
    });
    await expect(verify(bytes, undefined, new Date("2028-01-01T00:00:00Z"))).rejects.toMatchObject({
      code: "ERR_RELEASE_EXPIRED",
    });
    await expect(verify(bytes, undefined, new Date(Number.NaN))).rejects.toBeInstanceOf(PolicyError);
  });

  it("I2: what the release key signed as a document but not for the TPM is refused, field by field", async () => {
    const other = await createSealKeys();
    const pcr11 = (release: Release) => ({
      ...release.pcrs,
      sha256: { ...release.pcrs.sha256, 11: "11".repeat(32) },
    });
    const delegated = (change: Partial<Release["delegation"]>) => (release: Release) => ({
      ...release,
      delegation: { ...release.delegation, ...change },
    });
    const [credential] = parseRelease(parseEnvelope(bytes).payload).delegation.credentials;
    const signature = credential?.signature ?? "";
    const changes: readonly (readonly [(release: Release) => Release, RegExp])[] = [
      [(release) => ({ ...release, pcrs: pcr11(release) }), /release unseal/],
      [(release) => ({ ...release, epoch: 2 }), /release unseal/],
      [(release) => ({ ...release, unseal: release.raise ?? "" }), /release unseal/],
      [(release) => ({ ...release, raise: release.unseal }), /release raise/],
      [(release) => ({ ...release, unseal: release.delegation.first }), /release unseal/],
      [(release) => ({ ...release, releaseKey: other.releaseKey.spkiPem }), /delegation.credentials.hsm-pin/],
      [delegated({ lastEpoch: 5 }), /delegation.credentials.hsm-pin/],
      [delegated({ credentials: [{ name: "other", signature }] }), /delegation.credentials.other/],
      [
        delegated({
          credentials: [
            { name: "a", signature },
            { name: "hsm-pin", signature },
          ],
        }),
        /credentials.a/,
      ],
      [delegated({ first: signature }), /delegation.first/],
      [delegated({ raise: signature }), /delegation.raise/],
    ];
    for (const [change, message] of changes) {
      const refusal = verify(await resigned(change));
      await expect(refusal).rejects.toThrow(message);
      await expect(refusal).rejects.toMatchObject({ code: "ERR_RELEASE_SIGNATURE", exitCode: 3 });
    }
  });

  it("I2: a release without its raise is another document, which only the release key can sign", async () => {
    const { payload } = parseEnvelope(bytes);
    const plain = encodeRelease({ ...parseRelease(payload), raise: null });
    await expect(verify(await signEnvelope(RELEASE_TYPE, plain, keys.operator))).rejects.toMatchObject({
      code: "ERR_ENVELOPE_SIGNATURE",
    });
  });

  it("I2: a document that another key signed is refused though its approvals are genuine", async () => {
    const stolen = await signEnvelope(RELEASE_TYPE, parseEnvelope(bytes).payload, keys.operator);
    await expect(verify(stolen)).rejects.toMatchObject({ code: "ERR_ENVELOPE_SIGNATURE" });
  });

  it("I10: a document of version 1, or with a field more or less, is refused", async () => {
    const text = new TextDecoder().decode(parseEnvelope(bytes).payload);
    const others = [
      text.replace('"version":2', '"version":1'),
      text.replace('"version":2', '"version":3'),
      text.replace('"version":2,', ""),
      text.replace('"version":2,', '"version":2,"extra":1,'),
      text.replace('"lastEpoch":4', '"lastEpoch":0'),
      text.replace('"lastEpoch":4', '"lastEpoch":4294967296'),
      text.replace('"epoch":1', '"epoch":1.0'),
      text.replace(/"raise":"[^"]*","releaseKey"/, '"releaseKey"'),
      ` ${text}`,
    ];
    for (const other of others) {
      expect(other).not.toBe(text);
      expect(() => parseRelease(utf8(other))).toThrow(PolicyError);
    }
  });

  it("I10: random and mutated documents end in a typed error", async () => {
    const { payload } = parseEnvelope(bytes);
    const mutated = fc
      .tuple(fc.nat(payload.length - 1), fc.nat(255))
      .filter(([at, to]) => payload[at] !== to)
      .map(([at, to]) => payload.map((byte, index) => (index === at ? to : byte)));
    await fc.assert(
      fc.asyncProperty(fc.oneof(mutated, fc.uint8Array({ maxLength: 300 })), async (input) => {
        await expect(verify(await signEnvelope(RELEASE_TYPE, input, keys.operator))).rejects.toBeInstanceOf(
          PolicyError,
        );
      }),
      { numRuns: 200 },
    );
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), (input) => {
        expect(() => parseRelease(input)).toThrow(PolicyError);
      }),
    );
  });
});
