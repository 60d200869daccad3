import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { predictAgentPcr } from "../../attest/index.ts";
import { encodeBundle, parseBundle, sha256Hex, toHex, utf8 } from "../../policy/index.ts";
import {
  asked,
  type LaunchChecks,
  openLaunchChecks,
  programsWith,
  REFUSED_BY_TPM,
  reasonOf,
  reasonsOf,
} from "../support/launch-checks.ts";
import { BENCH_MODULE } from "../support/launch-documents.ts";
import {
  type BootOptions,
  DEVICES,
  eventsOf,
  LAUNCH_PIN,
  type LaunchBench,
  openLaunchBench,
  type Provisioned,
  withinReach,
} from "../support/launch-fixture.ts";
import { delivered, tpmTool } from "../support/seal-fixture.ts";
import { SOFTHSM } from "../support/shim-fixture.ts";
import { TPM_CC } from "../support/tpm-bus.ts";

let checks: LaunchChecks;
let bench: LaunchBench;
let provisioned: Provisioned;
beforeAll(async () => {
  checks = await openLaunchChecks();
  ({ bench, provisioned } = checks);
});
afterAll(() => bench[Symbol.asyncDispose]());

const boot: LaunchChecks["boot"] = (...args) => checks.boot(...args);
const expectClosed: LaunchChecks["expectClosed"] = (...args) => checks.expectClosed(...args);
const expectRefused: LaunchChecks["expectRefused"] = (...args) => checks.expectRefused(...args);

describe("a clean launch", () => {
  test("I2: serves, and both banks of PCR 13 are the release's events, then token, keys and cap", async () => {
    await using booted = await boot();
    expect(booted.record.state).toEqual({ kind: "serving", scopes: ["release-signing"] });
    expect(booted.launched?.keys.map(({ name }) => name)).toEqual(["document-rsa", "release-ec"]);
    const events = await booted.log.locked(async (records) => eventsOf(records));
    expect(events.slice(0, provisioned.events.length)).toEqual(provisioned.events);
    expect(events.slice(provisioned.events.length).map(({ kind, name }) => `${kind} ${name}`)).toEqual([
      "token launch-bench",
      "key document-rsa",
      "key release-ec",
      "cap serving",
    ]);
    expect(await bench.agentPcr()).toEqual(predictAgentPcr(events));
    expect(booted.record.tokens).toMatchObject([{ name: "launch-bench", serial: bench.token.serial }]);
    expect(booted.channelLeft()).toEqual(new Uint8Array());
    await expectClosed();
  });

  test("I3: the attack of these tests does open the seal where no agent ran, so its refusals mean something", async () => {
    await bench.powerOn();
    const present = await bench.agentPcr();
    expect(withinReach(present.sha256, "sha256", provisioned.events)).toBe(true);
    const { answer, received } = await bench.attack(provisioned);
    expect(answer.kind).toBe("released");
    expect(received).toEqual(delivered(utf8(LAUNCH_PIN)));
  });

  test("I3: the requests come in this order, and only then is anything served", async () => {
    await using booted = await boot();
    expect(booted.calls).toEqual([
      ...["prepareShim", "startShim"],
      ...["open", "probe", "load", "login", "keys", "sign", "sign", "uses", "arm"],
    ]);
    const last = booted.commands.at(-1);
    expect(last).toMatchObject({ client: "agent", code: TPM_CC.pcrExtend });
    expect(asked(booted, TPM_CC.unseal)).toBe(1);
  });

  test("I10: questions about the endorsement key all the time, as enrolments ask them, disturb it in nothing", async () => {
    let ended = false;
    let asking: Promise<number> = Promise.resolve(0);
    await using booted = await boot({
      beforeLaunch: async ({ tpm }) => {
        const ask = async () => {
          let answers = 0;
          for (; !ended; answers++) await tpm.endorsementKey("p384"); // opens the key that the launch opens too
          return answers;
        };
        asking = Promise.all([ask(), ask()]).then(([a, b]) => a + b);
        asking.catch(() => undefined); // awaited below
      },
    });
    ended = true;
    expect(await asking).toBeGreaterThan(20);
    expect(booted.record.state.kind).toBe("serving");
  });
});

interface Mismatch {
  readonly what: string;
  readonly options: () => BootOptions;
  readonly code: string;
  readonly item: () => string;
  /** What the reason compares, where the test can know it. */
  readonly expected?: () => string;
  readonly got?: () => string;
}

function changedBundle(path: string, change: (bytes: Uint8Array) => Uint8Array): BootOptions {
  return {
    slots: (slots) => {
      const files = parseBundle(slots.get("module") ?? new Uint8Array());
      const content = files.find((file) => file.path === path)?.bytes ?? new Uint8Array(readFileSync(path));
      const others = files.filter((file) => file.path !== path);
      slots.set(
        "module",
        encodeBundle([[path, change(content)], ...others.map((file) => [file.path, file.bytes] as const)]),
      );
    },
  };
}

function changedPolicy(
  change: (policy: Record<string, unknown>, module: Record<string, unknown>) => void,
): BootOptions {
  return {
    slots: (slots) => {
      const policy = JSON.parse(new TextDecoder().decode(slots.get("policy")));
      change(policy, policy.modules[BENCH_MODULE]);
      slots.set("policy", utf8(JSON.stringify(policy)));
    },
  };
}

const flipped = (bytes: Uint8Array) => bytes.map((byte, index) => (index === bytes.length >> 1 ? byte ^ 1 : byte));
const eventDigest = (kind: string) =>
  toHex(provisioned.events.find((event) => event.kind === kind)?.sha256 ?? new Uint8Array());
const bundled = (path: string) => {
  const entry = parseBundle(provisioned.slots.get("module") ?? new Uint8Array()).find((file) => file.path === path);
  return entry?.bytes ?? new Uint8Array();
};
const pathOf = (kind: string) => provisioned.events.find((event) => event.kind === kind)?.name ?? "";

const MISMATCHES: readonly Mismatch[] = [
  {
    what: "one byte of the library",
    options: () => changedBundle(SOFTHSM, flipped),
    code: "library-mismatch",
    item: () => SOFTHSM,
    expected: () => eventDigest("library"),
    got: () => sha256Hex(flipped(bundled(SOFTHSM))),
  },
  {
    what: "one byte of a library that it needs",
    options: () => changedBundle(pathOf("closure"), flipped),
    code: "library-mismatch",
    item: () => pathOf("closure"),
    expected: () => eventDigest("closure"),
    got: () => sha256Hex(flipped(new Uint8Array(readFileSync(pathOf("closure"))))),
  },
  {
    what: "one byte of the library's configuration",
    options: () => changedBundle(pathOf("file"), flipped),
    code: "library-mismatch",
    item: () => pathOf("file"),
    expected: () => eventDigest("file"),
    got: () => sha256Hex(flipped(bundled(pathOf("file")))),
  },
  {
    what: "one byte of the policy",
    options: () => changedPolicy((policy) => Object.assign(policy, { serial: 2 })),
    code: "measurement-changed",
    item: () => "policy policy",
    expected: () => eventDigest("policy"),
  },
  {
    what: "the agent's configuration",
    options: () => ({ configBytes: utf8(`${new TextDecoder().decode(provisioned.configBytes)} `) }),
    code: "measurement-changed",
    item: () => "config agent.json",
    expected: () => eventDigest("config"),
    got: () => sha256Hex(utf8(`${new TextDecoder().decode(provisioned.configBytes)} `)),
  },
  {
    what: "the sandbox profile",
    options: () => {
      const programs = programsWith(bench, "other-profile", null);
      copyFileSync(join(bench.programs, "unsealer"), join(programs, "unsealer"));
      writeFileSync(join(programs, "local.profile"), flipped(readFileSync(join(bench.programs, "local.profile"))));
      return { programs };
    },
    code: "library-mismatch",
    item: () => "/profile",
    expected: () => eventDigest("profile"),
  },
  {
    what: "the shim program",
    options: () => {
      const programs = programsWith(bench, "other-shim", null);
      copyFileSync(join(bench.programs, "unsealer"), join(programs, "unsealer"));
      writeFileSync(join(programs, "shim"), flipped(readFileSync(join(bench.programs, "shim"))));
      return { programs };
    },
    code: "measurement-changed",
    item: () => "closure /shim",
    got: () => sha256Hex(flipped(readFileSync(join(bench.programs, "shim")))),
  },
  {
    what: "the library's environment",
    options: () => changedPolicy((_, module) => Object.assign(module, { environment: { SOFTHSM2_CONF: "/tmp/x" } })),
    code: "measurement-changed",
    item: () => "environment bench",
    expected: () => eventDigest("environment"),
  },
  {
    what: "a device more",
    options: () => ({ devices: [...DEVICES, "8086:10d3"] }),
    code: "measurement-changed",
    item: () => "devices devices",
    expected: () => eventDigest("devices"),
  },
  {
    what: "a device less",
    options: () => ({ devices: DEVICES.slice(1) }),
    code: "measurement-changed",
    item: () => "devices devices",
  },
  {
    what: "a file more in the policy",
    options: () =>
      changedPolicy((_, module) =>
        Object.assign(module, {
          config: {
            ...(module["config"] as object),
            "/etc/hostname": sha256Hex(new Uint8Array(readFileSync("/etc/hostname"))),
          },
        }),
      ),
    code: "measurement-changed",
    item: () => "file /etc/hostname",
    expected: () => "nothing",
    got: () => sha256Hex(new Uint8Array(readFileSync("/etc/hostname"))),
  },
  ...[4, 9, 11, 12].map((pcr) => ({
    what: `something more in boot PCR ${pcr}`,
    options: () => ({ extend: [[pcr, utf8("one byte of an initrd")] as const] }),
    code: "pcr-changed",
    item: () => `PCR ${pcr} (sha256)`,
    expected: () => provisioned.release.pcrs.sha256[pcr] ?? "",
  })),
];

describe("what differs from the release", () => {
  test.each(MISMATCHES)("I2: $what is named with expected and got, and the TPM itself refuses", async (row) => {
    await using booted = await boot(row.options());
    const found = reasonOf(booted, row.code, row.item());
    expect(found).toBeDefined();
    if (row.expected) expect(found?.expected).toBe(row.expected());
    if (row.got) expect(found?.got).toBe(row.got());
    expect(found?.got).not.toBe(found?.expected);
    expect(booted.record.answers).toEqual(REFUSED_BY_TPM);
    expect(asked(booted, TPM_CC.unseal)).toBe(1);
    expect(booted.calls).not.toContain("startShim");
    await expectRefused(booted);
  });

  test("I2: all differences are named at once, not the first alone", async () => {
    await using booted = await boot({ ...changedBundle(SOFTHSM, flipped), devices: [], extend: [[4, utf8("x")]] });
    const items = reasonsOf(booted).map(({ item }) => item);
    expect(items).toEqual(
      expect.arrayContaining([SOFTHSM, `library ${SOFTHSM}`, "devices devices", "PCR 4 (sha256)", "PCR 13 (sha256)"]),
    );
  });

  test("I2: an event more than the release has is named as one that nothing expects", async () => {
    const more = { a: "b", SOFTHSM2_CONF: pathOf("file") };
    await using booted = await boot(
      changedPolicy((_policy, module) => {
        const { [pathOf("closure")]: _, ...closure } = module["closure"] as Record<string, string>;
        Object.assign(module, {
          closure: { ...closure, "/etc/hostname": "00".repeat(32), "/etc/passwd": "00".repeat(32) },
        });
        Object.assign(module, { environment: more });
      }),
    );
    expect(reasonsOf(booted)).toContainEqual({
      ...{ code: "measurement-changed", item: "closure /etc/hostname", expected: "nothing" },
      got: sha256Hex(new Uint8Array(readFileSync("/etc/hostname"))),
    });
    await expectRefused(booted);
  });

  test("I2: a TPM refuses by itself, without any comparison of the agent's; then nothing is in the PIN pipe", async () => {
    const blind: BootOptions["tpm"] = (real) =>
      new Proxy(real, {
        get: (target, name) => {
          if (name !== "pcrRead") return Reflect.get(target, name).bind(target);
          return async (bank: "sha256" | "sha384", indices: readonly number[]) =>
            indices.length === 1
              ? target.pcrRead(bank, indices)
              : new Map(indices.map((pcr) => [pcr, fromHexOf(provisioned.release.pcrs.sha256[pcr])]));
        },
      });
    await using booted = await boot({ tpm: blind, extend: [[4, utf8("another kernel")]] });
    expect(reasonsOf(booted).map(({ code }) => code)).toEqual(["tpm-refused"]);
    expect(reasonsOf(booted)[0]?.got).toBe("TPM2_PolicyPCR 0x000001c4, TPM2_Unseal 0x0000099d");
    expect(booted.record.answers).toEqual(REFUSED_BY_TPM);
    expect(booted.calls).toEqual(["prepareShim", "startShim", "open", "probe", "load"]);
    expect(booted.channelLeft()).toEqual(new Uint8Array());
    await expectRefused(booted);
  });

  test("I1: a file of the bundle that the policy does not name is never copied", async () => {
    let copied: readonly string[] = [];
    await using booted = await boot({
      ...changedBundle("/etc/hostname", (bytes) => bytes),
      spawner: (real) => ({
        prepareShim: (id, files) => {
          copied = files.map(({ path }) => path);
          return real.prepareShim(id, files);
        },
      }),
    });
    expect(booted.record.state.kind).toBe("serving");
    expect(copied).toContain(SOFTHSM);
    expect(copied).not.toContain("/etc/hostname");
  });

  test("I2: an agent PCR that somebody used before refuses, and the TPM too", async () => {
    await using booted = await boot({ extend: [[13, utf8("somebody else")]] });
    for (const bank of ["sha256", "sha384"]) {
      expect(reasonOf(booted, "agent-pcr-used", `PCR 13 (${bank})`)).toMatchObject({ expected: "its reset value" });
    }
    expect(booted.record.answers).toEqual(REFUSED_BY_TPM);
    await expectRefused(booted);
  });

  test("I2: a second bank that was used alone refuses although the TPM would release, and its data are discarded", async () => {
    const prepare = () => tpmTool(bench.machine, "tpm2_pcrextend", `13:sha384=${"5a".repeat(48)}`);
    await using booted = await boot({ prepare });
    expect(reasonsOf(booted).map(({ code }) => code)).toEqual(["agent-pcr-used", "tpm-would-release"]);
    expect(booted.calls).toEqual(["prepareShim"]);
    const present = await bench.agentPcr();
    expect(withinReach(present.sha256, "sha256", provisioned.events)).toBe(false);
    expect((await bench.attack(provisioned)).answer.kind).toBe("refused");
  });
});

test("I2: a TPM without the second bank is refused: it would leave that bank's report empty", async () => {
  await using other = await openLaunchBench({ banks: "sha256" });
  await using booted = await other.boot(await other.provision());
  expect(booted.record.state.kind).toBe("refused");
  expect(reasonsOf(booted)).toEqual([
    { code: "pcr-bank-inactive", item: "sha384 bank", expected: "active", got: "not allocated" },
  ]);
  expect(booted.calls).toEqual([]);
});

const fromHexOf = (hex: string | undefined) => Uint8Array.from(Buffer.from(hex ?? "", "hex"));
