import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { expect } from "vitest";
import { readCabinet } from "../../agent/cli/cabinet-slots.ts";
import { sha256Hex } from "../../policy/index.ts";
import { buildImage, type Image, softhsmFiles } from "../../vm-images/build.ts";
import type { ImageFile } from "../../vm-images/files.ts";
import { GuestTree, requireGuestFile } from "../../vm-images/guest-tree.ts";
import { vmPciDevices } from "../../vm-images/qemu-args.ts";
import { demoPolicy } from "../../vm-images/story/demo-policy.ts";
import { type RunningMachine, startMachine } from "../../vm-images/story/running.ts";
import { PLACES } from "../../vm-images/story/story.ts";
import { layOutVerifier, type VerifierFolder } from "../../vm-images/story/verifier-folder.ts";
import { makeTpmState } from "../../vm-images/swtpm.ts";
import { makeDemoToken, randomPin } from "../../vm-images/token/token.ts";
import { cli } from "./cli.ts";
import { putProgram } from "./walk-through.ts";

export const VMS = ["vm-1", "vm-2", "vm-3"] as const;
export type VmName = (typeof VMS)[number];
export type ImageName = "image-1" | "image-2";

/** MiB. The smallest that the documents promise. */
const SMALL = 256;

/** The operator's folder of a fleet of three virtual machines with one HSM and one policy, released as `one` and never booted. */
export interface DrillFleet extends AsyncDisposable {
  readonly directory: string;
  readonly verifier: VerifierFolder;
  /** The HSM's serial number. */
  readonly serial: string;
  readonly pin: string;
  at(name: string): string;
  /** Switches it off, if it runs, and starts it; resolves long before it serves. vm-3 has 256 MiB. */
  start(vm: VmName, image: ImageName): Promise<void>;
  stop(vm: VmName): Promise<void>;
  /** Another TPM; its certificate is in `VM-ek.der`. */
  giveTpm(vm: VmName): Promise<void>;
  /** Everything that the host keeps of it: TPM, disks and cabinet. The machine is off. */
  copy(vm: VmName, to: string): void;
  putBack(vm: VmName, from: string): void;
}

export async function openDrillFleet(): Promise<DrillFleet> {
  const directory = mkdtempSync(join(tmpdir(), "drill-vm-"));
  const at = (name: string) => join(directory, name);
  const running = new Map<VmName, RunningMachine>();
  const stop = async (vm: VmName) => {
    await running.get(vm)?.stop();
    running.delete(vm);
  };
  const images = await layOutImages(at);
  await putProgram(directory);
  const giveTpm = async (vm: VmName) => {
    rmSync(at(`${vm}/tpm`), { recursive: true, force: true });
    const tpm = await makeTpmState({ directory: at(`${vm}/tpm`), caDirectory: PLACES.ca });
    writeFileSync(at(`${vm}-ek.der`), tpm.ekCertificates.p384);
    return tpm;
  };
  let authority = { caRoot: "", caIssuer: "" };
  for (const vm of VMS) {
    mkdirSync(at(`${vm}/disks`), { recursive: true });
    authority = await giveTpm(vm);
  }
  cpSync(authority.caRoot, at("ek-ca.pem"));
  cpSync(authority.caIssuer, at("ek-issuer.pem"));
  const { serial, pin } = await makeDocuments(at, images["image-1"]);
  const verifier = await layOutVerifier(at("verifier"), authority, {
    anchors: new Uint8Array(readFileSync(at("anchors.json"))),
    release: new Uint8Array(readFileSync(at("one.json"))),
  });
  cpSync(at("verifier-endorsement.json"), at("ek-anchors.json"));
  const kept = ["tpm", "disks", "cabinet.img"];
  return {
    ...{ directory, verifier, serial, pin, at, stop },
    giveTpm: async (vm) => void (await giveTpm(vm)),
    start: async (vm, image) => {
      await stop(vm);
      const machine = await startMachine({
        ...{ image: images[image], contents: readCabinet(at(`${vm}/cabinet.img`)), directory: at(vm) },
        ...{ tpmDirectory: at(`${vm}/tpm`), ...(vm === "vm-3" ? { memoryMiB: SMALL } : {}) },
        disks: { state: at(`${vm}/disks/state.img`), store: at(`${vm}/disks/store.img`) },
      });
      running.set(vm, machine);
      machine.control.close(); // a port takes one connection at a time: leave it to the commands
    },
    copy: (vm, to) => {
      for (const part of kept) cpSync(at(`${vm}/${part}`), join(to, part), { recursive: true });
    },
    putBack: (vm, from) => {
      for (const part of kept) rmSync(at(`${vm}/${part}`), { recursive: true });
      for (const part of kept) cpSync(join(from, part), at(`${vm}/${part}`), { recursive: true });
    },
    [Symbol.asyncDispose]: async () => {
      for (const vm of VMS) await stop(vm);
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

/** The demo image, and one whose kernel is told to say less: as another build would be, its boot measures otherwise. */
async function layOutImages(at: (name: string) => string): Promise<Readonly<Record<ImageName, Image>>> {
  const built = await buildImage({
    variant: "demo",
    outDirectory: PLACES.image("demo"),
    cacheDirectory: PLACES.cache,
  });
  symlinkSync(built.directory, at("image-1"));
  mkdirSync(at("image-2"));
  symlinkSync(built.tree, at("image-2/tree"));
  const [uki, esp] = [at("image-2/uki.efi"), at("image-2/esp.img")];
  writeFileSync(uki, quieter(readFileSync(built.uki)));
  writeFileSync(esp, quieter(readFileSync(built.esp)));
  const id = sha256Hex(new Uint8Array(readFileSync(uki)));
  const manifest = { ...built.manifest, id, files: { ...built.manifest.files, "uki.efi": id } };
  writeFileSync(at("image-2/manifest.json"), JSON.stringify({ stamp: "", manifest }));
  return { "image-1": built, "image-2": { ...built, directory: at("image-2"), uki, esp, manifest } };
}

/** On the kernel's command line, which is of the same length then. */
function quieter(bytes: Buffer): Buffer {
  const found = bytes.indexOf("loglevel=4 ", 0, "latin1");
  if (found < 0) throw new Error("image: no loglevel=4 on its command line");
  bytes.write("loglevel=3 ", found, "latin1");
  return bytes;
}

async function makeDocuments(at: (name: string) => string, image: Image): Promise<{ serial: string; pin: string }> {
  const put = (name: string, bytes: Uint8Array) => {
    mkdirSync(dirname(at(name)), { recursive: true });
    writeFileSync(at(name), bytes);
  };
  const module = await softhsmFiles(PLACES.cache);
  const pin = Buffer.from(randomPin()).toString("latin1");
  const token = await makeDemoToken(at("token-maker"), "signing", Buffer.from(pin, "latin1"));
  for (const { path, bytes } of module) put(`module${path}`, bytes);
  for (const { path, bytes } of token.files) put(`token${path}`, bytes);
  writeFileSync(at("pin"), pin, { mode: 0o600 });
  const run = async (words: string, files: Readonly<Record<string, string>>, input = "") => {
    const options = Object.entries(files).flatMap(([name, file]) => [`--${name}`, at(file)]);
    const { code, out, err } = await cli([...words.split(" "), ...options], input);
    expect({ words, code, err }).toEqual({ words, code: 0, err: "" });
    return out;
  };
  for (const name of ["root", "release", "operator"]) await run(`keys new ${at(name)}.pem`, {});
  await run("keys anchors", { root: "root.pub", operator: "operator.pub", out: "anchors.json" });
  put("policy.json", demoPolicy({ ...(await measured(image, module, run)), devices: vmPciDevices, token }));
  const documents = { anchors: "anchors.json", policy: "policy.json" };
  await run("release predict", { image: "image-1", ...documents, out: "one-prediction.json" });
  const delegation = { root: "root.pem", "release-key": "release.pub", out: "delegation.json" };
  await run("keys delegate --last-epoch 9 --credential hsm-pin --credential state", delegation);
  const signing = { key: "release.pem", delegation: "delegation.json", anchors: "anchors.json", out: "one.json" };
  const validity = "--name one --epoch 1 --not-after 2099-01-01T00:00:00Z";
  await run(`release sign ${at("one-prediction.json")} ${validity}`, signing);
  for (const vm of VMS) {
    const sealing = { "ek-certificate": `${vm}-ek.der`, issuer: "ek-issuer.pem", ca: "ek-ca.pem", root: "root.pub" };
    const [sealedPin, sealedKey] = [`${vm}-hsm-pin.json`, `${vm}-state.json`];
    await run(`seal --token-serial ${token.serial}`, { ...sealing, operator: "operator.pem", out: sealedPin }, pin);
    await run("seal --kind volume-key", { ...sealing, operator: "operator.pem", out: sealedKey });
    const given = { module: "module", token: "token", ...documents, release: "one.json", sealed: sealedPin };
    await run(`cabinet new ${at(`${vm}/cabinet.img`)} --name ${vm} --sealed ${at(sealedKey)}`, given);
  }
  return { serial: token.serial, pin };
}

async function measured(
  image: Image,
  module: readonly ImageFile[],
  run: (words: string, files: Readonly<Record<string, string>>) => Promise<string>,
) {
  const tree = new GuestTree(image.tree, module);
  const digest = (path: string) => sha256Hex(requireGuestFile(tree, path));
  const library = module.find(({ path }) => path.endsWith(".so"))?.path ?? "";
  const pin = await run(`measure ${library} --json`, { image: "image-1", module: "module" });
  return {
    module: { ...JSON.parse(pin), environment: { SOFTHSM2_CONF: "/etc/softhsm2.conf" } },
    profileSha256: digest("/usr/lib/ironclaw/local.profile"),
    executables: [digest("/usr/bin/node")],
  };
}
