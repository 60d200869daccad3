import { createHash } from "node:crypto";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { parseFirmwareLog, replayFirmwareLog, resetValue } from "../../../attest/index.ts";
import { sha256Hex, toHex } from "../../../policy/index.ts";
import { openSecureBootKeys, predictSecureBoot, signUki } from "../../../vm-images/secure-boot.ts";
import { cli } from "../../support/cli.ts";
import { type CliFixture, expectComplaint, ironclaw, makeCliFixture } from "../../support/cli-fixture.ts";
import { typicalLog } from "../../support/firmware-log-writer.ts";
import { startSwtpm } from "../../support/swtpm.ts";
import { tpmTool } from "../../support/tpm-tools.ts";

let made: CliFixture;
beforeAll(async () => {
  made = await makeCliFixture();
}, 120_000);
afterAll(async () => {
  await made?.[Symbol.asyncDispose]();
});
const at = (name: string) => made.at(name);

describe("a prediction", () => {
  test.each([
    ["I2: a zero agent PCR is not signed, and that is a refusal", "13", "00".repeat(32), 1, /agent PCR/],
    ["I2: a boot PCR that is not the fold of the extends is refused", "4", "ab".repeat(32), 3, /PCR 4 \(sha256\)/],
    ["I2: a PCR 12 that the boot never extends is refused", "12", "ab".repeat(32), 3, /PCR 12 \(sha256\)/],
  ])("%s", async (_, pcr, value, exitCode, message) => {
    const prediction = made.json("prediction.json");
    prediction.pcrs.sha256[pcr] = value;
    const result = await cli(signChanged(prediction));
    expectComplaint(result, exitCode, `PCR ${pcr}`);
    expect(result.err).toMatch(message);
  });

  test.each([
    ["without its extends", (boot: object[]) => boot.splice(0)],
    ["with an extend left out", (boot: object[]) => boot.pop()],
    ["with an extend of a PCR that no boot extends", (boot: object[]) => boot.push({ ...boot[0], pcr: 12 })],
    ["with a digest in capitals", (boot: object[]) => boot.push({ ...boot[0], sha256: "AB".repeat(32) })],
    ["with two extends of one PCR in another order", (boot: object[]) => boot.unshift(...boot.splice(1, 1))],
  ])("I2: %s it is refused", async (_, change) => {
    const prediction = made.json("prediction.json");
    change(prediction.boot);
    expectComplaint(await cli(signChanged(prediction)), 3, "boot");
  });

  test("I12: its extends, played on a software TPM, give its boot PCRs in both banks", async () => {
    await using tpm = await startSwtpm({ endorsement: "none" });
    const { boot, pcrs } = made.json("prediction.json");
    const extend = ({ pcr, sha256, sha384 }: Record<string, string>) => `${pcr}:sha256=${sha256},sha384=${sha384}`;
    await tpmTool(tpm, "tpm2_pcrextend", ...boot.map(extend));
    for (const bank of ["sha256", "sha384"]) {
      const read = await tpmTool(tpm, "tpm2_pcrread", `${bank}:4,9,11,12`);
      const got = [...read.matchAll(/^ +(\d+) *: 0x([0-9A-F]+)$/gm)].map(([, pcr, value = ""]) => [
        pcr,
        value.toLowerCase(),
      ]);
      expect(got).toEqual(["4", "9", "11", "12"].map((pcr) => [pcr, pcrs[bank][pcr]]));
    }
  });

  test("I9, I12: of a system with our package is `installed`, after systemd's phases; of an agent that takes itself for an image's there is none", async () => {
    const uki = at("image/uki.efi");
    const predict = (...more: readonly string[]) =>
      cli(["release", "predict", ...made.lineOf("release predict").slice(4), "--installed", at("installed"), ...more]);
    cpSync(at("image/tree"), at("installed"), { recursive: true });
    expectComplaint(await predict("--uki", uki), 2, "an image's");
    const path = at("installed/etc/ironclaw/agent.json");
    const config = JSON.parse(readFileSync(path, "utf8"));
    writeFileSync(path, JSON.stringify({ ...config, system: "installed" }));
    const ready = await predict("--uki", uki);
    const prediction = JSON.parse(ready.out);
    expect(prediction.image.variant).toBe("installed");
    const image = made.json("prediction.json");
    expect(prediction.boot).toEqual([
      ...image.boot,
      ...["sysinit", "ready"].map((word) => ({
        pcr: 11,
        sha256: createHash("sha256").update(word).digest("hex"),
        sha384: createHash("sha384").update(word).digest("hex"),
      })),
    ]);
    const early = JSON.parse((await predict("--uki", uki, "--phases", "")).out);
    expect([early.boot, early.image.id]).toEqual([image.boot, prediction.image.id]);
    expectComplaint(await predict("--uki", uki, "--phases", "ready,sysinit"), 2, "--phases");
    expectComplaint(await predict("--uki", uki, "--image", at("image")), 2, "what is booted");
    expectComplaint(await predict(), 2, "what is booted");
    expectComplaint(await predict("--uki", at("none")), 4, "kernel image");
    // The id names what the package brought, too.
    writeFileSync(at("installed/usr/lib/ironclaw/agent.cjs"), "another agent");
    expect(JSON.parse((await predict("--uki", uki)).out).image.id).not.toBe(prediction.image.id);
  });

  test("I2, I12: of a signed kernel image is the one that its firmware makes of it, and nobody guesses whether the signature counts", async () => {
    cpSync(at("image/tree"), at("signed"), { recursive: true });
    const path = at("signed/etc/ironclaw/agent.json");
    writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, "utf8")), system: "installed" }));
    const unsigned = readFileSync(at("image/uki.efi"));
    writeFileSync(at("signed.efi"), await signUki(unsigned, await openSecureBootKeys(at("secure-boot"))));
    const line = [...made.lineOf("release predict").slice(4), "--installed", at("signed"), "--uki"];
    const predict = (uki: string, ...more: readonly string[]) => cli(["release", "predict", ...line, at(uki), ...more]);

    const silent = await predict("signed.efi");
    expectComplaint(silent, 2, "--secure-boot: expected on or off");
    expect(silent.err).toContain("mokutil --sb-state");
    const [image, off, on] = [
      made.json("prediction.json"),
      JSON.parse((await predict("signed.efi", "--secure-boot", "off", "--phases", "")).out),
      JSON.parse((await predict("signed.efi", "--secure-boot", "on", "--phases", "")).out),
    ];
    // The signature is not part of what is hashed. What the firmware verified itself it measures; the stub's word for the kernel it does not.
    expect(off.boot).toEqual(image.boot);
    const kernel = image.boot.findLastIndex(({ pcr }: { pcr: number }) => pcr === 4);
    expect(on.boot).toEqual(image.boot.toSpliced(kernel, 1));
    expect(on.pcrs.sha256["7"], "whose keys the firmware has, nobody here knows").toBeUndefined();

    expectComplaint(await predict("image/uki.efi", "--secure-boot", "on"), 2, "without a signature");
    expectComplaint(await predict("signed.efi", "--secure-boot", "maybe"), 2, "expected on or off");
    expectComplaint(await cli([...predictTo("x.json"), "--secure-boot", "on"]), 2, "what is booted");
  });

  test("I9: with a machine's firmware log it holds its firmware PCRs in both banks, and a release keeps them", async () => {
    writeFileSync(at("firmware.log"), typicalLog());
    const log = parseFirmwareLog(typicalLog());
    await ironclaw([...predictTo("with-firmware.json"), "--firmware-log", at("firmware.log")]);
    const { pcrs } = made.json("with-firmware.json");
    for (const bank of ["sha256", "sha384"] as const) {
      const replayed = replayFirmwareLog(log, bank);
      for (const pcr of [0, 1, 2, 3, 5, 6, 7, 14])
        expect(pcrs[bank][pcr]).toBe(toHex(replayed.get(pcr) ?? resetValue(bank, pcr)));
      expect(pcrs[bank]).toMatchObject(made.json("prediction.json").pcrs[bank]);
    }
    await ironclaw(made.lineWith("release sign", "prediction.json", at("with-firmware.json")).concat("--json"));
  });

  test("I9: takes the firmware PCRs that are named, and refuses another, one twice, and names without a log", async () => {
    writeFileSync(at("firmware.log"), typicalLog());
    const line = [...predictTo("with-firmware.json"), "--firmware-log", at("firmware.log"), "--firmware-pcrs"];
    await ironclaw([...line, "0,2,7"]);
    expect(Object.keys(made.json("with-firmware.json").pcrs.sha256)).toEqual([
      "0",
      "2",
      "4",
      "7",
      "9",
      "11",
      "12",
      "13",
    ]);
    for (const list of ["4", "0,0", "16", "", "0,2,x"]) expectComplaint(await cli([...line, list]), 2, list);
    expectComplaint(await cli([...predictTo("x.json"), "--firmware-pcrs", "0"]), 2, "no log");
    writeFileSync(at("firmware.log"), new Uint8Array(3));
    expectComplaint(await cli([...line, "0"]), 3, "no firmware log");
  });

  const predictTo = (name: string) => [...made.lineOf("release predict"), "--out", at(name)];

  test("I2: an image whose kernel is not that of its manifest is not predicted", async () => {
    cpSync(at("image"), at("image2"), { recursive: true });
    writeFileSync(at("image2/uki.efi"), readFileSync(at("image/uki.efi")).fill(1, 600, 601));
    expectComplaint(await cli(made.lineWith("release predict", "image", at("image2"))), 3, "another kernel");
    expectComplaint(await cli(made.lineWith("release predict", "image", at("directory"))), 4, "no image");
  });

  function signChanged(prediction: unknown): string[] {
    writeFileSync(at("changed"), JSON.stringify(prediction));
    return made.lineWith("release sign", "prediction.json", at("changed"));
  }
});

describe("I2: a delegation", () => {
  test("says which credentials, each once; a name that none can have is refused", async () => {
    const delegate = made.lineOf("keys delegate");
    await ironclaw([...delegate, "--credential", "tls-key", "--credential", "hsm-pin"]);
    const { delegation } = made.json("other-delegation.json");
    expect(delegation.credentials.map(({ name }: { name: string }) => name)).toEqual(["hsm-pin", "tls-key"]);
    expectComplaint(await cli([...delegate, "--credential", "a", "--credential", "a"]), 1, "one twice");
    expectComplaint(await cli([...delegate, "--credential", "No Name"]), 2, "no name");
  });

  test("for another key, or under another root, signs nothing", async () => {
    await ironclaw(["keys", "new", at("stranger.pem")]);
    const key = await cli(made.lineWith("release sign", "release.pem", at("stranger.pem")));
    expectComplaint(key, 1, "another key");
    expect(key.err).toMatch(/which was delegated to.*\nhint: `ironclaw keys delegate`/);
    await ironclaw(made.lineWith("keys delegate", "root.pem", at("stranger.pem")));
    const root = await cli(made.lineWith("release sign", "delegation.json", at("other-delegation.json")));
    expectComplaint(root, 3, "another root");
    expect(root.err).toMatch(/ERR_RELEASE_SIGNATURE/);
  });

  test("of a public key without a line feed at its end is of the same key", async () => {
    writeFileSync(at("changed"), made.text("release.pub").trimEnd());
    await ironclaw(made.lineWith("keys delegate", "release.pub", at("changed")));
    await ironclaw(made.lineWith("release sign", "delegation.json", at("other-delegation.json")));
  });

  test("ends: past its last epoch nothing is signed", async () => {
    const line = made.lineOf("release sign");
    const late = await cli(line.with(line.indexOf("--epoch") + 1, "9"));
    expectComplaint(late, 1, "epoch 9 of 8");
    expect(late.err).toMatch(/at most 8, which the root approved, got 9/);
  });
});

describe("`release show`", () => {
  const show = (name: string) => ["release", "show", at(name), "--anchors", at("anchors.json")];

  test("says in words what the release unseals, where, and how long", async () => {
    const out = await ironclaw(show("release.json"));
    for (const words of [
      /^release first: the signatures verify$/m,
      /valid now$/m,
      /^ {2}epoch {8}1: unseals while the machine's epoch counter is at most 31; it ends no earlier epoch$/m,
      /^ {2}unseals {6}hsm-pin, state$/m,
      /may sign up to epoch 8;$/m,
      /^ {2}[0-9a-f]{64} {2}library \/usr\/lib\/softhsm\/libsofthsm2\.so$/m,
      /^ {2}PCR 13 {2}[0-9a-f]{64} {2}the agent's launch/m,
    ])
      expect(out).toMatch(words);
  });

  test("shows one that has begun not yet, and says so", async () => {
    await ironclaw([...made.lineOf("release sign"), "--not-before", "2098-01-01T00:00:00Z", "--raise"]);
    const out = await ironclaw(show("other-release.json"));
    expect(out).toContain("2098-01-01T00:00:00Z to 2099-01-01T00:00:00Z: NOT YET VALID");
    expect(out).toMatch(/raises the counter to 16: releases of epoch 0 no longer unseal/);
  });

  test("I9: one changed character is no release", async () => {
    writeFileSync(
      at("changed"),
      made.text("release.json").replace(/"sig":"(.)/, (_, c) => `"sig":"${c === "A" ? "B" : "A"}`),
    );
    expectComplaint(await cli(show("changed")), 3, "changed signature");
  });
});

describe("`release diff`", () => {
  const diff = (from: string, to: string) => ["release", "diff", at(from), at(to), "--anchors", at("anchors.json")];

  test("says in words that there is no difference, and exits 0", async () => {
    expect(await ironclaw(diff("release.json", "release.json"))).toMatch(/: no difference; they unseal the same/);
  });

  test("says what another policy and a raised epoch mean, in text and in JSON", async () => {
    writeFileSync(at("policy2.json"), made.text("policy.json").replace('"serial": 7', '"serial": 8'));
    await ironclaw([...made.lineWith("release predict", "policy.json", at("policy2.json")), "--out", at("next.json")]);
    const sign = made.lineWith("release sign", "prediction.json", at("next.json"));
    await ironclaw([...sign.with(sign.indexOf("--epoch") + 1, "2"), "--raise"]);
    const out = await ironclaw(diff("release.json", "other-release.json"));
    expect(out).toMatch(/^policy: changed$/m);
    expect(out).toMatch(
      /^ {2}so {3}once the new release has served on a machine, the old one no longer unseals there/m,
    );
    const { changes } = JSON.parse(await ironclaw([...diff("release.json", "other-release.json"), "--json"]));
    const items = changes.map(({ item }: { item: string }) => item);
    for (const item of ["name", "policy", "epoch", "raise"]) expect(items).toContain(item);
    expect(items).not.toContain("image");
  });

  test("I9: compares nothing that does not verify", async () => {
    expectComplaint(await cli(diff("release.json", "hsm-pin.json")), 3, "a sealed package for a release");
  });
});

describe("the prediction of an image", () => {
  const predict = (...words: string[]) => cli(["image", "predict", ...words, "--json"]);

  test("I12: with a cabinet, or with what is in it, it has the agent PCR too, as the release has them all", async () => {
    const { pcrs } = made.json("prediction.json");
    const fromCabinet = JSON.parse(
      await ironclaw(["image", "predict", at("image"), "--cabinet", at("cabinet.img"), "--json"]),
    );
    expect(fromCabinet).toEqual(pcrs);
    expect(Object.keys(fromCabinet.sha384)).toEqual(["4", "9", "11", "12", "13"]);
    const documents = ["--anchors", at("anchors.json"), "--policy", at("policy.json")];
    expect(JSON.parse((await predict(at("image"), ...documents)).out)).toEqual(pcrs);
    const { 13: _, ...boot } = pcrs.sha256;
    expect(JSON.parse((await predict(at("image"))).out).sha256).toEqual(boot);
    expect(JSON.parse((await predict(at("image/uki.efi"))).out).sha256).toEqual(boot);
  });

  test("I12: of a signed image it has PCR 7, and PCR 4 as Secure Boot leaves it, by folder as by cabinet; of its kernel alone there is none", async () => {
    const keys = await openSecureBootKeys(at("keys"));
    const uki = await signUki(readFileSync(at("image/uki.efi")), keys);
    const pcr7 = predictSecureBoot(keys);
    cpSync(at("image"), at("signed"), { recursive: true });
    writeFileSync(at("signed/uki.efi"), uki);
    const { manifest } = made.json("image/manifest.json");
    const signed = { ...manifest, files: { "uki.efi": sha256Hex(uki) }, secureBoot: { pcr7 } };
    writeFileSync(at("signed/manifest.json"), JSON.stringify({ stamp: "", manifest: signed }));
    const alone = JSON.parse((await predict(at("signed"))).out);
    const withCabinet = JSON.parse((await predict(at("signed"), "--cabinet", at("cabinet.img"))).out);
    const unsigned = JSON.parse((await predict(at("image"))).out);
    for (const bank of ["sha256", "sha384"] as const) {
      const { 13: _, ...boot } = withCabinet[bank];
      expect(alone[bank]).toEqual(boot);
      expect(alone[bank]).toMatchObject({ ...unsigned[bank], 4: expect.any(String), 7: pcr7[bank] });
      expect(alone[bank][4]).not.toBe(unsigned[bank][4]);
    }
    expectComplaint(await predict(at("signed/uki.efi")), 2, "a signed kernel image");
  });

  test("needs the image and not its kernel alone for the agent PCR, both documents, and not both ways to name them", async () => {
    const cabinet = ["--cabinet", at("cabinet.img")];
    expectComplaint(await predict(at("image/uki.efi"), ...cabinet), 2, "a kernel image");
    expectComplaint(await predict(at("image"), "--policy", at("policy.json")), 2, "no anchors");
    expectComplaint(await predict(at("image"), ...cabinet, "--policy", at("policy.json")), 2, "both");
    expectComplaint(await predict(at("directory")), 4, "no image");
    expectComplaint(await predict(at("image"), "--cabinet", at("random")), 3, "no cabinet");
    expectComplaint(
      await predict(at("image"), "--anchors", at("policy.json"), "--policy", at("policy.json")),
      3,
      "no anchors",
    );
  });
});
