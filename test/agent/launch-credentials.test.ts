import { createHash } from "node:crypto";
import { readdirSync, readFileSync, readSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { inspect } from "node:util";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { MachineAudit } from "../../agent/audit/machine-audit.ts";
import { createStateVolume } from "../../agent/state-volume.ts";
import { type SealedPackage, signSealedPackage, verifySealedPackage } from "../../seal/index.ts";
import { asked, type LaunchChecks, openLaunchChecks, reasonsOf } from "../support/launch-checks.ts";
import { BENCH_MODULE, changeModule } from "../support/launch-documents.ts";
import {
  type Boot,
  type BootOptions,
  bundle,
  LAUNCH_PIN,
  type LaunchBench,
  type PolicyDraft,
  type Provisioned,
} from "../support/launch-fixture.ts";
import { native } from "../support/shim-fixture.ts";
import { TPM_CC } from "../support/tpm-bus.ts";

/** As large as a TLS key with its chain, and found by a search wherever it lies. */
const TLS_KEY = Uint8Array.from(
  { length: 3072 },
  (_, index) =>
    createHash("sha256")
      .update(`tls key ${index >> 5}`)
      .digest()[index & 31] ?? 0,
);
const VOLUME_KEY = Uint8Array.from({ length: 96 }, (_, index) => (index * 37 + 5) & 0xff);

let checks: LaunchChecks;
let bench: LaunchBench;
let keyFile: string;
beforeAll(async () => {
  checks = await openLaunchChecks();
  ({ bench } = checks);
  keyFile = join(bench.token.directory, "tls-key.pem");
});
afterAll(() => bench[Symbol.asyncDispose]());
// In the guest the shim's writable directory is new with every boot.
afterEach(() => rmSync(keyFile, { force: true }));

const tlsKey = { label: { name: "tls-key", kind: "file", tokenSerial: null }, secret: TLS_KEY } as const;
const volumeKey = { label: { name: "state", kind: "volume-key", tokenSerial: null }, secret: VOLUME_KEY } as const;
const wantsFile = (name: string) => (draft: PolicyDraft) => {
  changeModule(draft, { files: { [keyFile]: name } });
};

async function launchOn(machine: Provisioned, options: BootOptions = {}): Promise<Boot> {
  const booted = await checks.boot(options, machine);
  await booted[Symbol.asyncDispose]();
  return booted;
}
const codesOf = (booted: Boot) => reasonsOf(booted).map(({ code, item }) => `${code} ${item}`);
async function opened(machine: Provisioned, name: string): Promise<SealedPackage> {
  return verifySealedPackage(machine.packages.get(name) ?? new Uint8Array(), bench.keys.anchors);
}

/** Every file below a directory that holds these bytes. */
function filesWith(directory: string, secret: Uint8Array): readonly string[] {
  const entries = readdirSync(directory, { withFileTypes: true, recursive: true });
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((path) => readFileSync(path).includes(secret));
}

describe("a credential that is a file", () => {
  test("I4: lies in the shim's writable directory before the library is loaded, byte for byte, for its owner alone", async () => {
    const machine = await bench.provision({ policy: wantsFile("tls-key"), credentials: [tlsKey] });
    const seen: unknown[] = [];
    const booted = await launchOn(machine, {
      onShimStep: (step) => {
        if (step === "load") seen.push(new Uint8Array(readFileSync(keyFile)), statSync(keyFile).mode & 0o777);
      },
    });
    expect(booted.record.state.kind).toBe("serving");
    expect(seen).toEqual([TLS_KEY, 0o400]);
    expect(booted.calls.slice(0, 6)).toEqual(["prepareShim", "startShim", "open", "probe", "credential", "load"]);
    expect(booted.record.unsealed.map(({ sealed }) => sealed.name)).toEqual(["tls-key", "hsm-pin"]);
    expect(booted.settled).toEqual([]);
    await checks.expectClosed(machine);
  });

  test("I4: is nowhere else, and neither is the PIN", async () => {
    const machine = await bench.provision({ policy: wantsFile("tls-key"), credentials: [tlsKey] });
    const booted = await launchOn(machine);
    expect(booted.record.state.kind).toBe("serving");
    const part = TLS_KEY.subarray(64, 96);
    expect(filesWith(bench.directory, part)).toEqual([keyFile]);
    expect(filesWith(bench.machine.directory, part)).toEqual([]);
    expect(filesWith(bench.directory, Buffer.from(LAUNCH_PIN))).toEqual([]);
    const { record, store, log } = booted;
    const told = inspect(
      { record, content: store.content, log },
      { depth: 14, maxArrayLength: null, maxStringLength: null },
    );
    for (const form of ["hex", "base64", "latin1"] as const)
      expect(told).not.toContain(Buffer.from(part).toString(form).slice(0, 40));
    expect(booted.channelLeft()).toEqual(new Uint8Array());
  });

  test("I3 I4: the seal of each is closed afterwards, not only that of the PIN", async () => {
    const machine = await bench.provision({ policy: wantsFile("tls-key"), credentials: [tlsKey] });
    await launchOn(machine);
    const { answer, received } = await bench.attack(machine, "tls-key");
    expect([answer.kind, received]).toEqual(["refused", new Uint8Array()]);
    await bench.powerOn();
    expect((await bench.attack(machine, "tls-key")).answer.kind).toBe("released");
  });

  test("I11: is imported once, like the PIN", async () => {
    const machine = await bench.provision({ policy: wantsFile("tls-key"), credentials: [tlsKey] });
    expect(asked(await launchOn(machine), TPM_CC.import)).toBe(2);
    rmSync(keyFile, { force: true });
    const later = await launchOn(machine);
    expect([later.record.state.kind, asked(later, TPM_CC.import)]).toEqual(["serving", 0]);
  });

  test("I4: one that the shim cannot write ends the launch, and no PIN is unsealed", async () => {
    const machine = await bench.provision({ policy: wantsFile("tls-key"), credentials: [tlsKey] });
    await launchOn(machine);
    const again = await launchOn(machine); // the file is there already
    expect(codesOf(again)).toEqual(["ERR_SHIM_REFUSED launch (unsealing)"]);
    expect(again.record.unsealed.map(({ sealed }) => sealed.name)).toEqual(["tls-key"]);
    await checks.expectRefused(again, machine);
  });
});

describe("credentials that are not what the policy takes them for", () => {
  test("I2: two whose blobs were swapped do not open, although the operator signed them so", async () => {
    const machine = await bench.provision({ policy: wantsFile("tls-key"), credentials: [tlsKey] });
    const [pin, file] = [await opened(machine, "hsm-pin"), await opened(machine, "tls-key")];
    const swaps: readonly (readonly [string, (a: SealedPackage, b: SealedPackage) => SealedPackage])[] = [
      ["blob", (a, { duplicate, encryptedSeed }) => ({ ...a, duplicate, encryptedSeed })],
      ["ciphertext", (a, { nonce, ciphertext }) => ({ ...a, nonce, ciphertext })],
    ];
    for (const [, swap] of swaps) {
      const documents = await Promise.all(
        [swap(pin, file), swap(file, pin)].map((sealed) => signSealedPackage(sealed, bench.keys.operator)),
      );
      const slots: BootOptions["slots"] = (all) => void all.set("sealed", bundle(...documents));
      const fresh = await bench.provision({ policy: wantsFile("tls-key"), credentials: [tlsKey] });
      const booted = await launchOn(fresh, { slots });
      expect(codesOf(booted)).toEqual(["blob-damaged tls-key"]);
      expect(booted.record.unsealed).toEqual([]);
      expect(booted.calls).not.toContain("load");
      await checks.expectRefused(booted, fresh);
    }
  });

  test("I2: one with the whole object of another is refused before the TPM sees it", async () => {
    const machine = await bench.provision({ policy: wantsFile("tls-key"), credentials: [tlsKey] });
    const [pin, file] = [await opened(machine, "hsm-pin"), await opened(machine, "tls-key")];
    const { objectPublic, duplicate, encryptedSeed, nonce, ciphertext } = file;
    await expect(
      signSealedPackage(
        { ...pin, objectPublic, duplicate, encryptedSeed, nonce, ciphertext },
        bench.keys.operator,
      ).then((bytes) => verifySealedPackage(bytes, bench.keys.anchors)),
    ).rejects.toMatchObject({ code: "ERR_SEALED_MALFORMED" });
  });

  test.each([
    ["a PIN as a file", { files: "hsm-pin", pin: "hsm-pin" }, ["credential-kind hsm-pin"]],
    ["a file as the PIN", { files: "tls-key", pin: "tls-key" }, ["credential-kind tls-key"]],
    ["the volume's key as a file", { files: "state", pin: "hsm-pin" }, ["credential-kind state"]],
  ])("I4: %s is refused, and nothing is unsealed", async (_, { files, pin }, reasons) => {
    const machine = await bench.provision({
      credentials: [tlsKey, volumeKey],
      policy: (draft) => {
        const { label, serial } = bench.token;
        draft.tokens = { [label]: { module: BENCH_MODULE, label, serial, pin } };
        changeModule(draft, { files: { [keyFile]: files } });
      },
    });
    const booted = await launchOn(machine);
    expect(codesOf(booted)).toEqual(reasons);
    expect(asked(booted, TPM_CC.unseal)).toBe(0);
    expect(booted.calls).not.toContain("startShim");
    await checks.expectRefused(booted, machine);
  });

  test("I2: one that the cabinet does not hold is named, and the others stay sealed", async () => {
    const machine = await bench.provision({
      policy: wantsFile("tls-key"),
      delegated: { credentials: ["hsm-pin", "tls-key"] },
    });
    const booted = await launchOn(machine);
    expect(codesOf(booted)).toEqual(["credential-missing tls-key"]);
    expect(asked(booted, TPM_CC.unseal)).toBe(0);
    await checks.expectRefused(booted, machine);
  });

  test("I2: one that has expired is named; on its last second it is still good", async () => {
    const notAfter = new Date(Date.now() + 3_600_000).toISOString().replace(/\.\d+Z$/, "Z");
    const machine = await bench.provision({
      policy: wantsFile("tls-key"),
      credentials: [{ ...tlsKey, label: { ...tlsKey.label, notAfter } }],
    });
    const good = await launchOn(machine, { now: Date.parse(notAfter) });
    expect(good.record.state.kind).toBe("serving");
    rmSync(keyFile, { force: true });
    const late = await launchOn(machine, { now: Date.parse(notAfter) + 1 });
    expect(codesOf(late)).toEqual(["credential-expired tls-key"]);
    expect(asked(late, TPM_CC.unseal)).toBe(0);
    await checks.expectRefused(late, machine);
  });
});

describe("the state volume's key", () => {
  const volumeOf = (tss: Parameters<NonNullable<BootOptions["stateVolume"]>>[0], received: Uint8Array[]) =>
    createStateVolume({
      ...{ tss, native: native(), audit: new MachineAudit(), now: Date.now },
      auditLog: join(bench.directory, "state-audit.log"),
      spawner: {
        openState: async (_, keyFd) => {
          const buffer = Buffer.alloc(4096);
          received.push(Uint8Array.from(buffer.subarray(0, readSync(keyFd, buffer))));
          return { formatted: true, volumeId: new Uint8Array(16).fill(3), bytes: 1n << 27n };
        },
      },
    });

  test("I4 I8: goes from the TPM into the spawner's pipe before the PIN is unsealed, and the audit log is open then", async () => {
    const machine = await bench.provision({ credentials: [volumeKey] });
    const received: Uint8Array[] = [];
    const booted = await launchOn(machine, { stateVolume: (tss) => volumeOf(tss, received) });
    expect(booted.record.state.kind).toBe("serving");
    expect(received).toEqual([Uint8Array.of(0, 96, ...VOLUME_KEY)]);
    expect(booted.record.unsealed.map(({ sealed }) => sealed.name)).toEqual(["state", "hsm-pin"]);
    expect(filesWith(bench.directory, VOLUME_KEY)).toEqual([]);
  });

  test("I8: without it a machine that has a state volume is refused, and no PIN is unsealed", async () => {
    const machine = await bench.provision();
    const booted = await launchOn(machine, { stateVolume: (tss) => volumeOf(tss, []) });
    expect(codesOf(booted)).toEqual(expect.arrayContaining(["credential-missing state"]));
    expect(asked(booted, TPM_CC.unseal)).toBe(0);
    await checks.expectRefused(booted, machine);
  });

  test("I8: a volume that is refused ends the launch before the PIN is unsealed", async () => {
    const machine = await bench.provision({ credentials: [volumeKey] });
    const other: NonNullable<BootOptions["stateVolume"]> = () => ({
      settle: async () => undefined,
      open: async (deliver) => {
        const [keyFd, sink] = native().pipe();
        await deliver(sink);
        for (const fd of [keyFd, sink]) native().closeFd(fd);
        throw new Error("no such volume");
      },
    });
    const booted = await launchOn(machine, { stateVolume: other });
    expect(booted.record.unsealed.map(({ sealed }) => sealed.name)).toEqual(["state"]);
    expect(booted.calls).not.toContain("login");
    await checks.expectRefused(booted, machine);
  });
});
