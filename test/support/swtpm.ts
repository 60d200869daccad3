import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, rmSync } from "node:fs";
import { mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { promisify } from "node:util";
import { isListening } from "../../vm-images/listening.ts";

const run = promisify(execFile);

/** A software TPM with PCR banks sha256 and sha384 and, if asked for, EK certificates from a CA made for it alone. */
export interface SoftwareTpm extends AsyncDisposable {
  /** One connection at a time: a second one waits until the first is closed. */
  readonly tcti: string;
  readonly directory: string;
  /** PEM: root, then issuer. Empty without certificates. */
  readonly caFiles: readonly string[];
  /**
   * A power cycle: PCRs, sessions and transient objects are gone, NV and seeds stay. `none` leaves TPM2_Startup to the caller:
   * after TPM2_Shutdown(STATE) it decides between a TPM Restart and a TPM Resume.
   */
  restart(startup?: Startup): Promise<void>;
  /** SIGKILL: what it keeps stays as it is; `restart` starts it again. */
  kill(): Promise<void>;
  /** Ends the process and removes the directory. May be called twice. */
  stop(): Promise<void>;
}

type Startup = "clear" | "none";

export interface SoftwareTpmOptions {
  /**
   * Default `certificates`: EKs at their persistent handles, certificates in NV. `none`: a TPM as its maker's seeds left it,
   * with no persistent key and every bank active; starts at once.
   */
  readonly endorsement?: "certificates" | "keys" | "none";
  /** Active PCR banks, unless `endorsement` is `none`. Default sha256,sha384. */
  readonly banks?: string;
}

/** Takes about 1.5 s. Stop it, or use `await using`; it also ends with this process. */
export async function startSwtpm({
  endorsement = "certificates",
  banks = "sha256,sha384",
}: SoftwareTpmOptions = {}): Promise<SoftwareTpm> {
  const directory = await mkdtemp(join(tmpdir(), "ironclaw-swtpm-"));
  let child: ChildProcess | null = null;
  const stop = async () => {
    await stopProcess(child);
    await rm(directory, { recursive: true, force: true });
  };
  try {
    await manufacture(directory, endorsement, banks);
    child = await startProcess(directory);
  } catch (cause) {
    await stop();
    throw cause;
  }
  const ca = join(directory, "ca");
  return {
    tcti: `swtpm:path=${join(directory, "tpm.sock")}`,
    directory,
    caFiles:
      endorsement === "certificates" ? [join(ca, "swtpm-localca-rootca-cert.pem"), join(ca, "issuercert.pem")] : [],
    restart: async (startup) => {
      await stopProcess(child);
      child = await startProcess(directory, startup);
    },
    kill: () => stopProcess(child),
    stop,
    [Symbol.asyncDispose]: stop,
  };
}

/** Writes the tools' own configuration, so that neither /etc nor another test's CA is used, and makes the TPM's state. */
async function manufacture(
  directory: string,
  endorsement: "certificates" | "keys" | "none",
  banks: string,
): Promise<void> {
  const at = (name: string) => join(directory, name);
  await Promise.all([mkdir(at("state")), mkdir(at("ca"))]);
  if (endorsement === "none") return;
  const localca = {
    statedir: at("ca"),
    signingkey: at("ca/signkey.pem"),
    issuercert: at("ca/issuercert.pem"),
    certserial: at("ca/certserial"),
  };
  const setup = {
    create_certs_tool: "/usr/bin/swtpm_localca",
    create_certs_tool_config: at("localca.conf"),
    create_certs_tool_options: at("localca.options"),
    active_pcr_banks: banks,
  };
  await writeFile(at("localca.conf"), lines(localca));
  await writeFile(
    at("localca.options"),
    "--platform-manufacturer IronClaw\n--platform-version 1\n--platform-model test\n",
  );
  await writeFile(at("setup.conf"), lines(setup));
  await run("swtpm_setup", [
    ...["--tpm2", "--tpmstate", `dir://${at("state")}`, "--config", at("setup.conf"), "--pcr-banks", banks],
    ...[
      endorsement === "certificates" ? "--create-ek-cert" : "--createek",
      "--lock-nvram",
      "--overwrite",
      "--logfile",
      at("setup.log"),
    ],
  ]);
}

const lines = (entries: Readonly<Record<string, string>>) =>
  Object.entries(entries)
    .map(([key, value]) => `${key} = ${value}\n`)
    .join("");

async function startProcess(directory: string, startup: Startup = "clear"): Promise<ChildProcess> {
  const socket = join(directory, "tpm.sock");
  await Promise.all([socket, `${socket}.ctrl`].map((path) => rm(path, { force: true })));
  const child = spawn(
    "swtpm",
    [
      ...[
        "socket",
        "--tpm2",
        "--tpmstate",
        `dir=${join(directory, "state")}`,
        "--flags",
        `not-need-init,startup-${startup}`,
      ],
      // The TCTI looks for the control channel beside the command channel.
      ...["--server", `type=unixio,path=${socket}`, "--ctrl", `type=unixio,path=${socket}.ctrl`],
      ...["--log", `file=${join(directory, "swtpm.log")}`],
    ],
    { stdio: "ignore" },
  );
  // For a process that ends without stopping its TPM.
  const atExit = () => {
    child.kill("SIGKILL");
    rmSync(directory, { recursive: true, force: true });
  };
  process.once("exit", atExit);
  child.once("exit", () => process.off("exit", atExit));
  await once(child, "spawn");
  await waitForSockets(child, [socket, `${socket}.ctrl`]);
  return child;
}

async function waitForSockets(child: ChildProcess, paths: readonly string[]): Promise<void> {
  for (let tries = 0; tries < 1000; tries++) {
    if ((await Promise.all(paths.map(isListening))).every(Boolean)) return;
    if (child.exitCode !== null) throw new Error(`swtpm ended with ${child.exitCode}`);
    await delay(5);
  }
  child.kill("SIGKILL");
  throw new Error("swtpm did not open its sockets");
}

/** Only ever this child, by its handle. */
async function stopProcess(child: ChildProcess | null): Promise<void> {
  if (child === null || child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, "exit");
  child.kill("SIGKILL");
  await ended;
}

/** Whether anything of a stopped TPM is left; for the fixture's own test. */
export async function leftovers(directory: string): Promise<readonly string[]> {
  return existsSync(directory) ? await readdir(directory) : [];
}
