import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readCabinet } from "../../agent/cli/cabinet-slots.ts";
import { encodeAppraisalPolicy } from "../../attest/index.ts";
import { sha256Hex } from "../../policy/index.ts";
import { buildImage, type Image, softhsmFiles } from "../../vm-images/build.ts";
import type { ImageFile } from "../../vm-images/files.ts";
import { GuestTree, requireGuestFile } from "../../vm-images/guest-tree.ts";
import { vmPciDevices } from "../../vm-images/qemu-args.ts";
import { demoPolicy, SCOPED_UID } from "../../vm-images/story/demo-policy.ts";
import { type RunningMachine, requireServing, startMachine } from "../../vm-images/story/running.ts";
import { PLACES } from "../../vm-images/story/story.ts";
import { DEMO_APPRAISAL } from "../../vm-images/story/verifier.ts";
import { makeTpmState } from "../../vm-images/swtpm.ts";
import { makeDemoToken, randomPin } from "../../vm-images/token/token.ts";
import { cli } from "../support/cli.ts";

const directory = mkdtempSync(join(tmpdir(), "cli-vm-"));
const at = (name: string) => join(directory, name);
const put = (name: string, bytes: Uint8Array) => {
  mkdirSync(dirname(at(name)), { recursive: true });
  writeFileSync(at(name), bytes);
};

/** Runs a command that has to succeed. */
async function ironclaw(words: string, options: Readonly<Record<string, string>>, input?: Uint8Array): Promise<string> {
  const given = Object.entries(options).flatMap(([name, value]) => [`--${name}`, value]);
  const { code, out, err } = await cli([...words.split(" "), ...given], input);
  expect({ words, code, err }).toEqual({ words, code: 0, err: "" });
  return out;
}

describe("a machine provisioned by the command alone", () => {
  let running: RunningMachine;
  let ek: Readonly<Record<string, string>>;
  const documents = { anchors: at("anchors.json"), policy: at("policy.json") };

  beforeAll(async () => {
    const image = await buildImage({
      variant: "demo",
      outDirectory: PLACES.image("demo"),
      cacheDirectory: PLACES.cache,
    });
    const module = await softhsmFiles(PLACES.cache);
    const pin = randomPin();
    const token = await makeDemoToken(at("token-maker"), "signing", pin.slice());
    for (const { path, bytes } of module) put(`module${path}`, bytes);
    for (const { path, bytes } of token.files) put(`token${path}`, bytes);
    const tpm = await makeTpmState({ directory: at("tpm"), caDirectory: at("ca") });
    put("ek.der", tpm.ekCertificates.p384);
    ek = { "ek-certificate": at("ek.der"), issuer: tpm.caIssuer, ca: tpm.caRoot };

    for (const name of ["root", "release", "operator"]) await ironclaw(`keys new ${at(name)}.pem`, {});
    await ironclaw("keys anchors", { root: at("root.pub"), operator: at("operator.pub"), out: documents.anchors });
    put("policy.json", demoPolicy({ ...(await measured(image, module)), devices: vmPciDevices, token }));
    await ironclaw("release predict", { image: image.directory, ...documents, out: at("prediction.json") });
    await ironclaw("keys delegate", {
      ...{ root: at("root.pem"), "release-key": at("release.pub"), "last-epoch": "4", out: at("delegation.json") },
    });
    await ironclaw(`release sign ${at("prediction.json")}`, {
      ...{ name: "by-hand", "not-after": "2099-01-01T00:00:00Z", epoch: "1", key: at("release.pem") },
      ...{ delegation: at("delegation.json"), anchors: documents.anchors, out: at("release.json") },
    });
    const keys = { root: at("root.pub"), operator: at("operator.pem") };
    await ironclaw("seal", { ...ek, ...keys, "token-serial": token.serial, out: at("hsm-pin.json") }, pin);
    await ironclaw("seal", { ...ek, ...keys, kind: "volume-key", out: at("state.json") });
    await ironclaw(`cabinet new ${at("cabinet.img")} --sealed ${at("hsm-pin.json")}`, {
      ...{ name: "by-hand", module: at("module"), token: at("token") },
      ...{ ...documents, release: at("release.json"), sealed: at("state.json") },
    });
    const contents = readCabinet(at("cabinet.img"));
    running = await startMachine({ image, contents, tpmDirectory: tpm.directory, directory: at("vm") });
  });
  afterAll(async () => {
    await running?.stop();
    rmSync(directory, { recursive: true, force: true });
  });

  async function measured(image: Image, module: readonly ImageFile[]) {
    const tree = new GuestTree(image.tree, module);
    const digest = (path: string) => sha256Hex(requireGuestFile(tree, path));
    const library = module.find(({ path }) => path.endsWith(".so"))?.path ?? "";
    const pin = await ironclaw(`measure ${library} --json`, { image: image.directory, module: at("module") });
    return {
      module: { ...JSON.parse(pin), environment: { SOFTHSM2_CONF: "/etc/softhsm2.conf" } },
      profileSha256: digest("/usr/lib/ironclaw/local.profile"),
      executables: [digest("/usr/bin/node")],
    };
  }

  it("I2, I9: unseals at its first boot, and its report verifies against the release signed before", async () => {
    requireServing(await running.launched());
    running.control.close(); // a port takes one connection at a time
    const machine = at("vm");
    await ironclaw("enrol by-hand", { ...ek, machine, out: at("enrolment.json") });
    put("appraisal.json", encodeAppraisalPolicy(DEMO_APPRAISAL.document));
    for (const bank of ["sha256", "sha384"]) {
      const nonce = Buffer.from(crypto.getRandomValues(new Uint8Array(32))).toString("hex");
      await ironclaw("report", { machine, nonce, bank, out: at("report.cbor") });
      const verdict = await ironclaw(`verify ${at("report.cbor")} --json`, {
        ...{ nonce, bank, reference: at("release.json"), anchors: documents.anchors },
        ...{ enrolment: at("enrolment.json"), policy: at("appraisal.json") },
      });
      expect(JSON.parse(verdict)).toMatchObject({ tier: "affirming", machine: "by-hand", findings: [] });
    }
  });

  it("I6, I8: answers its operator: what it counts, what is frozen, what waits for approval, and each record of what it signed", async () => {
    const machine = at("vm");
    const signer = await running.workload(SCOPED_UID);
    const use = { scope: "release-signing", mechanism: "CKM_ECDSA", digest: "5a".repeat(32) };
    expect(await signer.request("native-sign", use)).toMatchObject({ keys: ["release-ec"] });
    signer.close();
    const samples = (await ironclaw("metrics", { machine })).split("\n");
    expect(samples).toContain("ironclaw_serving 1");
    expect(JSON.parse(await ironclaw("freeze --status --json", { machine }))).toEqual({
      ...{ all: false, scopes: [], bits: "0".repeat(16) },
      freezeBits: { "release-signing": null, "document-signing": null },
    });
    expect(JSON.parse(await ironclaw("approve list --json", { machine }))).toEqual({ requests: [] });
    const lines = (await ironclaw(`audit show ${machine} --json`, {})).trimEnd().split("\n");
    const records = lines.map((line) => JSON.parse(line));
    expect(records.map(({ seq }) => seq)).toEqual(records.map((_, index) => index + 1));
    const signed = { operation: "sign", key: "release-ec", decision: "allow" };
    expect(records).toContainEqual(expect.objectContaining(signed));
  });
});
