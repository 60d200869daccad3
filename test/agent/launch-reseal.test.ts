import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { settleServed } from "../../agent/launch/served.ts";
import {
  abortReseal,
  memoryMedium,
  type ResealOrder,
  reseal,
  STORE_BYTES,
  Store,
  type StoreMedium,
} from "../../seal/index.ts";
import { asked, type LaunchChecks, openLaunchChecks, reasonsOf } from "../support/launch-checks.ts";
import { damagedPackage, wrongSignature } from "../support/launch-documents.ts";
import {
  afresh,
  type Boot,
  type BootOptions,
  LAUNCH_PIN,
  type LaunchBench,
  type Provisioned,
  withTpm,
} from "../support/launch-fixture.ts";
import { readEkCertificate } from "../support/seal-fixture.ts";
import { startSwtpm } from "../support/swtpm.ts";
import { type BusCommand, TPM_CC } from "../support/tpm-bus.ts";

let checks: LaunchChecks;
let bench: LaunchBench;
let provisioned: Provisioned;
/** The package of generation 2, which a running machine is handed. */
let next: Uint8Array;
beforeAll(async () => {
  checks = await openLaunchChecks();
  ({ bench, provisioned } = checks);
  next = packageOf(await bench.provision({ label: { generation: 2 } }));
});
afterAll(() => bench[Symbol.asyncDispose]());

const packageOf = (machine: Provisioned) => machine.packages.get("hsm-pin") ?? new Uint8Array();
async function launchOn(machine: Provisioned, options: BootOptions = {}): Promise<Boot> {
  const booted = await checks.boot(options, machine);
  await booted[Symbol.asyncDispose]();
  return booted;
}
const kindOf = ({ record }: Boot) => record.state.kind;
const generations = (medium: StoreMedium) =>
  Store.open(medium).store.content.entries.map(({ generation, state }) => `${generation} ${state}`);

/** A machine that serves with generation 1, in the boot in which it is handed another package. */
async function serving(): Promise<Provisioned> {
  const machine = afresh(provisioned);
  expect(kindOf(await launchOn(machine))).toBe("serving");
  expect(generations(machine.identity.store)).toEqual(["1 served"]);
  return machine;
}

/** On the running machine, with a store and TPM that a test may make fail. */
function resealOn(
  machine: Provisioned,
  envelope: Uint8Array,
  { medium = machine.identity.store, ...changes }: Partial<ResealOrder> & { readonly medium?: StoreMedium } = {},
) {
  const { anchors } = bench.keys;
  const { store } = Store.open(medium);
  return withTpm(bench.bus, ({ tss }) =>
    reseal({ tss, store, anchors, envelope, releases: [machine.release], now: new Date(), ...changes }),
  );
}

describe("a reseal that goes well", () => {
  test("I11: leaves the new generation pending, the next boot uses it, and once that serves the old one is gone", async () => {
    const machine = await serving();
    expect(await resealOn(machine, next)).toMatchObject({ name: "hsm-pin", generation: 2 });
    expect(generations(machine.identity.store)).toEqual(["1 served", "2 pending"]);
    const booted = await launchOn(machine); // the cabinet still holds generation 1
    expect([kindOf(booted), asked(booted, TPM_CC.import)]).toEqual(["serving", 0]);
    expect(booted.record.unsealed.map(({ sealed }) => sealed.generation)).toEqual([2]);
    expect(generations(machine.identity.store)).toEqual(["2 served"]);
    const later = await launchOn(machine);
    expect(later.record.unsealed.map(({ sealed }) => sealed.generation)).toEqual([2]);
  });

  test("I11: a boot that does not come to serve keeps both", async () => {
    const machine = await serving();
    await resealOn(machine, next);
    for (const options of [{ devices: [] }, { killShimAt: "load" }] satisfies BootOptions[]) {
      expect(kindOf(await launchOn(machine, options))).toBe("refused");
      expect(generations(machine.identity.store)).toEqual(["1 served", "2 pending"]);
    }
    expect(kindOf(await launchOn(machine))).toBe("serving");
  });

  test("I11: a wrong PIN in it is tried once; the old one is not tried in its place, and both are kept", async () => {
    const machine = await serving();
    const wrong = packageOf(await bench.provision({ label: { generation: 2 }, pin: `${LAUNCH_PIN}-not` }));
    await resealOn(machine, wrong);
    expect(reasonsOf(await launchOn(machine)).map(({ code }) => code)).toEqual(["pin-refused"]);
    expect(reasonsOf(await launchOn(machine)).map(({ code }) => code)).toEqual(["login-tried"]);
    expect(generations(machine.identity.store)).toEqual(["1 served", "2 pending"]);
    const third = packageOf(await bench.provision({ label: { generation: 3 } }));
    await resealOn(machine, third);
    expect(generations(machine.identity.store)).toEqual(["1 served", "3 pending"]);
    expect(kindOf(await launchOn(machine))).toBe("serving");
    expect(generations(machine.identity.store)).toEqual(["3 served"]);
  });

  test("I11: given up, it is as if it had never been", async () => {
    const machine = await serving();
    await resealOn(machine, next);
    const { store } = Store.open(machine.identity.store);
    abortReseal(store, "hsm-pin");
    expect(generations(machine.identity.store)).toEqual(["1 served"]);
    expect(() => abortReseal(store, "hsm-pin")).toThrow(/a pending generation/);
    const booted = await launchOn(machine);
    expect(booted.record.unsealed.map(({ sealed }) => sealed.generation)).toEqual([1]);
    await resealOn(machine, next);
    expect(generations(machine.identity.store)).toEqual(["1 served", "2 pending"]);
  });

  test("I11: one that is handed in while an earlier one begins to serve is kept", async () => {
    const machine = await serving();
    await using booted = await checks.boot({ settle: false }, machine);
    await resealOn(machine, next);
    const { store } = Store.open(machine.identity.store);
    const environment = { store, inputs: booted.inputs, tss: booted.tpm.tss };
    // only what settling looks at
    await settleServed(environment as unknown as Parameters<typeof settleServed>[0], booted.record);
    expect(generations(machine.identity.store)).toEqual(["1 served", "2 pending"]);
  });
});

describe("a reseal that is refused changes nothing", () => {
  async function expectUnchanged(machine: Provisioned, act: () => Promise<unknown>, refusal: object): Promise<void> {
    const before = machine.identity.store.read(0, STORE_BYTES);
    await expect(act()).rejects.toMatchObject(refusal);
    expect(machine.identity.store.read(0, STORE_BYTES)).toEqual(before);
  }
  const refusedWith = (code: string) => ({ code: "ERR_RESEAL_REFUSED", message: expect.stringContaining(code) });

  test("I2: a package for another TPM", async () => {
    await using other = await startSwtpm();
    const ekCertificate = await readEkCertificate(other, "p384");
    const foreign = packageOf(await bench.provision({ ekCertificate, label: { generation: 2 } }));
    const machine = await serving();
    await expectUnchanged(machine, () => resealOn(machine, foreign), refusedWith("tpm-replaced"));
  });

  test.each(["duplicate", "encryptedSeed"] as const)("I11: a package whose %s the TPM does not take", async (field) => {
    const damaged = await damagedPackage(bench, next, field);
    const machine = await serving();
    await expectUnchanged(machine, () => resealOn(machine, damaged), refusedWith("blob-damaged"));
  });

  test("I2: a package that the operator did not sign so", async () => {
    const machine = await serving();
    await expectUnchanged(machine, () => resealOn(machine, wrongSignature(next)), {
      name: expect.stringMatching(/Error$/),
    });
  });

  test.each([1, 2])("I11: generation %i when it is not later than what is there", async (generation) => {
    const machine = await serving();
    await resealOn(machine, next);
    const again = packageOf(await bench.provision({ label: { generation } }));
    await expectUnchanged(machine, () => resealOn(machine, again), refusedWith("a generation after 2"));
  });

  test("I2: a name that no release may unseal", async () => {
    const other = await bench.provision({
      credentials: [{ label: { name: "tls-key", kind: "file", tokenSerial: null }, secret: Uint8Array.of(1) }],
    });
    const machine = await serving();
    const envelope = other.packages.get("tls-key") ?? new Uint8Array();
    await expectUnchanged(machine, () => resealOn(machine, envelope), refusedWith("credential-not-delegated"));
  });

  test("I2: one that has expired, or for which no release is in date", async () => {
    const expired = packageOf(await bench.provision({ label: { generation: 2, notAfter: "2020-01-01T00:00:00Z" } }));
    const machine = await serving();
    await expectUnchanged(machine, () => resealOn(machine, expired), refusedWith("credential-expired"));
    const now = new Date("2120-01-01T00:00:00Z");
    await expectUnchanged(machine, () => resealOn(machine, next, { now }), refusedWith("release-expired"));
    await expectUnchanged(machine, () => resealOn(machine, next, { releases: [] }), refusedWith("release-missing"));
  });
});

describe("a reseal that breaks off", () => {
  const SWEEP = { timeout: 240_000 };

  test(
    "I11: at any of its TPM commands leaves the old generation, and the next boot serves with it",
    SWEEP,
    async () => {
      const machine = await serving();
      const before = machine.identity.store.read(0, STORE_BYTES);
      const rewind = () => machine.identity.store.write(0, before);
      bench.bus.arm();
      await resealOn(machine, next);
      const commands: readonly BusCommand[] = [...bench.bus.commands];
      expect(commands.length).toBeGreaterThan(20);
      rewind();
      let broken = 0;
      for (const { index } of commands) {
        for (const fault of ["refuse", "lose"] as const) {
          bench.bus.arm((command) => (command.index === index ? fault : null));
          const failed = await resealOn(machine, next).then(
            () => false,
            () => true,
          );
          bench.bus.arm();
          await bench.bus.flushClient("other");
          if (failed) {
            broken += 1;
            expect(machine.identity.store.read(0, STORE_BYTES)).toEqual(before);
          } else rewind(); // an EK that cannot be read at its handle is made again
        }
      }
      expect(broken).toBeGreaterThan(1.8 * commands.length);
      const booted = await launchOn(machine);
      expect(booted.record.unsealed.map(({ sealed }) => sealed.generation)).toEqual([1]);
    },
  );

  test.each([0, 1, 8, 56, 300, 1500])(
    "I11: after %i bytes of its store write leaves the old generation",
    async (bytes) => {
      const machine = await serving();
      const content = machine.identity.store.read(0, STORE_BYTES);
      const torn = memoryMedium(Uint8Array.from(content));
      const power: StoreMedium = {
        ...torn,
        write: (offset, written) => {
          torn.write(offset, written.subarray(0, bytes));
          throw Object.assign(new Error("power"), { code: "EIO" });
        },
      };
      await expect(resealOn(machine, next, { medium: power })).rejects.toMatchObject({ code: "ERR_STORE" });
      expect(generations(torn)).toEqual(["1 served"]);
      const booted = await launchOn(machine, { store: torn });
      expect(booted.record.unsealed.map(({ sealed }) => sealed.generation)).toEqual([1]);
    },
  );

  test("I11: when the write was whole and only its flush failed, either generation is good", async () => {
    const machine = await serving();
    const medium = memoryMedium(Uint8Array.from(machine.identity.store.read(0, STORE_BYTES)));
    const power: StoreMedium = {
      ...medium,
      flush: () => {
        throw Object.assign(new Error("power"), { code: "EIO" });
      },
    };
    await expect(resealOn(machine, next, { medium: power })).rejects.toMatchObject({ code: "ERR_STORE" });
    expect(generations(medium)).toEqual(["1 served", "2 pending"]);
    expect(kindOf(await launchOn(machine, { store: medium }))).toBe("serving");
  });
});
