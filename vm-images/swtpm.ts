import { type ChildProcess, spawn } from "node:child_process";
import { chmod, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { ImageError } from "./errors.ts";
import { isListening } from "./listening.ts";
import { makeDirectory } from "./make-directory.ts";
import { runTool } from "./tool.ts";

/** A manufactured software TPM: banks SHA-256 and SHA-384, two endorsement keys, a certificate for each. */
export interface TpmState {
  /** Holds the TPM's state. One running TPM at a time; copy it for another. */
  readonly directory: string;
  /** PEM file of the root of the CA that certified the endorsement keys. */
  readonly caRoot: string;
  /** PEM file of the issuer below that root. */
  readonly caIssuer: string;
  /** DER. The same bytes are in the TPM's NV indices 0x01c00002 and 0x01c00016. */
  readonly ekCertificates: { readonly rsa2048: Uint8Array; readonly p384: Uint8Array };
}

/**
 * Manufacture a software TPM in `directory`, certified by a CA of this project's own in `caDirectory` (made on first use, mode
 * 0700, and used for every later TPM with the same directory). Replaces a TPM that is already there.
 *
 * The certificates say that this CA saw the keys in a process on this host: nothing about hardware.
 * Throws {@link ImageError} ERR_IMAGE_TOOL when swtpm_setup is missing or fails, ERR_VM_TPM for an empty or cut certificate.
 */
export async function makeTpmState(places: {
  readonly directory: string;
  readonly caDirectory: string;
}): Promise<TpmState> {
  const { directory, caDirectory } = places;
  await makeDirectory(caDirectory);
  await chmod(caDirectory, 0o700); // the CA's signing keys lie in it
  await makeDirectory(directory, 0o700);
  const config = await writeConfiguration(caDirectory);
  const certificates = join(directory, "ek-certificates");
  await makeDirectory(certificates);
  await runTool("swtpm_setup", [
    ...["--tpm2", "--tpmstate", `dir://${directory}`, "--config", config, "--create-ek-cert", "--lock-nvram"],
    ...["--pcr-banks", "sha256,sha384", "--write-ek-cert-files", certificates, "--overwrite"],
    ...["--logfile", join(directory, "setup.log")],
  ]);
  return {
    directory,
    caRoot: join(caDirectory, "swtpm-localca-rootca-cert.pem"),
    caIssuer: join(caDirectory, "issuercert.pem"),
    ekCertificates: {
      rsa2048: await readCertificate(join(certificates, "ek-rsa2048.crt")),
      p384: await readCertificate(join(certificates, "ek-secp384r1.crt")),
    },
  };
}

/** Configuration files of our own, so that neither /etc nor another project's CA has a say. Returns the main one's path. */
async function writeConfiguration(caDirectory: string): Promise<string> {
  const at = (name: string): string => join(caDirectory, name);
  await writeFile(
    at("localca.conf"),
    `statedir = ${caDirectory}\nsigningkey = ${at("signkey.pem")}\n` +
      `issuercert = ${at("issuercert.pem")}\ncertserial = ${at("certserial")}\n`,
  );
  await writeFile(
    at("localca.options"),
    "--platform-manufacturer IronClaw\n--platform-version 1\n--platform-model QEMU\n",
  );
  await writeFile(
    at("setup.conf"),
    `create_certs_tool = swtpm_localca\ncreate_certs_tool_config = ${at("localca.conf")}\n` +
      `create_certs_tool_options = ${at("localca.options")}\nactive_pcr_banks = sha256,sha384\n`,
  );
  return at("setup.conf");
}

/** Tools around TPM certificates write empty files and report success; one DER SEQUENCE that fills the file is required. */
async function readCertificate(path: string): Promise<Uint8Array> {
  const bytes = new Uint8Array(await readFile(path).catch(() => Buffer.alloc(0)));
  const [tag, form, high, low] = bytes;
  const length = tag === 0x30 && form === 0x82 && high !== undefined && low !== undefined ? 4 + 256 * high + low : -1;
  if (length === bytes.length) return bytes;
  throw new ImageError("ERR_VM_TPM", `ek certificate ${path}`, {
    expected: "one DER certificate",
    got: bytes.length === 0 ? "an empty file" : `${bytes.length} other bytes`,
  });
}

export interface RunningTpm extends AsyncDisposable {
  readonly pid: number;
  /** Resolves when the process has ended, by itself or by `stop`. */
  readonly exited: Promise<void>;
  /** End the process and wait until it has let go of the state. May be called twice. */
  stop(): Promise<void>;
}

export interface SwtpmOptions {
  /** A directory of {@link makeTpmState}. */
  readonly directory: string;
  /** Path of the Unix socket to create, at most 102 bytes. */
  readonly socket: string;
  /**
   * `qemu`: `socket` is the control channel that QEMU's `-tpmdev emulator` connects to; the process ends with QEMU.
   * `tcti`: `socket` takes TPM commands (TCTI `swtpm:path=...`), with the control channel beside it in `<socket>.ctrl`, and
   * the TPM is powered on: every start is a power cycle.
   */
  readonly user?: "qemu" | "tcti";
}

/** Start a software TPM and wait for its socket. Throws {@link ImageError} ERR_VM_TPM, or ERR_IMAGE_TOOL without swtpm. */
export async function startSwtpm({ directory, socket, user = "qemu" }: SwtpmOptions): Promise<RunningTpm> {
  const control = user === "qemu" ? socket : `${socket}.ctrl`;
  requireSocketPath(control);
  await Promise.all([socket, control].map((path) => rm(path, { force: true })));
  const log = join(directory, "swtpm.log");
  const child = spawn(
    "swtpm",
    [
      ...["socket", "--tpm2", "--tpmstate", `dir=${directory}`, "--ctrl", `type=unixio,path=${control}`],
      ...(user === "qemu"
        ? ["--flags", "not-need-init", "--terminate"]
        : ["--flags", "not-need-init,startup-clear", "--server", `type=unixio,path=${socket}`]),
      ...["--log", `file=${log}`],
    ],
    { stdio: "ignore" },
  );
  const exited = endOf(child);
  const stop = async (): Promise<void> => {
    child.kill("SIGTERM");
    await exited;
  };
  await waitForSockets(child, [socket, control], log);
  return { pid: child.pid ?? -1, exited, stop, [Symbol.asyncDispose]: stop };
}

/** Settles when the child is gone or could not start; meanwhile the child does not outlive this process. */
function endOf(child: ChildProcess): Promise<void> {
  const atExit = (): void => void child.kill("SIGKILL");
  process.once("exit", atExit);
  return new Promise((resolve) => {
    const ended = (): void => {
      process.off("exit", atExit);
      resolve();
    };
    child.once("exit", ended);
    child.once("error", ended);
  });
}

async function waitForSockets(child: ChildProcess, paths: readonly string[], log: string): Promise<void> {
  for (let tries = 0; tries < 1000; tries += 1) {
    if ((await Promise.all(paths.map(isListening))).every(Boolean)) return;
    if (child.pid === undefined) {
      throw new ImageError("ERR_IMAGE_TOOL", "swtpm: not installed", { hint: "apt-get install swtpm swtpm-tools" });
    }
    if (child.exitCode !== null) break;
    await delay(10);
  }
  child.kill("SIGKILL");
  throw new ImageError("ERR_VM_TPM", "swtpm", { expected: "its socket within 10 s", got: "none", hint: `see ${log}` });
}

/** A Unix socket's path has to fit sun_path, 108 bytes with the NUL. */
export function requireSocketPath(path: string): void {
  const length = Buffer.byteLength(path);
  if (length < 108) return;
  throw new ImageError("ERR_VM_START", `socket ${path}`, {
    expected: "a path of at most 107 bytes",
    got: `${length}`,
    hint: "use a directory with a shorter path",
  });
}
