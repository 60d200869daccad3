import fc from "fast-check";
import { beforeAll, describe, expect, it } from "vitest";
import { predictAgentPcr } from "../../attest/index.ts";
import {
  encodeRelease,
  measureObjectPolicy,
  measurePolicy,
  PolicyError,
  type PolicyStep,
  parseEnvelope,
  parseRelease,
  RELEASE_TYPE,
  type Release,
  releasePolicySteps,
  SEAL_PCRS,
  sha256,
  signEnvelope,
  toHex,
  verifyRelease,
} from "../../policy/index.ts";
import { SealError } from "../../seal/errors.ts";
import { approveReleasePolicy, signDelegation, signRelease } from "../../seal/release.ts";
import { createSealKeys, LAUNCH, NOW, releaseDraft, type SealKeys, signedRelease } from "../support/seal-fixture.ts";

let keys: SealKeys;
let bytes: Uint8Array;

const AGENT = predictAgentPcr(LAUNCH).sha256;
const GOOD_PCRS = new Map(SEAL_PCRS.map((index) => [index, index === 13 ? AGENT : new Uint8Array(32)]));
const UNSEAL: PolicyStep = { kind: "commandCode", code: 0x15e };

beforeAll(async () => {
  keys = await createSealKeys();
  bytes = await signedRelease(keys);
});

/** A release that its own release key signed, whatever is in it. */
async function resigned(change: (release: Release) => Release): Promise<Uint8Array> {
  return signEnvelope(RELEASE_TYPE, encodeRelease(change(parseRelease(parseEnvelope(bytes).payload))), keys.releaseKey);
}

const verify = (document: Uint8Array, root = keys.root.spkiPem, now = NOW) => verifyRelease(document, root, now);

describe("signing a release", () => {
  it("I2: the policy is PolicyPCR over 4 9 11 12 13, then PolicyCommandCode(Unseal)", () => {
    expect(approveReleasePolicy(releasePolicySteps(GOOD_PCRS), LAUNCH)).toEqual(
      measurePolicy(releasePolicySteps(GOOD_PCRS)),
    );
  });

  it("I2: every other shape is refused", () => {
    const pcr = (pcrs: ReadonlyMap<number, Uint8Array>): PolicyStep => ({
      kind: "pcr",
      pcrs,
    });
    const without = (index: number) => new Map([...GOOD_PCRS].filter(([each]) => each !== index));
    const good = pcr(GOOD_PCRS);
    const authorize: PolicyStep = {
      kind: "authorize",
      keyName: new Uint8Array(34),
      policyRef: new Uint8Array(1),
    };
    const shapes: readonly PolicyStep[][] = [
      [],
      [good],
      [UNSEAL],
      [UNSEAL, good],
      [good, { kind: "commandCode", code: 0x14b }],
      [good, UNSEAL, UNSEAL],
      [good, good, UNSEAL],
      [authorize, UNSEAL],
      [good, authorize],
      [pcr(new Map()), UNSEAL],
      ...SEAL_PCRS.map((index) => [pcr(without(index)), UNSEAL]),
      [pcr(new Map([...GOOD_PCRS, [16, new Uint8Array(32)]])), UNSEAL],
      [pcr(new Map([...GOOD_PCRS, [23, new Uint8Array(32)]])), UNSEAL],
      [pcr(new Map([...GOOD_PCRS, [9, new Uint8Array(31)]])), UNSEAL],
    ];
    for (const steps of shapes) {
      expect(() => approveReleasePolicy(steps, LAUNCH)).toThrow(
        expect.objectContaining({ code: "ERR_RELEASE_REFUSED", exitCode: 1 }),
      );
    }
  });

  it("I3: an agent PCR that is zero, capped, or not the replay of the events is refused", () => {
    const withAgent = (value: Uint8Array) => releasePolicySteps(new Map([...GOOD_PCRS, [13, value]]));
    const capped = (name: string) =>
      predictAgentPcr([...LAUNCH, { kind: "cap", name, sha256: sha256(new Uint8Array()) }]).sha256;
    expect(() => approveReleasePolicy(withAgent(new Uint8Array(32)), LAUNCH)).toThrow(/zero/);
    for (const name of ["serving", "refused"])
      expect(() => approveReleasePolicy(withAgent(capped(name)), LAUNCH)).toThrow(/capped/);
    expect(() => approveReleasePolicy(withAgent(AGENT), LAUNCH.slice(1))).toThrow(/replay/);
    expect(() => approveReleasePolicy(withAgent(new Uint8Array(32)), [])).toThrow(/zero/);
  });

  it("I2: a second bank that does not replay, and an approval of another release key, are refused", async () => {
    const draft = releaseDraft();
    const delegation = await signDelegation(keys.root, keys.releaseKey.spkiPem);
    const sha384 = { ...draft.pcrs.sha384, 13: "00".repeat(48) };
    const wrongBank = signRelease(
      { ...draft, pcrs: { ...draft.pcrs, sha384 } },
      { releaseKey: keys.releaseKey, delegation },
    );
    await expect(wrongBank).rejects.toBeInstanceOf(SealError);
    await expect(signRelease(draft, { releaseKey: keys.operator, delegation })).rejects.toThrow(/delegation/);
  });

  it("I2: PCRs 16 to 23, uneven banks, an event of after the unseal and an unknown field are refused", async () => {
    const draft = releaseDraft();
    const delegation = await signDelegation(keys.root, keys.releaseKey.spkiPem);
    const sign = (change: object) => signRelease({ ...draft, ...change }, { releaseKey: keys.releaseKey, delegation });
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
      { epoch: -1 },
      { notAfter: "2026-01-01T00:00:00Z" },
    ]) {
      await expect(sign(change)).rejects.toMatchObject({
        code: "ERR_RELEASE_MALFORMED",
      });
    }
    await expect(sign(more("0"))).resolves.toBeInstanceOf(Uint8Array);
    const capped = {
      events: [...draft.events, { kind: "cap", name: "serving", sha256: "00".repeat(32) }],
    };
    await expect(sign(capped)).rejects.toBeInstanceOf(Error);
  });
});

describe("verifying a release", () => {
  it("I2: a signed release verifies and reads as it was written", async () => {
    const release = await verify(bytes);
    expect(release).toMatchObject({
      ...releaseDraft(),
      version: 1,
      agentPcr: 13,
    });
    expect(encodeRelease(release)).toEqual(parseEnvelope(bytes).payload);
    expect(toHex(measureObjectPolicy(keys.root.spkiPem))).toHaveLength(64);
  });

  it("I2: another root refuses it", async () => {
    const other = await createSealKeys();
    await expect(verify(bytes, other.root.spkiPem)).rejects.toMatchObject({
      code: "ERR_RELEASE_SIGNATURE",
    });
    await expect(verify(await signedRelease(other))).rejects.toMatchObject({
      code: "ERR_RELEASE_SIGNATURE",
    });
  });

  it("I2: outside its dates it is refused, at both ends it is not", async () => {
    for (const day of ["2027-01-01T00:00:00Z", "2027-12-31T23:59:59Z"]) await verify(bytes, undefined, new Date(day));
    for (const day of ["2026-12-31T23:59:59Z", "2028-01-01T00:00:00Z"]) {
      await expect(verify(bytes, undefined, new Date(day))).rejects.toThrow(/dates/);
    }
    await expect(verify(bytes, undefined, new Date(Number.NaN))).rejects.toBeInstanceOf(PolicyError);
  });

  it("I2: values that the release key signed as a document but not for the TPM are refused", async () => {
    const other = await createSealKeys();
    const pcr11 = (release: Release) => ({
      ...release.pcrs,
      sha256: { ...release.pcrs.sha256, 11: "11".repeat(32) },
    });
    const changes: [(release: Release) => Release, RegExp][] = [
      [(release) => ({ ...release, pcrs: pcr11(release) }), /tpmPolicy.approved/],
      [
        (release) => ({
          ...release,
          tpmPolicy: { ...release.tpmPolicy, policyRef: "00" },
        }),
        /tpmPolicy.policyRef/,
      ],
      [
        (release) => ({
          ...release,
          tpmPolicy: {
            ...release.tpmPolicy,
            signature: release.delegation.signature,
          },
        }),
        /tpmPolicy.signature/,
      ],
      [
        (release) => ({
          ...release,
          delegation: {
            ...release.delegation,
            signature: release.tpmPolicy.signature,
          },
        }),
        /delegation.signature/,
      ],
      [(release) => ({ ...release, delegation: release.tpmPolicy }), /delegation.policyRef/],
      [(release) => ({ ...release, releaseKey: other.releaseKey.spkiPem }), /delegation.approved/],
    ];
    for (const [change, message] of changes) {
      const refusal = verify(await resigned(change));
      await expect(refusal).rejects.toThrow(message);
      await expect(refusal).rejects.toMatchObject({
        code: "ERR_RELEASE_SIGNATURE",
        exitCode: 3,
      });
    }
  });

  it("I2: a document that another key signed is refused though its approvals are genuine", async () => {
    const stolen = await signEnvelope(RELEASE_TYPE, parseEnvelope(bytes).payload, keys.operator);
    await expect(verify(stolen)).rejects.toMatchObject({
      code: "ERR_ENVELOPE_SIGNATURE",
    });
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
