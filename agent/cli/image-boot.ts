import { join, resolve } from "node:path";
import { describeEkCertificate } from "../../attest/index.ts";
import { parseBundle, parsePolicy, type SlotName, toHex } from "../../policy/index.ts";
import { verifySealedPackage } from "../../seal/index.ts";
import { ACCELERATIONS, chooseAcceleration, probeKvm } from "../../vm-images/acceleration.ts";
import { type BuiltDisks, readBuiltDisks } from "../../vm-images/built-image.ts";
import { sysfsDevices } from "../../vm-images/host/index.ts";
import { requireListedDevices } from "../../vm-images/machine-devices.ts";
import { type MachineFolder, openMachineFolder } from "../../vm-images/machine-folder.ts";
import { findFirmware, portNames, qemuArguments, vmPaths } from "../../vm-images/qemu-args.ts";
import { bootMachine, type LaunchOutcome, type MachineParts, type RunningMachine } from "../../vm-images/running.ts";
import { Interrupt, watchLaunch } from "./boot-watch.ts";
import { anchorsOf, readCabinet } from "./cabinet-slots.ts";
import type { Command, CommandInput, CommandIo } from "./command.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary: "boot an image with a cabinet on this host, with a software TPM, and stay until the guest ends or Ctrl-C",
  positionals: [],
  options: {
    image: { type: "string", value: "DIR", help: "what `image build --out` filled", required: true },
    cabinet: { type: "string", value: "FILE", help: "what `cabinet new` wrote", required: true },
    machine: {
      type: "string",
      value: "DIR",
      help: "the machine's folder: TPM, disks that it writes, sockets, console; what is missing is made",
      required: true,
    },
    memory: { type: "string", value: "MIB", help: "memory (default: 512)" },
    device: {
      type: "string",
      value: "DEVICE",
      multiple: true,
      help: "a further device, as QEMU's -device takes it; refused unless the cabinet's policy lists it",
    },
    accel: { type: "string", value: "HOW", help: "auto (KVM if this image boots under it), tcg or kvm" },
    json: { ...JSON_OPTION, help: "print one JSON document once the launch has ended" },
  },
  examples: [
    "ironclaw image boot --image build/image/demo --cabinet cabinet.img --machine vm-1",
    "ironclaw image boot --image build/image/demo-usb --cabinet cabinet.img --machine vm-1 --device qemu-xhci --device usb-host,vendorid=0x08e6,productid=0x4433",
  ],
  run: boot,
};

async function boot(input: CommandInput, io: CommandIo): Promise<0 | 1> {
  const started = performance.now();
  const memoryMiB = input.integer("memory", 128, 1 << 20) ?? 512;
  const want = input.choice("accel", ACCELERATIONS);
  const image = await readBuiltDisks(input.text("image"));
  const cabinet = resolve(input.text("cabinet"));
  const contents = readCabinet(cabinet);
  const directory = resolve(input.text("machine"));
  const parts = { ...partsOf(image, cabinet, directory), extraDevices: input.list("device"), memoryMiB };
  checkDevices(parts, contents, io);
  const folder = await openMachineFolder(directory);
  for (const part of folder.made)
    io.complain(`boot: made ${part === "tpm" ? "a software TPM" : `a blank ${part} disk`} in ${directory}`);
  for (const warning of await warnAboutTpm(contents, folder)) io.complain(`warning: ${warning}`);
  using interrupt = new Interrupt();
  const probe = probeKvm((image.firmware ?? findFirmware()).code, image.esp);
  const acceleration = await chooseAcceleration({ want, directory, imageId: image.id, probe });
  io.complain(`boot: ${acceleration.accel}, -cpu ${acceleration.cpu} (${acceleration.why})`);
  await using running = await bootMachine({ ...parts, acceleration });
  const watch = { io, since: performance.now(), running };
  const launch = await Promise.race([watchLaunch(watch), interrupt.asked]);
  if (launch === null) return stopped(running, io, 1);
  running.control.close(); // a port takes one connection at a time: leave it to the operator's commands
  const seconds = (performance.now() - started) / 1000;
  const facts = {
    state: launch.state,
    reasons: launch.reasons,
    phases: launch.phases,
    seconds,
    acceleration,
    machine: directory,
    ...places(parts),
  };
  answer(input, io, facts, renderUp(launch, seconds, parts));
  const code = launch.state === "serving" ? 0 : 1;
  if ((await Promise.race([running.vm.exited, interrupt.asked])) === null) return stopped(running, io, code);
  io.complain("boot: the guest ended");
  return code;
}

/** QEMU ends by itself, with its disks written; the machine's own `stop` comes behind it. */
async function stopped(running: RunningMachine, io: CommandIo, code: 0 | 1): Promise<0 | 1> {
  await running.vm.qmp("quit").catch(() => {}); // it may have had the signal too
  io.complain("boot: stopped");
  return code;
}

function partsOf({ id: _, ...image }: BuiltDisks, cabinet: string, directory: string): MachineParts {
  return { ...image, cabinet, directory, tpmDirectory: join(directory, "tpm") };
}

/** Refuses a device that was asked for and is not listed; warns of all else that the policy does not list. */
function checkDevices(parts: MachineParts, contents: ReadonlyMap<SlotName, Uint8Array>, io: CommandIo): void {
  const policyBytes = contents.get("policy");
  const policy = policyBytes === undefined ? { devices: [] } : parsePolicy(policyBytes);
  const args = qemuArguments({ ...parts, tpmSocket: vmPaths(parts.directory).tpm }, parts.firmware ?? findFirmware());
  const exposed = requireListedDevices(args, parts.extraDevices ?? [], policy, sysfsDevices());
  for (const { item, expected, got } of exposed) io.complain(`warning: ${item}: expected ${expected}, got ${got}`);
}

/** A cabinet of another machine unseals nothing here: better said before a minute of booting than after. */
async function warnAboutTpm(
  contents: ReadonlyMap<SlotName, Uint8Array>,
  { ekCertificate }: MachineFolder,
): Promise<readonly string[]> {
  const sealed = contents.get("sealed");
  if (ekCertificate === null || sealed === undefined) return [];
  const names = describeEkCertificate(ekCertificate).profiles.map(({ ekName }) => ekName);
  const anchors = anchorsOf(contents);
  const packages = await Promise.all(parseBundle(sealed).map(({ bytes }) => verifySealedPackage(bytes, anchors)));
  return packages
    .filter(({ ekName }) => !names.includes(toHex(ekName)))
    .map(({ name }) => `credential ${name} is sealed to another TPM than this machine's: it will stay sealed`);
}

function places({ directory, variant }: MachineParts) {
  const { console, port } = vmPaths(directory);
  return { console, ports: Object.fromEntries(portNames({ variant }).map((name) => [name, port(name)])) };
}

function renderUp({ state, reasons }: LaunchOutcome, seconds: number, parts: MachineParts): string {
  const { console, ports } = places(parts);
  return [
    `${state} after ${seconds.toFixed(1)} s`,
    ...reasons.map((reason) => `  reason     ${JSON.stringify(reason)}`),
    `  machine    ${parts.directory}   (for --machine)`,
    `  console    ${console}`,
    ...Object.values(ports).map((path) => `  port       ${path}`),
    "The guest's end or Ctrl-C ends it.",
  ].join("\n");
}
