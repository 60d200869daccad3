import { execFile } from "node:child_process";
import { readFileSync, realpathSync } from "node:fs";
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { promisify } from "node:util";
import { measureClosure } from "../../attest/index.ts";
import { openCabinet, sha256Hex } from "../../policy/index.ts";
import { GuestTree } from "../../vm-images/guest-tree.ts";
import { pinModule } from "../../vm-images/pin-module.ts";
import { peImage } from "./pe-image.ts";
import { policyDocument } from "./policy-document.ts";
import { readEkCertificate } from "./seal-fixture.ts";
import { SOFTHSM_LIBRARY } from "./softhsm.ts";
import { startStandIn } from "./stand-in-machine.ts";
import { startSwtpm } from "./swtpm.ts";

const run = promisify(execFile);
const project = resolve(import.meta.dirname, "../..");
const README = join(project, "agent/cli/README.md");
export const WALK_THROUGH_PIN = "Walk-Through-4711";
/** A secret file with line ends, which are part of it. */
export const WALK_THROUGH_FILE = "-----BEGIN KEY-----\nwalk-through-secret-file\n-----END KEY-----\n";

export interface WalkThrough extends AsyncDisposable {
  /** Where it ran: every file that the README names is there. */
  readonly directory: string;
  /** Standard output of each block, in order. */
  readonly outputs: readonly string[];
  /** Standard output of the block that verifies the machine's report. */
  readonly verdict: string;
  /** All that was written to standard output and standard error. */
  readonly everything: string;
}

/** Runs the walk-through of agent/cli/README.md as it stands there; the machine it talks to is a stand-in on a real swtpm. */
export async function runWalkThrough(): Promise<WalkThrough> {
  const directory = await mkdtemp(join(tmpdir(), "cli-"));
  const tpm = await startSwtpm();
  const started: AsyncDisposable[] = [tpm];
  const dispose = async () => {
    for (const each of started.reverse()) await each[Symbol.asyncDispose]();
    await rm(directory, { recursive: true, force: true });
  };
  try {
    const image = await layOut(directory);
    await writeFile(join(directory, "ek.der"), await readEkCertificate(tpm, "p384"));
    const [root = "", issuer = ""] = tpm.caFiles;
    await cp(root, join(directory, "ek-ca.pem"));
    await cp(issuer, join(directory, "ek-issuer.pem"));
    const outputs: string[] = [];
    let everything = "";
    const runBlocks = async (heading: string) => {
      for (const block of await blocksUnder(heading)) {
        const { stdout, stderr } = await runBlock(directory, block);
        outputs.push(stdout);
        everything += `${stdout}${stderr}`;
      }
    };
    await runBlocks("### Before the first boot");
    const bytes = readBytesSync(join(directory, "cabinet.img"));
    const cabinet = openCabinet((offset, length) => bytes.subarray(offset, offset + length));
    started.push(await startStandIn({ tpm, directory: join(directory, "machine"), cabinet, ...image }));
    await runBlocks("### With the machine running");
    const verdict = outputs.at(-1) ?? "";
    await runBlocks("### Later: the next release");
    return { directory, outputs, verdict, everything, [Symbol.asyncDispose]: dispose };
  } catch (error) {
    await dispose();
    throw error;
  }
}

/** The shell blocks between a heading and the next. */
async function blocksUnder(heading: string): Promise<readonly string[]> {
  const text = await readFile(README, "utf8");
  const start = text.indexOf(`\n${heading}\n`);
  if (start < 0) throw new Error(`README: no heading ${heading}`);
  const section = text.slice(start + 1).split(/\n#+ /)[0] ?? "";
  const blocks = [...section.matchAll(/```sh\n([\s\S]*?)```/g)].map(([, block = ""]) => block);
  if (blocks.length === 0) throw new Error(`README: no blocks under ${heading}`);
  return blocks;
}

function runBlock(directory: string, block: string): Promise<{ stdout: string; stderr: string }> {
  const PATH = `${join(directory, "bin")}:${process.env["PATH"] ?? ""}`;
  return run("sh", ["-eu", "-c", block], { cwd: directory, env: { ...process.env, PATH } });
}

/** What somebody has before the first block: image, module, policy, PIN, and `ironclaw` on the path. */
async function layOut(directory: string) {
  const at = (name: string) => join(directory, name);
  const put = async (name: string, bytes: Uint8Array | string, mode = 0o644) => {
    await mkdir(dirname(at(name)), { recursive: true });
    await writeFile(at(name), bytes, { mode });
  };
  await put("bin/ironclaw", `#!/bin/sh\nexec ${process.execPath} ${project}/agent/cli/ironclaw.ts "$@"\n`, 0o755);
  await put("pin", `${WALK_THROUGH_PIN}\n`, 0o600);
  await put("client.key", WALK_THROUGH_FILE, 0o600);

  const uki = peImage([
    [".text", Buffer.from("stub")],
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
