import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { predictAgentPcr } from "../../attest/index.ts";
import {
  encodeAnchors,
  encodeBundle,
  fromBase64,
  parseBundle,
  type SlotName,
  sha256Hex,
  toHex,
  utf8,
} from "../../policy/index.ts";
import { parseSealedPackage, signSealedPackage } from "../../seal/package.ts";
import {
  asked,
  type LaunchChecks,
  openLaunchChecks,
  programsWith,
  REFUSED_BY_TPM,
  reasonOf,
  reasonsOf,
} from "../support/launch-checks.ts";
import {
  type BootOptions,
  bundle,
  DEVICES,
  eventsOf,
  LAUNCH_PIN,
  type LaunchBench,
  openLaunchBench,
  type Provisioned,
  withinReach,
} from "../support/launch-fixture.ts";
import { createSealKeys, delivered, tpmTool } from "../support/seal-fixture.ts";
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
      ...["open", "probe", "load", "login", "keys", "sign", "sign", "arm"],
    ]);
    const last = booted.commands.at(-1);
    expect(last).toMatchObject({ client: "agent", code: TPM_CC.pcrExtend });
    expect(asked(booted, TPM_CC.unseal)).toBe(1);
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
  change: (policy: Record<string, unknown> & { module: Record<string, unknown> }) => void,
): BootOptions {
  return {
    slots: (slots) => {
      const policy = JSON.parse(new TextDecoder().decode(slots.get("policy")));
      change(policy);
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
    options: () => changedPolicy(({ module }) => Object.assign(module, { environment: { SOFTHSM2_CONF: "/tmp/x" } })),
    code: "measurement-changed",
    item: () => "environment environment",
    expected: () => eventDigest("environment"),
  },
  {
    what: "a device more",
    options: () => ({ devices: [...DEVICES, "8086:10d3"] }),
    code: "measurement-changed",
    item: () => "devices pci",
    expected: () => eventDigest("devices"),
  },
  {
    what: "a device less",
    options: () => ({ devices: DEVICES.slice(1) }),
    code: "measurement-changed",
    item: () => "devices pci",
  },
  {
    what: "a file more in the policy",
    options: () =>
      changedPolicy(({ module }) =>
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
      expect.arrayContaining([SOFTHSM, `library ${SOFTHSM}`, "devices pci", "PCR 4 (sha256)", "PCR 13 (sha256)"]),
    );
  });

  test("I2: an event more than the release has is named as one that nothing expects", async () => {
    const more = { a: "b", SOFTHSM2_CONF: pathOf("file") };
    await using booted = await boot(
      changedPolicy(({ module }) => {
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
  expect(reasonsOf(booted)).toEqual([expect.objectContaining({ code: "ERR_TPM" })]);
  expect(booted.calls).toEqual([]);
});

const fromHexOf = (hex: string | undefined) => Uint8Array.from(Buffer.from(hex ?? "", "hex"));

describe("documents of the cabinet", () => {
  const CHECKED: readonly SlotName[] = ["policy", "anchors", "release", "sealed", "module", "machine"];

  test.each(CHECKED)("I10: a damaged %s slot is refused with a typed reason that names it", async (slot) => {
    const content = provisioned.slots.get(slot) ?? new Uint8Array();
    const damage = (cabinet: Uint8Array) => {
      const at = Buffer.from(cabinet).indexOf(content, 4096);
      return cabinet.map((byte, index) => (index === at + 5 ? byte ^ 0x20 : byte));
    };
    await using booted = await boot({ cabinet: damage });
    expect(reasonOf(booted, "ERR_CABINET_CHECKSUM", slot)).toMatchObject({ expected: sha256Hex(content) });
    await expectRefused(booted);
  });

  test.each(["policy", "anchors"] satisfies SlotName[])(
    "I10: an empty %s slot is refused with a typed reason that names it",
    async (slot) => {
      await using booted = await boot({ slots: (slots) => void slots.delete(slot) });
      expect(reasonOf(booted, "ERR_ENVIRONMENT", slot)).toMatchObject({ expected: "a document", got: "an empty slot" });
      await expectRefused(booted);
    },
  );

  test.each<[SlotName, string, string]>([
    ["release", "release-missing", "release"],
    ["sealed", "credential-missing", "hsm-pin"],
  ])("I2: an empty %s slot, and one with a bundle of nothing, is refused as %s", async (slot, code, item) => {
    const machine = await bench.provision(); // what a store has kept of a package would do in its place
    for (const content of [null, encodeBundle([])]) {
      const slots = (all: Map<SlotName, Uint8Array>) => void (content ? all.set(slot, content) : all.delete(slot));
      await using booted = await boot({ slots }, machine);
      expect(reasonOf(booted, code, item)).toBeDefined();
      expect(reasonOf(booted, "tpm-would-release")).toBeUndefined();
      await expectRefused(booted, machine);
    }
  });

  test.each<[SlotName, string]>([
    ["policy", "ERR_POLICY_MALFORMED"],
    ["anchors", "ERR_POLICY_MALFORMED"],
    ["release", "ERR_BYTES_TRUNCATED"],
    ["sealed", "ERR_BYTES_TRUNCATED"],
    ["module", "ERR_BYTES_TRUNCATED"],
    ["machine", "ERR_POLICY_MALFORMED"],
  ])("I10: a %s document that was cut short is refused as %s", async (slot, code) => {
    const cut = (slots: Map<SlotName, Uint8Array>) =>
      slots.set(slot, (slots.get(slot) ?? new Uint8Array()).slice(0, -3));
    await using booted = await boot({ slots: cut });
    expect(reasonOf(booted, code, slot)).toBeDefined();
    await expectRefused(booted);
  });

  test.each(["objectPublic", "duplicate", "encryptedSeed"] as const)(
    "I10: a signed package whose %s is one byte short is refused before the TPM sees it",
    async (field) => {
      const { keys } = bench;
      const envelope = JSON.parse(new TextDecoder().decode(provisioned.packages.get("hsm-pin"))) as { payload: string };
      const sealed = parseSealedPackage(fromBase64(envelope.payload, "payload"), keys.root.spkiPem);
      const short = await signSealedPackage({ ...sealed, [field]: sealed[field].slice(0, -1) }, keys.operator);
      const machine = await bench.provision(); // one that has kept no copy of the package
      await using booted = await boot({ slots: (slots) => void slots.set("sealed", bundle(short)) }, machine);
      expect(reasonOf(booted, "blob-damaged", "/0.json")?.got).toContain(field);
      expect(booted.commands.some(({ client }) => client === "unsealer")).toBe(false);
      await expectRefused(booted, machine);
    },
  );

  test("I10: every document broken at once gives a reason for each", async () => {
    await using booted = await boot({ slots: (slots) => CHECKED.forEach((slot) => void slots.set(slot, utf8("{"))) });
    const items = new Set(reasonsOf(booted).map(({ item }) => item));
    // Release and package hang from the anchors: without these nothing can be said about them.
    expect([...items].sort()).toEqual(["anchors", "machine", "module", "policy"]);
    expect(reasonsOf(booted).map(({ code }) => code)).not.toContain("ERR_UNEXPECTED");
    await expectRefused(booted);
  });

  test("I2: foreign anchors refuse release and package together", async () => {
    const anchors = encodeAnchors((await createSealKeys()).anchors);
    await using booted = await boot({ slots: (slots) => void slots.set("anchors", anchors) });
    expect(reasonOf(booted, "release-not-trusted", "/0.json")).toBeDefined();
    expect(reasonOf(booted, "blob-damaged", "/0.json")).toBeDefined();
    await expectRefused(booted);
  });
});

describe("token and keys", () => {
  test.each([
    ["a token with another serial number", { policy: "0000000000000000", sealed: "0000000000000000" }],
    ["a PIN that was sealed for another token", { policy: null, sealed: "0000000000000000" }],
  ])("I11: %s refuses before the PIN is asked for", async (_, serials) => {
    const machine = await bench.provision({
      label: { tokenSerial: serials.sealed },
      policy: (draft) => {
        const { label, serial } = bench.token;
        draft.tokens = { [label]: { label, serial: serials.policy ?? serial, pin: "hsm-pin" } };
      },
    });
    await using booted = await boot({}, machine);
    expect(reasonsOf(booted)).toHaveLength(1);
    expect(reasonOf(booted, "hsm-absent", bench.token.label)?.got).toContain(bench.token.serial);
    expect(booted.commands.some(({ client }) => client === "unsealer")).toBe(false);
    expect(booted.calls).not.toContain("login");
    expect(booted.channelLeft()).toEqual(new Uint8Array());
    await expectRefused(booted, machine);
  });

  test("I11: a wrong PIN is tried once, and the launch ends refused", async () => {
    const machine = await bench.provision({ pin: `${LAUNCH_PIN}-not` });
    await using booted = await boot({}, machine);
    expect(reasonsOf(booted)).toEqual([{ code: "pin-refused", item: bench.token.label, expected: "0x0", got: "0xa0" }]);
    expect(booted.calls.filter((call) => call === "login")).toHaveLength(1);
    expect(booted.calls.at(-1)).toBe("login");
    expect(asked(booted, TPM_CC.unseal)).toBe(1);
    expect(booted.channelLeft()).toEqual(new Uint8Array());
    await expectRefused(booted, machine);
  });

  const withKey = (name: string, spki: Uint8Array, does: "sign" | "decrypt" | "unwrap" = "sign") =>
    bench.provision({
      policy: (draft) => {
        draft.keys = { ...draft.keys, [name]: { spki: `sha256:${sha256Hex(spki)}`, does } };
      },
    });

  test("I6: a key of the policy that the token does not hold refuses", async () => {
    const machine = await withKey("lost", utf8("no such key"));
    await using booted = await boot({}, machine);
    expect(reasonsOf(booted)).toEqual([
      {
        code: "key-unknown",
        item: "lost",
        expected: `exactly one object on launch-bench with sha256:${sha256Hex(utf8("no such key"))}`,
        got: "0",
      },
    ]);
    expect(booted.calls).not.toContain("sign");
    await expectRefused(booted, machine);
  });

  test("I7: a key that may leave the token is not served", async () => {
    const machine = await withKey("open", bench.addKey({ label: "open", id: "11", kind: "extractable" }));
    await using booted = await boot({}, machine);
    expect(reasonsOf(booted)).toEqual(
      expect.arrayContaining([
        { code: "key-attributes", item: "open extractable", expected: "false", got: "true" },
        { code: "key-attributes", item: "open neverExtractable", expected: "true", got: "false" },
      ]),
    );
    expect(booted.record.keys).toEqual([]);
    expect(booted.calls).not.toContain("sign");
    await expectRefused(booted, machine);
  });

  test("I6: two objects with the key that a name stands for refuse", async () => {
    const first = bench.addKey({ label: "twin", id: "12", kind: "imported" });
    const again = await withKey("twin", first);
    await using alone = await boot({}, again);
    // One of it is found, and is no key to serve either: it came from outside.
    expect(reasonOf(alone, "key-attributes", "twin alwaysSensitive")).toMatchObject({ got: "false" });
    bench.addKey({ label: "twin", id: "13", kind: "imported" });
    await using booted = await boot({}, again);
    expect(reasonOf(booted, "key-unknown", "twin")?.got).toBe("2");
    await expectRefused(booted, again);
  });

  test("I7: a key that is to do what the token does not let it do is not served", async () => {
    const machine = await withKey("document-rsa", bench.token.keys["document-rsa"] ?? new Uint8Array(), "unwrap");
    await using booted = await boot({}, machine);
    expect(reasonsOf(booted)).toEqual([
      { code: "key-attributes", item: "document-rsa unwrap", expected: "true", got: "false" },
    ]);
    await expectRefused(booted, machine);
  });
});
