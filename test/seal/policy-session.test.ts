import fc from "fast-check";
import type { Session, TpmObject, Tpm as Tss } from "node-tpm2-tss";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  bootPcrValues,
  credentialRef,
  delegationSteps,
  EPOCH_INDEX,
  EPOCH_REF,
  EPOCH_ROOT_REF,
  firstIncrementSteps,
  fromHex,
  measureEpochName,
  measureKeyName,
  measureObjectPolicy,
  measurePolicy,
  NV_OPERATION,
  type NvOperation,
  type PolicyStep,
  RELEASE_REF,
  type Release,
  raiseDelegationSteps,
  raiseSteps,
  releaseSteps,
  type SigningKey,
  sealPcrValues,
  toHex,
  utf8,
} from "../../policy/index.ts";
import { signPolicy } from "../../seal/delegation.ts";
import { provisionEpoch } from "../../seal/epoch.ts";
import { createSigningKey } from "../../seal/keys.ts";
import { executePolicy, type PolicySources, verifyApprovalTicket } from "../../seal/policy-session.ts";
import { attestationKeyTemplate } from "../../seal/tpm-templates.ts";
import {
  type BenchKeys,
  boot,
  createBenchKeys,
  loadedHandles,
  makeRelease,
  newKey,
  openTss,
  predictPcrs,
} from "../support/sealing-bench.ts";
import { type SoftwareTpm, startSwtpm } from "../support/swtpm.ts";

let tpm: SoftwareTpm;
let tss: Tss;
let keys: BenchKeys;
let release: Release;
let index: TpmObject;

beforeAll(async () => {
  tpm = await startSwtpm({ endorsement: "keys" });
  await boot(tpm);
  keys = await createBenchKeys();
  release = await makeRelease(keys, { raise: true });
  tss = await openTss(tpm);
  await provisionEpoch(tss, keys.root.spkiPem, release.delegation);
  index = await tss.trFromTpmPublic(EPOCH_INDEX);
});
afterAll(async () => {
  await tss?.close();
  await tpm?.stop();
});

async function digestOf(kind: Session["kind"], steps: readonly PolicyStep[], sources?: PolicySources): Promise<string> {
  await using session = await tss.startAuthSession({ kind });
  await executePolicy(tss, session, steps, sources);
  return toHex(await tss.policyGetDigest(session));
}

/** The TPM's ticket for an approval made now. */
async function ticketFor(key: SigningKey, steps: readonly PolicyStep[], policyRef: Uint8Array): Promise<Uint8Array> {
  const signature = Uint8Array.from(Buffer.from(await signPolicy(key, steps, policyRef), "base64"));
  return verifyApprovalTicket(tss, key.spkiPem, steps, policyRef, signature);
}

const REF = utf8("a reference");
const pcrStep = (): PolicyStep => ({ kind: "pcr", pcrs: predictPcrs("image-1", "sha256") });
const nvStep = (operation: NvOperation, operand: bigint): PolicyStep => ({
  ...{ kind: "nv", name: measureEpochName(keys.root.spkiPem), operation, operand },
});
const commandCode = (code: number): PolicyStep => ({ kind: "commandCode", code });
const hierarchyName = (handle: number) => fromHex(handle.toString(16).padStart(8, "0"));
const OWNER = hierarchyName(0x4000_0001);
const ENDORSEMENT = hierarchyName(0x4000_000b);

interface Case {
  readonly steps: readonly PolicyStep[];
  readonly sources?: PolicySources;
}

// The counter is 1 after its first increment.
const singles: readonly (readonly [string, () => Case | Promise<Case>])[] = [
  ["pcr", () => ({ steps: [pcrStep()] })],
  ["nv unsignedLt", () => ({ steps: [nvStep("unsignedLt", 2n)], sources: { index } })],
  ["nv unsignedGe", () => ({ steps: [nvStep("unsignedGe", 1n)], sources: { index } })],
  ["nv unsignedLe", () => ({ steps: [nvStep("unsignedLe", 1n)], sources: { index } })],
  ["nvWritten yes", () => ({ steps: [{ kind: "nvWritten", written: true }] })],
  ["nvWritten no", () => ({ steps: [{ kind: "nvWritten", written: false }] })],
  ["commandCode", () => ({ steps: [commandCode(0x15e)] })],
  [
    "secret of the owner",
    () => ({ steps: [{ kind: "secret", name: OWNER, policyRef: REF }], sources: { authority: "owner" } }),
  ],
  [
    "secret of the endorsement hierarchy, without a policyRef",
    () => ({
      steps: [{ kind: "secret", name: ENDORSEMENT, policyRef: new Uint8Array() }],
      sources: { authority: "endorsement" },
    }),
  ],
  ["authValue", () => ({ steps: [{ kind: "authValue" }] })],
  [
    "or",
    () => {
      const branches = [commandCode(0x15e), commandCode(0x134)].map((step) => measurePolicy([step]));
      return { steps: [commandCode(0x134), { kind: "or", branches }] };
    },
  ],
  [
    "or of eight",
    () => {
      const branches = Array.from({ length: 8 }, (_, code) => measurePolicy([commandCode(0x11f + code)]));
      return { steps: [commandCode(0x126), { kind: "or", branches }] };
    },
  ],
  [
    "authorize",
    async () => {
      const approved = [commandCode(0x15e)];
      const { spkiPem } = keys.releaseKey;
      return {
        steps: [...approved, { kind: "authorize", keyName: measureKeyName(spkiPem), policyRef: REF }],
        sources: { tickets: [await ticketFor(keys.releaseKey, approved, REF)] },
      };
    },
  ],
  [
    "nested authorize",
    async () => {
      const inner = [commandCode(0x15e)];
      const outer: PolicyStep[] = [
        { kind: "authorize", keyName: measureKeyName(keys.releaseKey.spkiPem), policyRef: REF },
      ];
      const last: PolicyStep = {
        kind: "authorize",
        keyName: measureKeyName(keys.root.spkiPem),
        policyRef: RELEASE_REF,
      };
      return {
        steps: [...inner, ...outer, last],
        sources: {
          tickets: [await ticketFor(keys.releaseKey, inner, REF), await ticketFor(keys.root, outer, RELEASE_REF)],
        },
      };
    },
  ],
  [
    "authorize, then nv: the form of a delegation",
    async () => {
      const approved = [pcrStep()];
      const authorize: PolicyStep = {
        kind: "authorize",
        keyName: measureKeyName(keys.releaseKey.spkiPem),
        policyRef: REF,
      };
      return {
        steps: [...approved, authorize, nvStep("unsignedLe", 15n)],
        sources: { index, tickets: [await ticketFor(keys.releaseKey, approved, REF)] },
      };
    },
  ],
];

describe("each kind of step", () => {
  test.each(singles)(
    "I2: the digest of %s is what a trial and a real session of the TPM reach",
    async (_kind, make) => {
      const { steps, sources } = await make();
      const expected = toHex(measurePolicy(steps));
      expect(await digestOf("trial", steps, sources)).toBe(expected);
      expect(await digestOf("policy", steps, sources)).toBe(expected);
    },
  );

  test("I2: the digest of secret with an object is what a trial and a real session of the TPM reach", async () => {
    await using object = await tss.createPrimary("endorsement", attestationKeyTemplate);
    const steps: PolicyStep[] = [{ kind: "secret", name: object.name, policyRef: REF }];
    for (const kind of ["trial", "policy"] as const)
      expect(await digestOf(kind, steps, { authority: object })).toBe(toHex(measurePolicy(steps)));
  });

  test("I2: an RSA-2048 key approves as a P-256 key does", async () => {
    const { key } = await createSigningKey("rsa2048");
    const approved = [commandCode(0x15e)];
    const step: PolicyStep = { kind: "authorize", keyName: measureKeyName(key.spkiPem), policyRef: REF };
    const tickets = [await ticketFor(key, approved, REF)];
    for (const kind of ["trial", "policy"] as const)
      expect(await digestOf(kind, [...approved, step], { tickets })).toBe(toHex(measurePolicy([...approved, step])));
  });

  test("I2: an approval by another key than the one named is refused", async () => {
    const stranger = await newKey();
    const approved = [commandCode(0x15e)];
    const ticket = await ticketFor(stranger, approved, REF);
    const step: PolicyStep = { kind: "authorize", keyName: measureKeyName(keys.releaseKey.spkiPem), policyRef: REF };
    await expect(digestOf("policy", [...approved, step], { tickets: [ticket] })).rejects.toMatchObject({ rc: 0x4c4 });
  });
});

/** The five policies of `sealing-policy.ts`, the digest of what each of them leads to, and what it needs here. */
const concrete: readonly (readonly [string, () => Case & { readonly ref: Uint8Array; readonly signer: SigningKey }])[] =
  [
    [
      "releaseSteps",
      () => ({
        steps: releaseSteps(keys.root.spkiPem, sealPcrValues(release), 1),
        ...{ sources: { index }, ref: RELEASE_REF, signer: keys.releaseKey },
      }),
    ],
    [
      "raiseSteps",
      () => ({
        steps: raiseSteps(keys.root.spkiPem, bootPcrValues(release), 1),
        ...{ sources: { index }, ref: EPOCH_REF, signer: keys.releaseKey },
      }),
    ],
    ["firstIncrementSteps", () => ({ steps: firstIncrementSteps(), ref: EPOCH_ROOT_REF, signer: keys.root })],
  ];
const delegated: readonly (readonly [
  string,
  string,
  (lastEpoch: number) => readonly PolicyStep[],
  () => Uint8Array,
])[] = [
  [
    "delegationSteps",
    "releaseSteps",
    (lastEpoch) => delegationSteps(keys.root.spkiPem, keys.releaseKey.spkiPem, lastEpoch),
    () => credentialRef("hsm-pin"),
  ],
  [
    "raiseDelegationSteps",
    "raiseSteps",
    (lastEpoch) => raiseDelegationSteps(keys.root.spkiPem, keys.releaseKey.spkiPem, lastEpoch),
    () => EPOCH_ROOT_REF,
  ],
];

function concreteCase(name: string) {
  const found = concrete.find(([each]) => each === name)?.[1];
  if (found === undefined) throw new Error(name);
  return found();
}

describe("the policies that are signed", () => {
  test.each(concrete)("I2: %s and the approval of it are what trial and real sessions reach", async (_name, make) => {
    const { steps, sources, ref, signer } = make();
    const approval: PolicyStep = { kind: "authorize", keyName: measureKeyName(signer.spkiPem), policyRef: ref };
    const tickets = [await ticketFor(signer, steps, ref)];
    for (const kind of ["trial", "policy"] as const) {
      expect(await digestOf(kind, steps, sources)).toBe(toHex(measurePolicy(steps)));
      const whole = [...steps, approval];
      expect(await digestOf(kind, whole, { ...sources, tickets })).toBe(toHex(measurePolicy(whole)));
    }
  });

  test.each(delegated)("I2: %s over %s is what trial and real sessions reach", async (_name, own, make, rootRef) => {
    const { steps, ref } = concreteCase(own);
    const outer = make(9);
    const last: PolicyStep = { kind: "authorize", keyName: measureKeyName(keys.root.spkiPem), policyRef: rootRef() };
    const whole = [...steps, ...outer, last];
    const tickets = [await ticketFor(keys.releaseKey, steps, ref), await ticketFor(keys.root, outer, rootRef())];
    for (const kind of ["trial", "policy"] as const)
      expect(await digestOf(kind, whole, { index, tickets })).toBe(toHex(measurePolicy(whole)));
    expect(toHex(measurePolicy(outer))).toBe(await digestOf("trial", outer, { index }));
  });

  test("I2: what an object asks for is the approval of the root under the credential's own name", async () => {
    const { steps } = concreteCase("releaseSteps");
    const outer = delegationSteps(keys.root.spkiPem, keys.releaseKey.spkiPem, 9);
    const last = (name: string): PolicyStep => ({
      ...{ kind: "authorize", keyName: measureKeyName(keys.root.spkiPem), policyRef: credentialRef(name) },
    });
    const object = toHex(measureObjectPolicy(keys.root.spkiPem, "hsm-pin"));
    expect(await digestOf("trial", [...steps, ...outer, last("hsm-pin")], { index })).toBe(object);
    expect(await digestOf("trial", [...steps, ...outer, last("hsm-pin2")], { index })).not.toBe(object);
  });
});

describe("what is not the policy", () => {
  test("I2: swapped steps, an operand off by one, another operation and another value have another digest", async () => {
    const { steps } = concreteCase("releaseSteps");
    const [pcr, , code] = steps;
    if (pcr?.kind !== "pcr" || code === undefined) throw new TypeError("releaseSteps");
    const changed = new Map([...pcr.pcrs].map(([each, value]) => [each, each === 11 ? value.with(0, 1) : value]));
    const fewer = new Map([...pcr.pcrs].filter(([each]) => each !== 12));
    const others: readonly (readonly PolicyStep[])[] = [
      [nvStep("unsignedLe", 31n), pcr, code],
      [pcr, code, nvStep("unsignedLe", 31n)],
      [pcr, nvStep("unsignedLe", 30n), code],
      [pcr, nvStep("unsignedLe", 32n), code],
      [pcr, nvStep("unsignedLt", 31n), code],
      [pcr, nvStep("unsignedLe", 31n), commandCode(0x14b)],
      [pcr, nvStep("unsignedLe", 31n)],
      [{ kind: "pcr", pcrs: changed }, nvStep("unsignedLe", 31n), code],
      [{ kind: "pcr", pcrs: fewer }, nvStep("unsignedLe", 31n), code],
    ];
    const digests: string[] = [];
    for (const each of others) digests.push(await digestOf("trial", each, { index }));
    expect(digests).toEqual(others.map((each) => toHex(measurePolicy(each))));
    expect(new Set([...digests, await digestOf("trial", steps, { index })]).size).toBe(others.length + 1);
  });

  test("I2: the order in which the PCRs are named changes nothing, as for the TPM", async () => {
    const pcrs = new Map([...predictPcrs("image-1", "sha256")].toReversed());
    expect(await digestOf("policy", [{ kind: "pcr", pcrs }])).toBe(toHex(measurePolicy([pcrStep()])));
  });

  test("I2: a policy over the counter's Name without WRITTEN is another one, and is not run", async () => {
    const { spkiPem } = keys.root;
    const step: PolicyStep = {
      ...{ kind: "nv", operation: "unsignedLe", operand: 31n },
      name: measureEpochName(spkiPem, { written: false }),
    };
    expect(toHex(measurePolicy([step]))).not.toBe(await digestOf("trial", [nvStep("unsignedLe", 31n)], { index }));
    await expect(digestOf("policy", [step], { index })).rejects.toMatchObject({ code: "ERR_SEAL_POLICY" });
  });

  test("I2: a step that is not met is refused by the TPM where it stands", async () => {
    const other = new Map(predictPcrs("image-2", "sha256"));
    const refusals: readonly (readonly [readonly PolicyStep[], number])[] = [
      [[{ kind: "pcr", pcrs: other }], 0x1c4],
      [[nvStep("unsignedLt", 1n)], 0x126],
      [[nvStep("unsignedGe", 2n)], 0x126],
      [[nvStep("unsignedLe", 0n)], 0x126],
      [[commandCode(0x15e), { kind: "or", branches: [new Uint8Array(32), new Uint8Array(32)] }], 0x1c4],
    ];
    for (const [steps, rc] of refusals)
      await expect(digestOf("policy", steps, { index }), toHex(measurePolicy(steps))).rejects.toMatchObject({ rc });
  });

  test("a step without its source is a typed error, before the TPM is asked", async () => {
    const authorize: PolicyStep = { kind: "authorize", keyName: new Uint8Array(34), policyRef: REF };
    for (const step of [nvStep("unsignedLe", 1n), authorize, { kind: "secret", name: OWNER, policyRef: REF } as const])
      await expect(digestOf("policy", [step])).rejects.toMatchObject({ code: "ERR_SEAL_POLICY", exitCode: 1 });
  });
});

describe("any policy", () => {
  const pcrs = fc.uniqueArray(fc.tuple(fc.nat(23), fc.uint8Array({ minLength: 32, maxLength: 32 })), {
    ...{ minLength: 1, maxLength: 24, selector: ([each]: [number, Uint8Array]) => each },
  });
  const digest = fc.uint8Array({ minLength: 32, maxLength: 32 });
  const repeatable: fc.Arbitrary<() => PolicyStep> = fc.oneof(
    pcrs.map((values) => (): PolicyStep => ({ kind: "pcr", pcrs: new Map(values) })),
    fc.tuple(fc.constantFrom(...(Object.keys(NV_OPERATION) as NvOperation[])), fc.bigInt(0n, 2n ** 64n - 1n)).map(
      ([operation, operand]) =>
        () =>
          nvStep(operation, operand),
    ),
    fc.tuple(fc.uint8Array({ maxLength: 32 }), digest).map(
      ([policyRef, name]) =>
        (): PolicyStep => ({
          ...{ kind: "authorize", policyRef, keyName: Uint8Array.of(0, 11, ...name) },
        }),
    ),
    fc.uint8Array({ maxLength: 32 }).map((policyRef) => (): PolicyStep => ({ kind: "secret", name: OWNER, policyRef })),
    fc.constant((): PolicyStep => ({ kind: "authValue" })),
    fc.array(digest, { minLength: 2, maxLength: 8 }).map((branches) => (): PolicyStep => ({ kind: "or", branches })),
  );
  // A session takes one command code and one state of the index, also in trial.
  const steps = fc
    .tuple(
      fc.array(repeatable, { maxLength: 6 }),
      fc.constantFrom(0x11f, 0x134, 0x137, 0x14b, 0x15e, 0x193),
      fc.boolean(),
      fc.nat(6),
      fc.nat(6),
    )
    .map(([some, code, written, at, then]) => () => {
      const list = some.map((make) => make());
      return list.toSpliced(at, 0, commandCode(code)).toSpliced(then, 0, { kind: "nvWritten", written });
    });

  test("I2: for every list of steps the digest is that of a trial session, and no session stays open", async () => {
    await fc.assert(
      fc.asyncProperty(steps, async (make) => {
        const list = make();
        expect(await digestOf("trial", list, { index, authority: "owner" })).toBe(toHex(measurePolicy(list)));
      }),
      { numRuns: 100 },
    );
    expect(await loadedHandles(tss)).toEqual([]);
  });
});
