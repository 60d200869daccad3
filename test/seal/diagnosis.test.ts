import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { measureEpochName, SEAL_PCRS, toHex, verifyRelease } from "../../policy/index.ts";
import { adviceFor, UNSEAL_FINDINGS, type UnsealFindingCode } from "../../seal/advice.ts";
import { blocks, diagnoseUnseal, type UnsealFinding, type UnsealQuestion } from "../../seal/diagnosis.ts";
import type { EpochState } from "../../seal/epoch.ts";
import type { FreezeState } from "../../seal/freeze-bits.ts";
import { packageDigest } from "../../seal/package.ts";
import { openTpm } from "../../seal/tpm.ts";
import { LOGIN_OUTCOMES, type LoginOutcome, type LoginState } from "../../seal/tpm-records.ts";
import { readTpmState, type TpmState } from "../../seal/tpm-state.ts";
import { attestationKeyTemplate } from "../../seal/tpm-templates.ts";
import { openPackage } from "../support/open-package.ts";
import {
  boot,
  createBenchKeys,
  loadedHandles,
  lockOut,
  NOW,
  PIN,
  signedRelease,
  withTss,
} from "../support/sealing-bench.ts";
import { CONDITIONS } from "../support/unseal-conditions.ts";
import { type Condition, enter, type Machine, openMachine } from "../support/unseal-machine.ts";

let machine: Machine & AsyncDisposable;
beforeAll(async () => {
  machine = await openMachine();
});
afterAll(() => machine?.[Symbol.asyncDispose]());

async function diagnose(
  condition: Condition,
): Promise<{ findings: readonly UnsealFinding[]; opened: Uint8Array | null }> {
  await using entered = await enter(machine, condition);
  const { tpm, question } = entered;
  return await withTss(tpm, async (tss) => {
    const { sealed, releases } = question;
    const state = await readTpmState(tss, { ekName: sealed.ekName, name: sealed.name });
    const findings = diagnoseUnseal({ ...question, state });
    let opened: Uint8Array | null = null;
    for (const release of releases)
      opened ??= await openPackage(tss, { sealed, release, anchors: machine.keys.anchors }).catch(() => null);
    expect(await loadedHandles(tss)).toEqual([]);
    return { findings, opened };
  });
}

const wanted = () => ({ ekName: machine.sealed.ekName, name: machine.sealed.name });
const healthy = (): Omit<UnsealQuestion, "state"> => ({
  ...{ rootKeyPem: machine.keys.root.spkiPem, sealed: machine.sealed, releases: [machine.release] },
  ...{ knownEkName: toHex(machine.sealed.ekName), now: NOW },
});

/** These keep the credential sealed by a rule of ours and not by the TPM: it would release. */
const OUR_OWN_RULES: ReadonlySet<UnsealFindingCode> = new Set([
  "release-expired",
  "release-not-yet-valid",
  "credential-expired",
  "credential-rolled-back",
  "credential-ambiguous",
  "login-tried",
  "frozen",
  "freeze-missing",
  "freeze-foreign",
]);

describe("what stands between a sealed credential and its secret", () => {
  const cases = CONDITIONS.map((condition) => [condition.what, condition.codes.join(", "), condition] as const);
  test.each(cases)("I2: when %s, the diagnosis is [%s], and the TPM agrees", async (_what, _codes, condition) => {
    const { findings, opened } = await diagnose(condition);
    expect([...new Set(findings.map(({ code }) => code))]).toEqual(condition.codes);
    const { item, expected, got } = condition.shows ?? {};
    const shown = findings.some(
      (found) =>
        (item?.test(found.item) ?? true) && (expected?.test(found.expected) ?? true) && (got?.test(found.got) ?? true),
    );
    expect(condition.codes.length === 0 || shown, JSON.stringify(findings)).toBe(true);
    const stopped = findings.some((found) => blocks(found) && !OUR_OWN_RULES.has(found.code));
    // A counter that is not provisioned, or records that are not, stop the launch before the TPM is asked.
    if (stopped && !/only the counter|audit anchor/.test(condition.what)) expect(opened).toBe(null);
    else expect(opened).toEqual(PIN);
  });
});

test("I2: the lockout's end is said in the TPM's own time, and when it has come the finding is gone", async () => {
  await machine.fresh.restore();
  await boot(machine.tpm);
  await withTss(machine.tpm, async (tss) => {
    await tss.dictionaryAttackParameters({ maxTries: 2, recoveryTime: 6, lockoutRecovery: 0 });
    await lockOut(tss);
    const look = async () => diagnoseUnseal({ ...healthy(), state: await readTpmState(tss, wanted()) });
    expect(await look()).toMatchObject([{ code: "tpm-locked-out", got: "2 tries, ends in 6 s at most" }]);
    await expect.poll(look, { timeout: 30_000, interval: 500 }).toEqual([]);
  });
});

test("I2: a TPM that has no room to answer is a failure, not a finding about its hierarchies", async () => {
  await machine.fresh.restore();
  await withTss(machine.tpm, async (tss) => {
    for (let taken = 0; taken < 3; taken++) await tss.createPrimary("endorsement", attestationKeyTemplate);
    await expect(readTpmState(tss, wanted())).rejects.toMatchObject({ rc: 0x902 });
  });
});

describe("the table of findings", () => {
  /** Codes of whoever reads the cabinet and opens the TPM: `diagnoseUnseal` is asked only after that. */
  const READERS = ["release-malformed", "release-not-trusted", "credential-missing"];
  const BLOB = "blob-damaged";

  test("I2: every code is made for real here, by diagnoseBlob, or by what comes before both", () => {
    const made = CONDITIONS.flatMap(({ codes }) => codes);
    expect([...new Set([...made, ...READERS, BLOB])].sort()).toEqual(Object.keys(UNSEAL_FINDINGS).sort());
  });

  test("I2: what comes before both ends in a typed error of its own", async () => {
    const { keys, tpm } = machine;
    await expect(openTpm({ tcti: `${tpm.tcti}.nowhere` })).rejects.toMatchObject({ code: "ERR_TPM_UNAVAILABLE" });
    const signed = await signedRelease(keys);
    const { root } = await createBenchKeys();
    const verify = (bytes: Uint8Array, pem = keys.root.spkiPem) => verifyRelease(bytes, pem, NOW);
    await expect(verify(signed.slice(1))).rejects.toMatchObject({ code: "ERR_ENVELOPE_MALFORMED" });
    await expect(verify(signed, root.spkiPem)).rejects.toMatchObject({ code: "ERR_RELEASE_SIGNATURE" });
    expect((await verify(signed)).name).toBe("image-1");
  });

  test("every code has advice, and one that is none has not", () => {
    for (const code of Object.keys(UNSEAL_FINDINGS)) expect(adviceFor(code), code).toMatch(/^[^.]{20,}$/);
    for (const code of ["", "nothing", "toString", "__proto__"]) expect(adviceFor(code)).toBe(undefined);
  });
});

describe("whatever a TPM says", () => {
  const bytes = (size: number) => fc.uint8Array({ minLength: size, maxLength: size });
  const u32 = fc.nat(2 ** 32 - 1);
  const name = fc.oneof(bytes(34), bytes(50), fc.uint8Array({ minLength: 2, maxLength: 60 }));
  const epoch: fc.Arbitrary<EpochState> = fc.oneof(
    fc.constant({ kind: "missing" } as const),
    fc.record({
      ...{ kind: fc.constant("present" as const), value: fc.option(fc.bigInt(0n, 2n ** 64n - 1n)) },
      name: fc.oneof(
        name,
        fc.boolean().map((written) => measureEpochName(healthy().rootKeyPem, { written })),
      ),
    }),
  );
  const login: fc.Arbitrary<LoginState> = fc.oneof(
    fc.constantFrom({ kind: "missing" } as const, { kind: "none" } as const),
    fc.record({
      kind: fc.constant("record" as const),
      record: fc.record({
        ...{ name: fc.constant("hsm-pin"), generation: u32, tries: fc.bigInt(0n, 9n) },
        outcome: fc.constantFrom(...(Object.keys(LOGIN_OUTCOMES) as LoginOutcome[])),
        package: fc
          .oneof(bytes(32).map(toHex), fc.constant(null))
          .map((digest) => digest ?? packageDigest(healthy().sealed)),
      }),
    }),
  );
  const freeze: fc.Arbitrary<FreezeState> = fc.oneof(
    fc.constantFrom({ kind: "missing" } as const, { kind: "unwritten" } as const),
    fc.record({ kind: fc.constant("foreign" as const), got: name.map(toHex) }),
    fc.record({ kind: fc.constant("bits" as const), bits: fc.bigInt(0n, 2n ** 64n - 1n) }),
  );
  const value = fc.oneof(bytes(32), fc.constant(new Uint8Array(32)));
  const state: fc.Arbitrary<TpmState> = fc.record({
    ek: fc.oneof(
      fc.record({ kind: fc.constant("name" as const), name }),
      fc.record({ kind: fc.constant("failed" as const), rc: u32 }),
    ),
    ...{
      certifiedEkNames: fc.array(name, { maxLength: 3 }),
      inOwnerHierarchy: fc.boolean(),
      epoch,
      login,
      hasAnchor: fc.boolean(),
      freeze,
    },
    pcrs: fc.option(
      fc.tuple(...SEAL_PCRS.map((pcr) => value.map((each) => [pcr, each] as const))).map((each) => new Map(each)),
    ),
    ...{ permanent: u32, startupClear: fc.oneof(u32, fc.constant(0xf)) },
    lockout: fc.record({ counter: u32, maxTries: u32, intervalSeconds: u32 }),
  });
  const now = fc.oneof(fc.date(), fc.constant(new Date(Number.NaN)), fc.constant(NOW));

  test("I10: the diagnosis is a list of known findings, each with an item, what was expected and what was got", () => {
    fc.assert(
      fc.property(state, now, fc.boolean(), fc.option(name.map(toHex)), (each, time, some, knownEkName) => {
        const question = { ...healthy(), ...(some ? {} : { releases: [] }), state: each, now: time, knownEkName };
        for (const found of diagnoseUnseal(question)) {
          expect(Object.hasOwn(UNSEAL_FINDINGS, found.code)).toBe(true);
          expect(found.item.length * found.expected.length * found.got.length).toBeGreaterThan(0);
        }
      }),
      { numRuns: 1000 },
    );
  });

  test("I2: a clock that has no time expires everything that can expire", () => {
    const sealed = { ...healthy().sealed, notAfter: "2027-01-14T00:00:00Z" };
    const question = { ...healthy(), sealed, state: fc.sample(state, 1)[0] as TpmState, now: new Date(Number.NaN) };
    const codes = diagnoseUnseal(question).map(({ code }) => code);
    expect(codes).toContain("credential-expired");
    expect(codes).toContain("release-not-yet-valid");
  });
});
