import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { parseConfig } from "../../agent/config.ts";
import { expectedLaunchEvents } from "../../agent/launch/expected-events.ts";
import { type PredictedImage, predictRelease, type ReleasePrediction } from "../../agent/launch/prediction.ts";
import type { BootPhase } from "../../attest/index.ts";
import {
  type Delegation,
  encodeAnchors,
  encodeBundle,
  firstModule,
  type PolicyDocument,
  parsePolicy,
  type Release,
  sha256,
  sha256Hex,
  utf8,
} from "../../policy/index.ts";
import {
  type CredentialLabel,
  createSigningKeyFile,
  loadSigningKey,
  sealOffline,
  signDelegation,
  signRelease,
  VOLUME_KEY_BYTES,
} from "../../seal/index.ts";
import { softhsmFiles } from "../build.ts";
import type { ImageFile } from "../files.ts";
import { GuestTree, requireGuestFile as requireFile } from "../guest-tree.ts";
import { makeDirectory } from "../make-directory.ts";
import { PROGRAMS, pinModule } from "../pin-module.ts";
import { vmPciDevices } from "../qemu-args.ts";
import { type DemoToken, makeDemoToken, randomPin, TOKEN_DIRECTORY } from "../token/token.ts";
import { exists } from "../unpack.ts";
import { demoPolicy } from "./demo-policy.ts";
import type { CabinetContents } from "./tamper.ts";

const VALIDITY_DAYS = 365;

/** The programs that may call in the demo: the workload's Node, and two stock PKCS#11 clients. */
const CALLERS = ["/usr/bin/node", "/usr/bin/pkcs11-tool", "/usr/bin/openssl"];

export interface MachineOrder {
  readonly name: string;
  /** Emptied by the caller; holds the token, the TPM's state and this machine's documents. */
  readonly directory: string;
  readonly keyDirectory: string;
  readonly cacheDirectory: string;
  readonly image: MachineSystem;
  /** DER, of the endorsement key to seal to; its chain is verified by the caller. */
  readonly ekCertificate: Uint8Array;
  /** Where it is not the demo's machine. */
  readonly differs?: MachineDifference;
}

/** What the machine boots: an image, or a system that the package was installed on. */
export interface MachineSystem {
  readonly tree: string;
  /** Path of the kernel image. */
  readonly uki: string;
  readonly manifest: Release["image"] & Partial<Pick<PredictedImage, "secureBoot">>;
  /** Phases of the boot that are measured before the launch; our images have none. */
  readonly phases?: readonly BootPhase[];
}

export interface MachineDifference {
  /** Instead of SoftHSM alone: the library, and all that the cabinet's module bundle brings. */
  readonly module?: { readonly library: string; readonly files: readonly ImageFile[] };
  /** Where the token's files are in the shim. */
  readonly tokenDirectory?: string;
  /** The programs that may call, by path. */
  readonly callers?: readonly string[];
  /** @param tree the image's root with the module's files */
  readonly policy?: (demo: PolicyDocument, tree: GuestTree) => PolicyDocument;
}

/** A machine before its first boot: everything an operator makes offline, from the image and an EK certificate. */
export interface Machine {
  readonly name: string;
  readonly contents: CabinetContents;
  readonly release: Uint8Array;
  readonly anchors: Uint8Array;
  readonly prediction: ReleasePrediction;
  readonly token: DemoToken;
  readonly library: string;
  /** Kept by the operator, who made it: to look for copies of it where there must be none. */
  readonly pin: Uint8Array;
}

export async function provisionMachine(order: MachineOrder): Promise<Machine> {
  const { directory, image, name } = order;
  await makeDirectory(directory, 0o700);
  const keys = await openKeys(order.keyDirectory);
  const pin = randomPin();
  const made = await makeDemoToken(join(directory, "token"), "signing", pin.slice());
  const token = { ...made, files: moved(made.files, order.differs?.tokenDirectory ?? TOKEN_DIRECTORY) };
  const { library, files: moduleFiles } = order.differs?.module ?? (await softhsm(order.cacheDirectory));
  const tree = new GuestTree(image.tree, moduleFiles);

  const policyBytes = demoPolicy({
    module: pinModule(tree, { library, files: moduleFiles, environment: { SOFTHSM2_CONF: "/etc/softhsm2.conf" } }),
    profileSha256: sha256Hex(requireFile(tree, `${PROGRAMS}/local.profile`)),
    devices: vmPciDevices,
    token,
    executables: (order.differs?.callers ?? CALLERS).flatMap((path) => {
      const program = tree.readFile(path); // a release has no stock clients
      return program === null ? [] : [sha256Hex(program)];
    }),
    change: (demo) => order.differs?.policy?.(demo, tree) ?? demo,
  });
  const policy = parsePolicy(policyBytes);
  const anchors = encodeAnchors({ version: 1, releaseRoot: keys.root.spkiPem, operator: keys.operator.spkiPem });
  const configBytes = requireFile(tree, "/etc/ironclaw/agent.json");
  const documents = { config: parseConfig(configBytes), configBytes, anchorsBytes: anchors, policy, policyBytes };
  const events = expectedLaunchEvents(documents, sha256(requireFile(tree, `${PROGRAMS}/shim`)));
  const uki = new Uint8Array(await readFile(image.uki));
  const kernel = { uki, secureBoot: image.manifest.secureBoot ?? null, phases: image.phases ?? [] };
  const prediction = predictRelease(kernel, events);

  const release = await signRelease(
    {
      ...prediction,
      ...validity(),
      name: `${image.manifest.variant}-1`,
      image: { id: image.manifest.id, variant: image.manifest.variant },
      epoch: 1,
      raise: false,
    },
    { releaseKey: keys.release, rootKeyPem: keys.root.spkiPem, delegation: await delegate(keys) },
  );
  const seal = (secret: Uint8Array, label: Pick<CredentialLabel, "name" | "kind" | "tokenSerial">) =>
    sealOffline({
      ekCertificate: order.ekCertificate,
      secret,
      rootKeyPem: keys.root.spkiPem,
      label: { ...label, generation: 1, notAfter: null },
      operator: keys.operator,
    });
  const sealedPin = await seal(pin.slice(), { name: "hsm-pin", kind: "pin", tokenSerial: token.serial });
  const stateKey = randomBytes(VOLUME_KEY_BYTES);
  const sealedState = await seal(stateKey, { name: "state", kind: "volume-key", tokenSerial: null });
  const contents: CabinetContents = new Map([
    ["module", encodeBundle(pairs(moduleFiles))],
    ["policy", policyBytes],
    ["anchors", anchors],
    ["release", encodeBundle([["/release.json", release]])],
    [
      "sealed",
      encodeBundle([
        ["/hsm-pin.json", sealedPin],
        ["/state.json", sealedState],
      ]),
    ],
    ["machine", utf8(`${JSON.stringify({ name })}\n`)],
    ["token", encodeBundle(pairs(token.files))],
  ]);
  return { name, contents, release, anchors, prediction, token, pin, library: firstModule(policy).path };
}

async function softhsm(cacheDirectory: string): Promise<NonNullable<MachineDifference["module"]>> {
  const files = await softhsmFiles(cacheDirectory);
  return { library: files.find(({ path }) => path.endsWith(".so"))?.path ?? "", files };
}

function moved(files: readonly ImageFile[], directory: string): readonly ImageFile[] {
  return files.map(({ path, bytes }) => ({ path: directory + path.slice(TOKEN_DIRECTORY.length), bytes }));
}

/** The release root, release and operator keys of this checkout, made once; they never enter a guest. */
async function openKeys(directory: string) {
  await makeDirectory(directory, 0o700);
  const open = async (name: string) => {
    const path = join(directory, `${name}.pem`);
    return (await exists(path)) ? loadSigningKey(path) : createSigningKeyFile(path);
  };
  return { root: await open("root"), release: await open("release"), operator: await open("operator") };
}

/** The root approves the release key once; afterwards it could be locked away. */
function delegate({ root, release }: Awaited<ReturnType<typeof openKeys>>): Promise<Delegation> {
  return signDelegation(root, { releaseKeyPem: release.spkiPem, credentials: ["hsm-pin", "state"], lastEpoch: 100 });
}

function validity(): { notBefore: string; notAfter: string } {
  const now = Date.now();
  const at = (days: number) => new Date(now + days * 86_400_000).toISOString();
  // The guest's clock comes from the host's; a day's slack keeps a skewed one from refusing a fresh release.
  return { notBefore: at(-1), notAfter: at(VALIDITY_DAYS) };
}

function pairs(files: readonly ImageFile[]): [string, Uint8Array][] {
  return files.map(({ path, bytes }) => [path, bytes]);
}
