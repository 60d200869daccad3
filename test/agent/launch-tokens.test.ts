import { createPublicKey, verify } from "node:crypto";
import { copyFileSync, renameSync } from "node:fs";
import { join } from "node:path";
import { inspect } from "node:util";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { sha256, sha256Hex, utf8 } from "../../policy/index.ts";
import { memoryMedium, type SealedPackage, signSealedPackage, verifySealedPackage } from "../../seal/index.ts";
import { type LoginRecord, readLogin, writeLogin } from "../../seal/tpm-records.ts";
import type { CountingToken } from "../support/counting-token.ts";
import { asked, type LaunchChecks, openLaunchChecks, REFUSED_BY_TPM, reasonsOf } from "../support/launch-checks.ts";
import {
  type Boot,
  type BootOptions,
  bundle,
  eventsOf,
  type LaunchBench,
  type Provisioned,
  type Provisioning,
  withTpm,
} from "../support/launch-fixture.ts";
import { addSecondToken, SECOND_PIN, type SecondToken, type TwoTokens, withBoth } from "../support/second-token.ts";
import { TPM_CC } from "../support/tpm-bus.ts";

const WRONG_PIN = "no-such-pin-5501-quillwort";
const MESSAGE = utf8("a message to sign");

const codesOf = (booted: Boot) => reasonsOf(booted).map(({ code, item }) => `${code} ${item}`);
/** By whichever shim. */
const count = (booted: Boot, step: string) => booted.calls.filter((call) => call.split(" ")[0] === step).length;

/** Two tokens of one kind on one bench. */
class TwoTokenBench {
  readonly checks: LaunchChecks;
  readonly bench: LaunchBench;
  readonly second: SecondToken;
  constructor(checks: LaunchChecks, second: SecondToken) {
    this.checks = checks;
    this.bench = checks.bench;
    this.second = second;
  }

  static async open(token: "softhsm" | "counting"): Promise<TwoTokenBench> {
    const checks = await openLaunchChecks({ token });
    return new TwoTokenBench(checks, await addSecondToken(checks.bench));
  }

  provision(both: TwoTokens = {}, changes: Provisioning = {}): Promise<Provisioned> {
    return this.bench.provision({ ...withBoth(this.bench, this.second, both), ...changes });
  }

  /** One launch whose shim is gone afterwards. */
  async launch(machine: Provisioned, options: BootOptions = {}): Promise<Boot> {
    const booted = await this.checks.boot(options, machine);
    expect(inspect(booted.record, { depth: 12 })).not.toContain(SECOND_PIN);
    await booted[Symbol.asyncDispose]();
    return booted;
  }

  async record(name: string): Promise<Pick<LoginRecord, "outcome" | "tries"> | null> {
    const state = await withTpm(this.bench.bus, ({ tss }) => readLogin(tss, name));
    return state.kind === "record" ? { outcome: state.record.outcome, tries: state.record.tries } : null;
  }

  async records(): Promise<readonly unknown[]> {
    return [await this.record("hsm-pin"), await this.record("second-pin")];
  }
}

describe("two tokens of one library", () => {
  let two: TwoTokenBench;
  beforeAll(async () => {
    two = await TwoTokenBench.open("softhsm");
  });
  afterAll(() => two.bench[Symbol.asyncDispose]());

  test("I2 I6: with two sealed PINs are both served, and each key signs on its own token", async () => {
    const machine = await two.provision();
    await using booted = await two.checks.boot({}, machine);
    expect(booted.record.state.kind).toBe("serving");
    const events = await booted.log.locked(async (records) => eventsOf(records));
    expect(events.slice(machine.events.length).map(({ kind, name }) => `${kind} ${name}`)).toEqual([
      "token launch-bench",
      "token second",
      "key document-rsa",
      "key release-ec",
      "key second-ec",
      "cap serving",
    ]);
    expect(booted.record.unsealed.map(({ sealed }) => sealed.name)).toEqual(["hsm-pin", "second-pin"]);
    expect(booted.channelLeft()).toEqual(new Uint8Array());
    expect(await two.records()).toEqual([
      { outcome: "accepted", tries: 1n },
      { outcome: "accepted", tries: 1n },
    ]);
    const { launched } = booted;
    if (launched === null) throw new Error("launched");
    const keys = { "release-ec": two.bench.token.keys["release-ec"], "second-ec": two.second.spki };
    for (const [key, spki] of Object.entries(keys)) {
      const [token] = launched.tokens.filter(({ shims }) => shims[0]?.places.has(key));
      const [member] = token?.shims ?? [];
      const place = member?.places.get(key);
      if (member === undefined || place === undefined) throw new Error(key);
      const request = { ...place, mechanism: 0x1041n, pss: null, data: sha256(MESSAGE) };
      const signature = await member.shim.sign(request);
      const publicKey = createPublicKey({ key: Buffer.from(spki ?? []), format: "der", type: "spki" });
      expect(verify("sha256", MESSAGE, { key: publicKey, dsaEncoding: "ieee-p1363" }, signature), key).toBe(true);
    }
    expect(new Set(launched.keys.map(({ slotId }) => slotId)).size).toBe(2);
    await two.checks.expectClosed(machine);
    const { answer } = await two.bench.attack(machine, "second-pin");
    expect(answer).toEqual({ kind: "refused", answers: REFUSED_BY_TPM });
  });

  test("I6: a key that the policy names on the wrong token is unknown, though the library holds it", async () => {
    const machine = await two.provision({
      policy: (draft) => {
        const key = draft.keys["second-ec"];
        if (key !== undefined) draft.keys = { ...draft.keys, "second-ec": { ...key, token: two.bench.token.label } };
      },
    });
    const booted = await two.launch(machine);
    expect(codesOf(booted)).toEqual(["key-unknown second-ec"]);
    expect(booted.calls).not.toContain("sign");
    await two.checks.expectRefused(booted, machine);
  });

  test("I2: two PIN packages whose secrets were swapped do not open, and no PIN is tried", async () => {
    const machine = await two.provision();
    const opened = (name: string): Promise<SealedPackage> =>
      verifySealedPackage(machine.packages.get(name) ?? new Uint8Array(), two.bench.keys.anchors);
    const [first, second] = [await opened("hsm-pin"), await opened("second-pin")];
    const swap = (a: SealedPackage, { nonce, ciphertext }: SealedPackage) => ({ ...a, nonce, ciphertext });
    const documents = await Promise.all(
      [swap(first, second), swap(second, first)].map((sealed) => signSealedPackage(sealed, two.bench.keys.operator)),
    );
    const booted = await two.launch(machine, { slots: (slots) => void slots.set("sealed", bundle(...documents)) });
    expect(codesOf(booted)).toEqual(["blob-damaged hsm-pin"]);
    expect(booted.record.unsealed).toEqual([]);
    expect(booted.calls).not.toContain("login");
    await two.checks.expectRefused(booted, machine);
  });

  test("I11: a policy that gives each token the other's PIN refuses before either is asked for", async () => {
    const machine = await two.provision({
      policy: (draft) => {
        const pins = { [two.bench.token.label]: "second-pin", second: "hsm-pin" };
        const changed = Object.entries(draft.tokens).map(
          ([name, token]) => [name, { ...token, pin: pins[name] ?? token.pin }] as const,
        );
        draft.tokens = Object.fromEntries(changed);
      },
    });
    const booted = await two.launch(machine);
    expect(codesOf(booted)).toEqual(["hsm-absent launch-bench", "hsm-absent second"]);
    expect(asked(booted, TPM_CC.unseal)).toBe(0);
    expect(booted.calls).not.toContain("login");
  });
});

describe("two tokens that count wrong PINs", () => {
  let two: TwoTokenBench;
  let counters: readonly [CountingToken, CountingToken];
  let before: readonly number[];
  beforeAll(async () => {
    two = await TwoTokenBench.open("counting");
    const [first, second] = [two.bench.token.counter, two.second.counter];
    if (first === null || second === null) throw new Error("tokens that count");
    counters = [first, second];
  });
  afterAll(() => two.bench[Symbol.asyncDispose]());
  beforeEach(() => {
    for (const counter of counters) counter.setTries(0);
    before = counters.map((counter) => counter.logins().length);
  });

  /** What each token has seen since the test began. */
  const logins = () => counters.map((counter, index) => counter.logins().slice(before[index]));
  const expectNotTried = async (codes: readonly string[], machine: Provisioned, options: BootOptions = {}) => {
    const tried = logins();
    const booted = await two.launch(machine, options);
    expect(codesOf(booted)).toEqual(codes);
    expect(asked(booted, TPM_CC.unseal)).toBe(0);
    expect(booted.calls).not.toContain("login");
    expect(logins()).toEqual(tried);
    await two.checks.expectRefused(booted, machine);
  };

  test("I11: a wrong PIN of the second is tried once, after the first was; no later boot tries either", async () => {
    const machine = await two.provision({ secondPin: WRONG_PIN });
    const booted = await two.launch(machine);
    expect(codesOf(booted)).toEqual(["pin-refused second"]);
    // The first token has told its keys by then, the second one never does.
    expect([logins(), count(booted, "login"), count(booted, "keys")]).toEqual([[["right"], ["wrong"]], 2, 1]);
    const remembered = [
      { outcome: "accepted", tries: 1n },
      { outcome: "refused", tries: 1n },
    ];
    expect(await two.records()).toEqual(remembered);
    await two.checks.expectRefused(booted, machine);
    // All records are looked at before anything is unsealed: the first token's would allow another log-in.
    for (const store of [machine.identity.store, memoryMedium()])
      await expectNotTried(["login-tried second-pin"], machine, { store });
    expect(await two.records()).toEqual(remembered);

    const right = await two.provision({ generation: 2 }, { on: machine, label: { generation: 2 } });
    expect((await two.launch(right)).record.state.kind).toBe("serving");
    expect(logins()).toEqual([
      ["right", "right"],
      ["wrong", "right"],
    ]);
  });

  test("I11: a wrong PIN of the first ends the launch before the second is tried, and the second is not remembered as tried", async () => {
    const machine = await two.provision({}, { pin: WRONG_PIN });
    const booted = await two.launch(machine);
    expect(codesOf(booted)).toEqual(["pin-refused counting"]);
    expect([logins(), count(booted, "login")]).toEqual([[["wrong"], []], 1]);
    expect(await two.records()).toEqual([{ outcome: "refused", tries: 1n }, null]);
    await two.checks.expectRefused(booted, machine);
    await expectNotTried(["login-tried hsm-pin"], machine);
  });

  test("I11: an operator's order for one credential lets neither token be tried more than it says", async () => {
    const machine = await two.provision({ secondPin: WRONG_PIN });
    await two.launch(machine);
    await withTpm(two.bench.bus, async ({ tss }) => {
      const state = await readLogin(tss, "second-pin");
      if (state.kind === "record") await writeLogin(tss, { ...state.record, outcome: "retry-allowed" });
    });
    expect(codesOf(await two.launch(machine))).toEqual(["pin-refused second"]);
    await expectNotTried(["login-tried second-pin"], machine);
    expect(logins()).toEqual([
      ["right", "right"],
      ["wrong", "wrong"],
    ]);
  });

  test("I11: when the second's try cannot be written down it is not made, and the next boot serves both", async () => {
    const machine = await two.provision();
    await two.launch(machine); // the TPM has its records
    await two.bench.forgetLogins();
    let writes = 0;
    const fault: BootOptions["fault"] = ({ code }) => (code === TPM_CC.nvWrite && ++writes === 3 ? "refuse" : null);
    const booted = await two.launch(machine, { fault });
    expect(codesOf(booted)).toEqual(["ERR_SEAL_TPM launch (logging-in)"]);
    expect(count(booted, "login")).toBe(1);
    expect(await two.records()).toEqual([{ outcome: "accepted", tries: 1n }, null]);
    expect((await two.launch(machine)).record.state.kind).toBe("serving");
    expect(logins()).toEqual([
      ["right", "right", "right"],
      ["right", "right"],
    ]);
  });

  test("I11: while one token is absent no PIN of either is unsealed", async () => {
    const machine = await two.provision();
    const { directory } = counters[1];
    renameSync(directory, `${directory}-away`);
    try {
      await expectNotTried(["hsm-absent second"], machine);
    } finally {
      renameSync(`${directory}-away`, directory);
    }
    expect((await two.launch(machine)).record.state.kind).toBe("serving");
  });

  test.each([
    [2, "hsm-final-try"],
    [3, "hsm-locked"],
  ])("I11: while one token has seen %i wrong PINs (%s) neither is tried", async (tries, code) => {
    const machine = await two.provision();
    counters[1].setTries(tries);
    await expectNotTried([`${code} second`], machine);
    expect(counters.map((counter) => counter.tries())).toEqual([0, tries]);
  });

  test("I6: one key in both tokens is two keys when the policy names it on each, and else the one it names", async () => {
    const [first, second] = counters;
    const own = join(second.directory, "key");
    copyFileSync(own, `${own}-own`);
    copyFileSync(join(first.directory, "key"), own);
    try {
      for (const named of [true, false]) {
        const machine = await two.provision({
          policy: (draft) => {
            const { "second-ec": _, ...keys } = draft.keys;
            const copy = { spki: `sha256:${sha256Hex(first.spki)}`, does: "sign", token: "second" } as const;
            draft.keys = named ? { ...keys, copy } : keys;
          },
        });
        await using booted = await two.checks.boot({}, machine);
        expect(booted.launched?.keys.map(({ name, token, slotId }) => ({ name, token, slotId }))).toEqual([
          ...(named ? [{ name: "copy", token: "second", slotId: 1n }] : []),
          { name: "release-ec", token: "counting", slotId: 0n },
        ]);
      }
    } finally {
      renameSync(`${own}-own`, own);
    }
  });
});
