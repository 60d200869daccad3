import { readFileSync, realpathSync } from "node:fs";
import { cp, mkdir, readFile, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { encodeEndorsementAnchors, measureClosure, type TrustAnchor } from "../../attest/index.ts";
import { openCabinet, sha256Hex } from "../../policy/index.ts";
import { GuestTree } from "../../vm-images/guest-tree.ts";
import { pinModule } from "../../vm-images/pin-module.ts";
import { peImage, stubMagic } from "./pe-image.ts";
import { policyDocument } from "./policy-document.ts";
import { readEkCertificate } from "./seal-fixture.ts";
import { SOFTHSM_LIBRARY } from "./softhsm.ts";
import { type StandInOrder, startStandIn } from "./stand-in-machine.ts";
import type { SoftwareTpm } from "./swtpm.ts";

const project = resolve(import.meta.dirname, "../..");

export const LAYOUT_PIN = "Walk-Through-4711";
/** A secret file with line ends, which are part of it. */
export const LAYOUT_FILE = "-----BEGIN KEY-----\nwalk-through-secret-file\n-----END KEY-----\n";

export type LayOut = Pick<StandInOrder, "uki" | "config" | "shim" | "image">;

/** The EK certificate of a software TPM and its CA, as files. */
export async function layOutEndorsement(directory: string, tpm: SoftwareTpm): Promise<void> {
  const [root = "", issuer = ""] = tpm.caFiles;
  await writeFile(join(directory, "ek.der"), await readEkCertificate(tpm, "p384"));
  await cp(root, join(directory, "ek-ca.pem"));
  await cp(issuer, join(directory, "ek-issuer.pem"));
  const anchor: TrustAnchor = {
    ...{ name: "software TPM", pem: await readFile(root, "utf8"), assurance: "software-tpm", requireEkPurpose: true },
    manufacturers: ["id:00001014"],
  };
  await writeFile(join(directory, "ek-anchors.json"), encodeEndorsementAnchors([anchor]));
}

/** The stand-in for a machine, in `machine/`, with the cabinet that the commands made. */
export function openStandIn(directory: string, tpm: SoftwareTpm, image: LayOut): Promise<AsyncDisposable> {
  const bytes = readBytesSync(join(directory, "cabinet.img"));
  const cabinet = openCabinet((offset, length) => bytes.subarray(offset, offset + length));
  return startStandIn({ tpm, directory: join(directory, "machine"), cabinet, ...image });
}

/** What somebody has before the first command: image, module and policy. */
export async function layOut(directory: string): Promise<LayOut> {
  const at = (name: string) => join(directory, name);
  const put = async (name: string, bytes: Uint8Array | string) => {
    await mkdir(dirname(at(name)), { recursive: true });
    await writeFile(at(name), bytes);
  };
  const uki = peImage([
    [".text", Buffer.from("stub")],
    stubMagic(),
    [".osrel", Buffer.from("ID=ironclaw\n")],
    [".cmdline", Buffer.from("console=ttyS0 ironclaw.variant=demo")],
    [".linux", peImage([[".text", Buffer.from("kernel")]])],
    [".initrd", Buffer.from("initrd")],
  ]);
  const config = readBytesSync(join(project, "vm-images/guest/etc/ironclaw/agent.json"));
  const shim = readBytesSync(join(project, "build/native/shim"));
  const image = { id: sha256Hex(uki), variant: "demo" } as const;
  await put("image/uki.efi", uki);
  await put("image/tree/etc/ironclaw/agent.json", config);
  await put("image/tree/usr/lib/ironclaw/shim", shim);
  await put(
    "image/manifest.json",
    JSON.stringify({ stamp: "", manifest: { ...image, files: { "uki.efi": image.id } } }),
  );
  for (const path of closureHere(shim)) await put(join("image/tree", path), readBytesSync(path));

  await put(`module${SOFTHSM_LIBRARY}`, readBytesSync(SOFTHSM_LIBRARY));
  await put("module/etc/softhsm2.conf", "directories.tokendir = /var/lib/softhsm/tokens\n");
  const files = [SOFTHSM_LIBRARY, "/etc/softhsm2.conf"].map((path) => ({
    path,
    bytes: readBytesSync(at(`module${path}`)),
  }));
  const environment = { SOFTHSM2_CONF: "/etc/softhsm2.conf" };
  const module = pinModule(new GuestTree(at("image/tree"), files), { library: SOFTHSM_LIBRARY, files, environment });
  await put("policy.json", JSON.stringify({ ...policyDocument(), module }, null, 2));
  return { uki, config, shim, image };
}

/** Every other file that the loader opens for SoftHSM in the shim, on this machine. */
function closureHere(shim: Uint8Array): readonly string[] {
  const pin = measureClosure({
    entry: SOFTHSM_LIBRARY,
    executable: "/shim",
    readFile: (path) => (path === "/shim" ? shim : readOrNull(path)),
    realPath: (path) => (path === "/shim" ? path : realpathSync(path)),
  });
  return Object.keys(pin.closure).filter((path) => path !== "/shim");
}

function readBytesSync(path: string): Uint8Array {
  return new Uint8Array(readFileSync(path));
}

function readOrNull(path: string): Uint8Array | null {
  try {
    return readBytesSync(path);
  } catch {
    return null;
  }
}
