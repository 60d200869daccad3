import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { toHex } from "../../policy/index.ts";
import {
  carryOutOrder,
  encodeLoginRecord,
  type LoginRecord,
  type LoginState,
  memoryMedium,
  openEkCertificate,
  readLogin,
  STORE_BYTES,
  signOrder,
  verifyOrder,
} from "../../seal/index.ts";
import type { TriedPin } from "../support/counting-token.ts";
import { asked, type LaunchChecks, openLaunchChecks, programsWith, reasonsOf } from "../support/launch-checks.ts";
import {
  type Boot,
  type BootOptions,
  LAUNCH_PIN,
  type LaunchBench,
  type Provisioned,
  withTpm,
} from "../support/launch-fixture.ts";
import { TPM_CC } from "../support/tpm-bus.ts";

const WRONG_PIN = "no-such-pin-5501-quillwort";

let checks: LaunchChecks;
let bench: LaunchBench;
beforeAll(async () => {
  checks = await openLaunchChecks({ token: "counting" });
  ({ bench } = checks);
});
afterAll(() => bench[Symbol.asyncDispose]());

const boot: LaunchChecks["boot"] = (...args) => checks.boot(...args);
const counter = () => {
  if (bench.token.counter === null) throw new Error("a token that counts");
  return bench.token.counter;
};
let triedBefore = 0;
/** What the token has seen since the test began. */
const logins = (): readonly TriedPin[] => counter().logins().slice(triedBefore);
beforeEach(() => {
  counter().setTries(0);
  triedBefore = counter().logins().length;
  writeFileSync(join(counter().directory, "pin"), LAUNCH_PIN);
});

const loginState = (): Promise<LoginState> => withTpm(bench.bus, ({ tss }) => readLogin(tss, "hsm-pin"));
async function loginRecord(): Promise<LoginRecord> {
  const state = await loginState();
  if (state.kind !== "record") throw new Error(`login record: ${state.kind}`);
  return state.record;
}
/** The operator's order, made from what the machine says, verified and carried out as the agent does it. */
async function allowRetry(): Promise<void> {
  const { operator } = bench.keys;
  const record = toHex(encodeLoginRecord(await loginRecord()));
  const { name: ekName } = openEkCertificate(bench.ekCertificate);
  const order = { version: 1, order: "retry-login", ekName: toHex(ekName), name: "hsm-pin", record } as const;
  const signed = await signOrder(order, operator);
  const provision = () => Promise.reject(new Error("not ordered"));
  const place = { ekName, boot: new Uint8Array(32), provision, owner: null };
  await withTpm(bench.bus, async ({ tss }) => carryOutOrder(tss, await verifyOrder(signed, operator.spkiPem), place));
  // It is used up: the record it names is not the present one any more.
  await expect(
    withTpm(bench.bus, async ({ tss }) => carryOutOrder(tss, await verifyOrder(signed, operator.spkiPem), place)),
  ).rejects.toMatchObject({ code: "ERR_ORDER" });
}

async function launchOn(machine: Provisioned, options: BootOptions = {}): Promise<Boot> {
  const booted = await boot(options, machine);
  await booted[Symbol.asyncDispose]();
  return booted;
}
async function expectRefusedAs(code: string, machine: Provisioned, options: BootOptions = {}): Promise<Boot> {
  const booted = await launchOn(machine, options);
  expect(reasonsOf(booted).map((found) => found.code)).toEqual([code]);
  expect(booted.record.answers).toEqual([]);
  await checks.expectRefused(booted, machine);
  return booted;
}
async function expectNotTried(code: string, machine: Provisioned, options: BootOptions = {}): Promise<void> {
  const before = counter().logins().length;
  const booted = await expectRefusedAs(code, machine, options);
  expect(booted.calls).not.toContain("login");
  expect(asked(booted, TPM_CC.unseal)).toBe(0);
  expect(counter().logins()).toHaveLength(before);
}

describe("before the token is asked", () => {
  test("I11: that a package is being tried is in the TPM", async () => {
    await launchOn(await bench.provision()); // the TPM has its records
    const machine = await bench.provision();
    triedBefore = counter().logins().length;
    const seen: unknown[] = [];
    const booted = await launchOn(machine, {
      onShimStep: async (step) => {
        if (step !== "login") return;
        const writes = bench.bus.commands.filter(({ code }) => code === TPM_CC.nvWrite).length;
        seen.push({ writes, logins: logins(), record: await loginRecord() });
      },
    });
    const generation = { generation: 1, tries: 1n, name: "hsm-pin" };
    expect(seen).toEqual([
      { writes: 1, logins: [], record: expect.objectContaining({ ...generation, outcome: "trying" }) },
    ]);
    expect(booted.record.state.kind).toBe("serving");
    expect(logins()).toEqual(["right"]);
    expect(await loginRecord()).toMatchObject({ ...generation, outcome: "accepted" });
  });

  test.each(["refuse", "lose"] as const)("I11: a record that cannot be written (%s) means no try", async (fault) => {
    const machine = await bench.provision();
    await launchOn(machine);
    await bench.forgetLogins();
    triedBefore = counter().logins().length;
    const booted = await launchOn(machine, { fault: ({ code }) => (code === TPM_CC.nvWrite ? fault : null) });
    expect(booted.calls).not.toContain("login");
    expect(logins()).toEqual([]);
    await checks.expectRefused(booted, machine);
  });
});

describe("a PIN that the token accepts", () => {
  test("I11: is used at every boot, and each use is counted", async () => {
    const machine = await bench.provision();
    for (const tries of [1n, 2n, 3n, 4n]) {
      expect((await launchOn(machine)).record.state.kind).toBe("serving");
      expect(await loginRecord()).toMatchObject({ outcome: "accepted", tries });
    }
    expect(logins()).toEqual(["right", "right", "right", "right"]);
  });
});

describe("a wrong PIN", () => {
  test("I11: is tried once, and never again at any later boot", async () => {
    const machine = await bench.provision({ pin: WRONG_PIN });
    await expectRefusedAs("pin-refused", machine);
    expect(await loginRecord()).toMatchObject({ outcome: "refused", generation: 1, tries: 1n });
    for (let later = 0; later < 3; later++) await expectNotTried("login-tried", machine);
    expect(logins()).toEqual(["wrong"]);
  });

  test("I11: is not tried again when the store or the cabinet is an older copy", async () => {
    const machine = await bench.provision({ pin: WRONG_PIN });
    const { store } = machine.identity;
    const atFirst = store.read(0, STORE_BYTES);
    await expectRefusedAs("pin-refused", machine);
    for (const kept of [atFirst, new Uint8Array(STORE_BYTES)]) {
      await expectNotTried("login-tried", machine, { store: memoryMedium(Uint8Array.from(kept)) });
    }
    const second = await bench.provision({ on: machine, pin: WRONG_PIN, label: { generation: 2 } });
    await expectRefusedAs("pin-refused", second);
    await expectNotTried("credential-rolled-back", machine, { store: memoryMedium() });
    const again = await bench.provision({ on: machine, pin: WRONG_PIN, label: { generation: 2 } });
    await expectNotTried("credential-ambiguous", again, { store: memoryMedium() });
    expect(logins()).toEqual(["wrong", "wrong"]);
  });

  test("I11: as a new generation another PIN is tried, and an older one never again", async () => {
    const wrong = await bench.provision({ pin: WRONG_PIN });
    await expectRefusedAs("pin-refused", wrong);
    const right = await bench.provision({ on: wrong, label: { generation: 2 } });
    expect((await launchOn(right)).record.state.kind).toBe("serving");
    expect(await loginRecord()).toMatchObject({ outcome: "accepted", generation: 2, tries: 2n });
    await expectNotTried("credential-rolled-back", wrong, { store: memoryMedium() });
    expect(logins()).toEqual(["wrong", "right"]);
  });

  test("I11: after an operator's order it is tried exactly once more", async () => {
    const machine = await bench.provision({ pin: WRONG_PIN });
    await expectRefusedAs("pin-refused", machine);
    await allowRetry();
    await expectRefusedAs("pin-refused", machine);
    await expectNotTried("login-tried", machine);
    expect(logins()).toEqual(["wrong", "wrong"]);
    await allowRetry();
    // The HSM's operator sets it to this one, which ends the count.
    writeFileSync(join(counter().directory, "pin"), WRONG_PIN);
    counter().setTries(0);
    expect((await launchOn(machine)).record.state.kind).toBe("serving");
    expect((await launchOn(machine)).record.state.kind).toBe("serving");
    expect(logins()).toEqual(["wrong", "wrong", "right", "right"]);
  });

  test("I11: an order does not allow a package that was never tried under it", async () => {
    const machine = await bench.provision({ pin: WRONG_PIN });
    await expectRefusedAs("pin-refused", machine);
    await allowRetry();
    const other = await bench.provision({ on: machine, pin: WRONG_PIN });
    await expectNotTried("credential-ambiguous", other, { store: memoryMedium() });
  });
});

describe("a try whose end is not known", () => {
  /** From the log-in on nothing reaches the TPM any more, and the shim is gone. */
  const powerCut = (): BootOptions => {
    let gone = false;
    return {
      killShimAt: "login",
      onShimStep: (step) => {
        gone ||= step === "login";
      },
      fault: () => (gone ? "refuse" : null),
    };
  };

  test("I11: is not repeated when the power went between the record and the log-in", async () => {
    const machine = await bench.provision();
    const booted = await launchOn(machine, powerCut());
    expect(booted.failure).toMatchObject({ code: "ERR_TPM" });
    expect(booted.capAsked).toHaveLength(1);
    expect(await loginRecord()).toMatchObject({ outcome: "trying", tries: 1n });
    await expectNotTried("login-tried", machine);
    await expectNotTried("login-tried", machine, { store: memoryMedium() });
    expect(logins()).toEqual([]);
    await allowRetry();
    expect((await launchOn(machine)).record.state.kind).toBe("serving");
  });

  test("I11: is not repeated when the shim ended during it, or the token's answer could not be written down", async () => {
    const machine = await bench.provision();
    await expectRefusedAs("ERR_SHIM_GONE", machine, { killShimAt: "login" });
    expect(await loginRecord()).toMatchObject({ outcome: "trying" });
    await expectNotTried("login-tried", machine);
    await allowRetry();
    let writes = 0;
    const fault: BootOptions["fault"] = ({ code }) => (code === TPM_CC.nvWrite && ++writes === 2 ? "refuse" : null);
    await expectRefusedAs("ERR_SEAL_TPM", machine, { fault });
    expect(logins()).toEqual(["right"]);
    await expectNotTried("login-tried", machine);
  });
});

describe("a PIN that did not come", () => {
  test("I11: is not taken for one that was tried: the next boot tries it, without an order", async () => {
    const machine = await bench.provision();
    const programs = programsWith(bench, "no-pin", 'head -c1 >/dev/null; echo \'{"kind":"released","ms":1}\'');
    await expectRefusedAs("pin-not-tried", machine, { programs });
    expect(await loginRecord()).toMatchObject({ outcome: "retry-allowed", tries: 0n });
    expect(logins()).toEqual([]);
    expect((await launchOn(machine)).record.state.kind).toBe("serving");
    const served = await loginRecord();
    expect(served).toMatchObject({ outcome: "accepted", tries: 1n });
    await expectRefusedAs("pin-not-tried", machine, { programs });
    expect(await loginRecord()).toEqual(served); // as if this boot had not been
    expect(logins()).toEqual(["right"]);
  });
});

describe("a token that is about to lock itself, or has", () => {
  test.each([
    [2, "hsm-final-try"],
    [3, "hsm-locked"],
  ])("I11: with %i wrong PINs behind it is not tried (%s), and no PIN is unsealed for it", async (tries, code) => {
    const machine = await bench.provision();
    counter().setTries(tries);
    await expectNotTried(code, machine);
    expect(counter().tries()).toBe(tries);
    expect((await loginState()).kind).toBe("none");
  });

  test("I11: with one wrong PIN behind it it is tried, and never locked by a machine alone", async () => {
    const wrong = await bench.provision({ pin: WRONG_PIN });
    counter().setTries(1);
    await expectRefusedAs("pin-refused", wrong);
    for (const generation of [2, 3]) {
      const next = await bench.provision({ on: wrong, pin: WRONG_PIN, label: { generation } });
      await expectNotTried("hsm-final-try", next);
    }
    expect(counter().tries()).toBe(2);
  });
});
