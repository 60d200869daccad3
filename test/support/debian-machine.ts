import { copyFile, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { encodeCabinet } from "../../policy/index.ts";
import { type ControlClient, openControl } from "../../vm-images/control-client.ts";
import { buildDebianPackage } from "../../vm-images/debian-package.ts";
import { buildEsp } from "../../vm-images/esp.ts";
import { readInstalledSystem } from "../../vm-images/installed-system.ts";
import { bootVm, type Vm } from "../../vm-images/qemu.ts";
import type { Firmware } from "../../vm-images/qemu-args.ts";
import { softhsmModule } from "../../vm-images/rootfs.ts";
import { type Machine, provisionMachine } from "../../vm-images/story/machine.ts";
import { PLACES } from "../../vm-images/story/story.ts";
import { startSwtpm, type TpmState } from "../../vm-images/swtpm.ts";
import { runTool } from "../../vm-images/tool.ts";
import { type DebianKernel, debianKernel } from "./debian-kernel.ts";
import type { DebianSuite } from "./debian-release.ts";
import { debianRoot } from "./debian-root.ts";
import { DevShell } from "./dev-shell.ts";
import { SOFTHSM_LIBRARY } from "./softhsm.ts";
import { makeTpm } from "./vm-machine.ts";

// An ordinary Debian with our package beside it, and all that an operator made for it. Nothing is installed yet.

/** initramfs-tools' initrd has no systemd: the first word is the root file system's. */
const PHASES = ["sysinit", "ready"] as const;
/** The unit that the policy lets sign; `systemd-run --unit` gives a program one. */
export const SIGNER_UNIT = "signer.service";
export const PACKAGE = "/root/ironclaw-agent.deb";
const CABINET = "/root/cabinet.img";

export interface DebianMachine {
  readonly directory: string;
  readonly tpm: TpmState;
  readonly machine: Machine;
  readonly kernel: DebianKernel;
}

/** @param directory an empty one with a short path */
export async function debianMachine(directory: string, suite: DebianSuite): Promise<DebianMachine> {
  const built = await buildDebianPackage({
    outDirectory: join(PLACES.cache, "../package"),
    cacheDirectory: PLACES.cache,
  });
  const kernel = await debianKernel(suite);
  const uki = join(directory, "uki.efi");
  await writeFile(uki, kernel.uki);
  await buildEsp(kernel.uki, join(directory, "esp.img"));
  const root = await debianRoot(directory, suite, kernel);
  const merged = join(directory, "installed");
  await runTool("cp", ["-a", "--reflink=auto", `${root.tree}/.`, merged]);
  await runTool("cp", ["-a", `${built.tree}/.`, merged]);
  const system = await readInstalledSystem({ root: merged, uki, phases: PHASES });
  const tpm = await makeTpm(join(directory, "tpm"));
  const machine = await provisionMachine({
    ...{
      name: "debian-vm",
      directory: join(directory, "machine"),
      keyDirectory: PLACES.keys,
      cacheDirectory: PLACES.cache,
    },
    image: { tree: merged, uki, manifest: { id: system.id, variant: system.variant }, phases: PHASES },
    ekCertificate: tpm.ekCertificates.p384,
    differs: {
      module: { library: SOFTHSM_LIBRARY, files: await softhsmModule(root.tree) },
      callers: ["/usr/bin/pkcs11-tool"],
      policy: (demo) => ({
        ...demo,
        callers: Object.fromEntries(
          Object.entries(demo.callers ?? {}).map(([name, caller]) => [name, { ...caller, unit: SIGNER_UNIT }]),
        ),
      }),
    },
  });
  await mkdir(join(root.tree, "root"), { recursive: true });
  await copyFile(built.path, join(root.tree, PACKAGE));
  await writeFile(join(root.tree, CABINET), encodeCabinet(machine.contents));
  await root.build(join(directory, "root.img"));
  return { directory, tpm, machine, kernel };
}

export interface RunningDebian extends DebianMachine, AsyncDisposable {
  readonly vm: Vm;
  readonly shell: DevShell;
  readonly control: ControlClient;
  stop(): Promise<void>;
}

/** One boot; the disks and the TPM go on from one to the next. Without `firmware` it is the one that verifies nothing. */
export async function bootDebian(debian: DebianMachine, firmware?: Firmware): Promise<RunningDebian> {
  const { directory, tpm } = debian;
  const place = join(directory, "vm");
  await mkdir(place, { recursive: true });
  const unused = join(directory, "unused.img");
  await writeFile(unused, new Uint8Array(4096));
  const tpmSocket = join(place, "tpm.sock");
  const software = await startSwtpm({ directory: tpm.directory, socket: tpmSocket });
  const vm = await bootVm({
    ...{ directory: place, tpmSocket, esp: join(directory, "esp.img"), cabinet: unused, variant: "dev" },
    ...{ root: join(directory, "root.img"), rootWritable: true },
    ...(firmware === undefined ? {} : { firmware }),
  });
  const control = openControl({ control: await vm.port("ironclaw.control"), report: await vm.port("ironclaw.report") });
  const shell = await DevShell.open(await vm.port("ironclaw.shell"));
  const stop = async () => {
    control.close();
    shell.close();
    await vm.stop();
    await software.stop();
  };
  return { ...debian, vm, shell, control, stop, [Symbol.asyncDispose]: stop };
}
