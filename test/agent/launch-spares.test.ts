import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { keyClaim } from "../../agent/launch/keys.ts";
import { type LoginRecord, readLogin } from "../../seal/tpm-records.ts";
import { judge } from "../support/appraisal.ts";
import { servingKey } from "../support/appraisal-rows.ts";
import type { CountingToken } from "../support/counting-token.ts";
import { asked, type LaunchChecks, openLaunchChecks, reasonOf, reasonsOf } from "../support/launch-checks.ts";
import { changeModule } from "../support/launch-documents.ts";
import {
  type Boot,
  type BootOptions,
  eventsOf,
  LAUNCH_PIN,
  type LaunchBench,
  type PolicyDraft,
  type Provisioned,
  type Provisioning,
  type ShimStep,
  withTpm,
} from "../support/launch-fixture.ts";
import { TPM_CC } from "../support/tpm-bus.ts";

let checks: LaunchChecks;
let bench: LaunchBench;
let counter: CountingToken;
beforeAll(async () => {
  checks = await openLaunchChecks({ token: "counting" });
  ({ bench } = checks);
  if (bench.token.counter === null) throw new Error("a token that counts");
  counter = bench.token.counter;
});
afterAll(() => bench[Symbol.asyncDispose]());
afterEach(() => {
  for (const trait of ["flags", "always-authenticate", "no-history", "attacks"] as const) counter.unset(trait);
  writeFileSync(join(counter.directory, "pin"), LAUNCH_PIN);
  counter.setTries(0);
});

const withSpares =
  (spares: number, change: (draft: PolicyDraft) => void = () => undefined): NonNullable<Provisioning["policy"]> =>
  (draft) => {
    changeModule(draft, { spares });
    change(draft);
  };
const provision = (spares: number, changes: Provisioning = {}): Promise<Provisioned> =>
  bench.provision({ ...changes, policy: withSpares(spares, changes.policy) });
const codesOf = (booted: Boot) => reasonsOf(booted).map(({ code, item }) => `${code} ${item}`);
const loginsSince = (before: number) => counter.logins().slice(before);
const triesSoFar = () => counter.logins().length;

async function loginRecord(): Promise<LoginRecord | null> {
  const state = await withTpm(bench.bus, ({ tss }) => readLogin(tss, "hsm-pin"));
  return state.kind === "record" ? state.record : null;
}

/** One launch that ends refused for these reasons. Its shims are gone when it has. */
async function expectRefusedAs(codes: readonly string[], machine: Provisioned, options: BootOptions = {}) {
  const booted = await checks.boot(options, machine);
  await using _ = booted;
  expect(codesOf(booted)).toEqual(codes);
  for (const { id } of booted.record.shims) {
    const child = booted.processOf(id);
    expect([id, child?.exitCode ?? child?.signalCode]).not.toEqual([id, null]);
  }
  await checks.expectRefused(booted, machine);
  return booted;
}

describe("a launch with spares", () => {
  test("I2 I9: unseals the PIN once, for all of them, measures what they share once, and logs the spares in when the first was accepted", async () => {
    const machine = await provision(2);
    const before = triesSoFar();
    await using booted = await checks.boot({}, machine);
    expect(booted.record.state.kind).toBe("serving");
    expect(booted.calls).toEqual([
      ...["prepareShim", "prepareShim 1", "prepareShim 2"],
      ...["startShim", "open", "startShim 1", "open 1", "startShim 2", "open 2", "probe", "probe 1", "probe 2"],
      ...["load", "load 1", "load 2", "login", "keys", "login 1", "login 2"],
      ...["sign", "keys 1", "sign 1", "keys 2", "sign 2"],
      ...["uses", "arm", "uses 1", "arm 1", "uses 2", "arm 2"],
    ]);
    const events = await booted.log.locked(async (records) => eventsOf(records));
    expect(events.slice(machine.events.length).map(({ kind, name }) => `${kind} ${name}`)).toEqual([
      "token counting",
      "key release-ec",
      "cap serving",
    ]);
    expect(events.slice(0, machine.events.length)).toEqual(machine.events);
    expect(asked(booted, TPM_CC.unseal)).toBe(1);
    expect(loginsSince(before)).toEqual(["right", "right", "right"]);
    expect(await loginRecord()).toMatchObject({ outcome: "accepted", tries: 1n });
    expect(booted.record.shims.map(({ id, token }) => `${id} ${token}`)).toEqual([
      "0 counting",
      "1 counting",
      "2 counting",
    ]);
    expect(booted.launched?.tokens.map(({ shims }) => shims.map(({ id }) => id))).toEqual([[0, 1, 2]]);
    await checks.expectClosed(machine);
  });

  test("I5 I11: has as many that serve as its policy says, logged in like spares when the first was accepted, and each tried with every key", async () => {
    const machine = await bench.provision({ policy: (draft) => changeModule(draft, { shims: 2, spares: 1 }) });
    const before = triesSoFar();
    await using booted = await checks.boot({}, machine);
    expect(booted.record.state.kind).toBe("serving");
    expect(booted.launched?.tokens.map(({ shims }) => shims.map(({ id, serves }) => `${id} ${serves}`))).toEqual([
      ["0 true", "1 true", "2 false"],
    ]);
    expect(booted.record.shims.map(({ serves }) => serves)).toEqual([true, true, false]);
    expect(booted.calls.filter((call) => /^(login|sign|arm)/.test(call))).toEqual([
      ...["login", "login 1", "login 2", "sign", "sign 1", "sign 2", "arm", "arm 1", "arm 2"],
    ]);
    expect(booted.calls.indexOf("keys 1")).toBeGreaterThan(booted.calls.indexOf("login 2"));
    expect(loginsSince(before)).toEqual(["right", "right", "right"]);
    expect(asked(booted, TPM_CC.unseal)).toBe(1);
    for (const member of booted.launched?.tokens[0]?.shims ?? [])
      expect([...member.places].map(([name, { quick }]) => `${name} ${quick}`)).toEqual(["release-ec true"]);
  });

  test("I11: a wrong PIN is tried by the first of several that are to serve, alone and once", async () => {
    const policy: NonNullable<Provisioning["policy"]> = (draft) => changeModule(draft, { shims: 3 });
    const machine = await bench.provision({ policy, pin: `${LAUNCH_PIN}-not` });
    const before = triesSoFar();
    const booted = await expectRefusedAs(["pin-refused counting"], machine);
    expect(booted.calls.filter((call) => call.startsWith("login"))).toEqual(["login"]);
    expect(loginsSince(before)).toEqual(["wrong"]);
  });

  test("I4: leaves the PIN in no channel", async () => {
    const machine = await provision(2);
    await using booted = await checks.boot({}, machine);
    expect(booted.record.state.kind).toBe("serving");
    expect(booted.channelLeft()).toEqual(new Uint8Array());
  });

  test("I11: a wrong PIN is tried by the first shim alone, once", async () => {
    const machine = await provision(3, { pin: `${LAUNCH_PIN}-not` });
    const before = triesSoFar();
    const booted = await expectRefusedAs(["pin-refused counting"], machine);
    expect(booted.calls.filter((call) => call.startsWith("login"))).toEqual(["login"]);
    expect(loginsSince(before)).toEqual(["wrong"]);
    expect(await loginRecord()).toMatchObject({ outcome: "refused" });
  });

  test("I11: a PIN that was changed between two log-ins is refused to one spare and tried by no other, nor at the next boot", async () => {
    const machine = await provision(3);
    const before = triesSoFar();
    const booted = await expectRefusedAs(["pin-refused counting/1"], machine, {
      onShimStep: (step) => {
        if (step === "login 1") writeFileSync(join(counter.directory, "pin"), "changed meanwhile");
      },
    });
    expect(booted.calls.at(-1)).toBe("login 1");
    expect(loginsSince(before)).toEqual(["right", "wrong"]);
    expect(await loginRecord()).toMatchObject({ outcome: "refused" });
    await expectRefusedAs(["login-tried hsm-pin"], machine);
    expect(loginsSince(before)).toEqual(["right", "wrong"]);
  });

  const STEPS: readonly ShimStep[] = ["open 1", "probe 1", "load 1", "login 1", "keys 1", "sign 1", "uses 1", "arm 1"];

  test.each(STEPS)(
    "I3 I11: a spare that is killed before %s ends the launch refused and capped, and the next boot serves",
    async (step) => {
      const machine = await provision(1);
      await using booted = await checks.boot({ killShimAt: step }, machine);
      expect(reasonsOf(booted).map(({ code }) => code)).toEqual(["ERR_SHIM_GONE"]);
      await checks.expectRefused(booted, machine);
      await using next = await checks.boot({}, machine);
      expect(next.record.state.kind).toBe("serving");
    },
  );

  test("I1: a copy for a spare that came out otherwise is measured as it is, and the TPM refuses", async () => {
    const machine = await provision(1);
    const { library } = bench.token;
    const changed: BootOptions["spawner"] = (real) => ({
      prepareShim: async (id, files) => {
        const digests = await real.prepareShim(id, files);
        return digests.map((digest, index) =>
          id === 1 && files[index]?.path === library
            ? { ...digest, sha256: digest.sha256.map((byte) => byte ^ 1) }
            : digest,
        );
      },
    });
    const booted = await expectRefusedAs(
      [`library-mismatch ${library}`, `measurement-changed library ${library}`, "pcr-changed PCR 13 (sha256)"],
      machine,
      { spawner: changed },
    );
    expect(asked(booted, TPM_CC.unseal)).toBe(1);
    expect(reasonOf(booted, "tpm-would-release")).toBeUndefined();
    expect(booted.calls).not.toContain("startShim");
  });

  test("I5: a shim under one filter more than its own is refused", async () => {
    const machine = await provision(1);
    const more: BootOptions["spawner"] = (real) => ({
      shimStatus: async (id) => {
        const status = await real.shimStatus(id);
        return id === 1 ? { ...status, inheritedFilters: status.inheritedFilters - 1 } : status;
      },
    });
    await expectRefusedAs(["seccomp-filters counting/1"], machine, { spawner: more });
  });
});

describe("a library that attacks during the launch", () => {
  test("I4 I5: while it is loaded is refused before any PIN is unsealed", async () => {
    const machine = await provision(1);
    counter.set("attacks", "load");
    const booted = await expectRefusedAs(
      ["sandbox-violation counting/0 socket", "sandbox-violation counting/1 socket"],
      machine,
    );
    expect(asked(booted, TPM_CC.unseal)).toBe(0);
    expect(booted.calls).not.toContain("login");
    expect(booted.record.shims.map((shim) => shim.attempts())).toEqual([{ 41: 1 }, { 41: 1 }]);
  });

  test.each(["login", "keys", "sign"])("I5: during %s is refused, and does not serve", async (place) => {
    const machine = await provision(0);
    counter.set("attacks", place);
    await expectRefusedAs(["sandbox-violation counting/0 socket"], machine);
  });

  test("I5: and then ends is refused for both", async () => {
    const machine = await provision(0);
    counter.set("attacks", "login");
    await expectRefusedAs(["ERR_SHIM_GONE launch (logging-in)", "sandbox-violation counting/0 socket"], machine, {
      killShimAt: "keys",
    });
  });
});

describe("a token that no machine can use by itself", () => {
  test("I11: one with a PIN pad is refused by that name, and no PIN is unsealed", async () => {
    const machine = await provision(1);
    counter.set("flags", "0x100");
    const booted = await expectRefusedAs(["token-pin-pad counting"], machine);
    expect([asked(booted, TPM_CC.unseal), booted.calls.includes("login")]).toEqual([0, false]);
  });

  test("I7: a key that wants the PIN at each use is refused by that name", async () => {
    const machine = await provision(1);
    counter.set("always-authenticate");
    const booted = await expectRefusedAs(["key-always-authenticate release-ec"], machine);
    expect(booted.calls).not.toContain("sign");
  });

  test("I7: a key of unknown history is served where the policy accepts that, and nowhere else", async () => {
    counter.set("no-history");
    await expectRefusedAs(
      ["alwaysSensitive", "neverExtractable", "local"].map((flag) => `key-attributes release-ec ${flag}`),
      await provision(1),
    );
    const accepting = await provision(1, {
      policy: (draft) => {
        const keys = Object.entries(draft.keys).map(([name, key]) => [name, { ...key, accepts: ["unknown-history"] }]);
        Object.assign(draft, { keys: Object.fromEntries(keys) });
      },
    });
    await using booted = await checks.boot({}, accepting);
    expect(booted.record.state.kind).toBe("serving");
    const [key] = booted.record.keys;
    const told = key === undefined ? {} : keyClaim(key).attributes;
    const { findings } = await judge(servingKey(told));
    expect(findings.map(({ tier, code, item }) => `${tier} ${code} ${item}`)).toEqual(
      ["alwaysSensitive", "neverExtractable", "local"].map((flag) => `warning key-attributes key release ${flag}`),
    );
  });
});

describe("a kernel whose sandbox is weaker", () => {
  test("I5: is refused feature by feature before any PIN is unsealed, unless the policy does without them", async () => {
    const lacks = ["landlock-truncate", "landlock-tcp", "landlock-ioctl-dev", "landlock-scope"] as const;
    const machine = await provision(0);
    const booted = await expectRefusedAs(
      lacks.map((feature) => `sandbox-weaker ${feature}`),
      machine,
      { landlockAbi: 2 },
    );
    expect(booted.calls).not.toContain("load");
    const lenient = await provision(0, { policy: (draft) => Object.assign(draft, { sandbox: { lacks: [...lacks] } }) });
    await using served = await checks.boot({ landlockAbi: 4 }, lenient);
    expect(served.record.state.kind).toBe("serving");
    expect(served.record.lacks).toEqual(["landlock-ioctl-dev", "landlock-scope"]);
  });
});
