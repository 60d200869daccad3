import { type ChildProcessByStdio, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { arch, cpus, release } from "node:os";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { setTimeout as delay } from "node:timers/promises";
import * as z from "zod";
import { ImageError } from "./errors.ts";
import { makeDirectory } from "./make-directory.ts";
import { withScratch } from "./scratch.ts";
import { runTool } from "./tool.ts";

/** How QEMU runs the guest's processor. None of it is measured: PCR 4, 9, 11, 12 and the agent PCR are the same. */
export interface Acceleration {
  readonly accel: "tcg" | "kvm";
  /** QEMU's `-cpu`. */
  readonly cpu: string;
  /** How many of them, at least 1. */
  readonly processors: number;
}

/**
 * Works everywhere. `max` has what Node and the kernel's modules look for. One processor: a second one costs a fifth more of the host's time,
 * and up to QEMU 8.0 two that are emulated side by side run code that one of them has replaced, which ends a kernel while it patches itself.
 */
export const TCG: Acceleration = { accel: "tcg", cpu: "max", processors: 1 };
const KVM_PROCESSORS = 2;
export const ACCELERATIONS = ["auto", "tcg", "kvm"] as const;

/** Tried in this order: some nested hosts offer features to guests that they then refuse to set. */
const KVM_CPUS = ["host", "host,arch-capabilities=off"] as const;
/** What the initrd says when it has looked for a root disk and found none: firmware, kernel and user space ran. */
const BOOTED = "initrd: ";
const PROBE_TIMEOUT_MS = 60_000;

export interface ChosenAcceleration extends Acceleration {
  /** For a person: why this one. */
  readonly why: string;
}

/** Boots what is given it under KVM, and says what hindered it; null when it worked. */
export type Probe = (cpu: string) => Promise<string | null>;

export interface AccelerationOrder {
  readonly want: (typeof ACCELERATIONS)[number];
  /** Of the machine: keeps what the probe found, as long as host and image are the same. */
  readonly directory: string;
  readonly imageId: string;
  readonly probe: Probe;
}

const cacheSchema = z.strictObject({
  host: z.string(),
  accel: z.enum(["tcg", "kvm"]),
  cpu: z.string(),
  processors: z.int().positive(),
  why: z.string(),
});

/**
 * KVM where it really boots the image, else TCG. `/dev/kvm` that opens proves nothing: on some nested hosts QEMU aborts, or the kernel dies
 * in its decompressor, so this image's own boot is tried, once for each host and image.
 * @throws ImageError ERR_VM_START when KVM was asked for by name and does not work
 */
export async function chooseAcceleration(order: AccelerationOrder): Promise<ChosenAcceleration> {
  const { want, directory, imageId } = order;
  if (want === "tcg") return { ...TCG, why: "asked for" };
  if (arch() !== "x64" || !existsSync("/dev/kvm")) return fallBack(want, "this host has no /dev/kvm");
  const host = `${release()} ${cpus()[0]?.model ?? "processor"} ${await qemuVersion()} ${imageId}`;
  const file = join(directory, "acceleration.json");
  const known = await readKnown(file, host);
  const found = known ?? { host, ...(await probeAll(order.probe)) };
  if (known === null) {
    await makeDirectory(directory, 0o700);
    await writeFile(file, `${JSON.stringify(found)}\n`);
  }
  const { host: _, ...chosen } = found;
  return chosen.accel === "kvm" ? chosen : fallBack(want, chosen.why);
}

function fallBack(want: "auto" | "kvm", why: string): ChosenAcceleration {
  if (want === "auto") return { ...TCG, why };
  throw new ImageError("ERR_VM_START", "KVM", { expected: "a guest that boots", got: why, hint: "--accel tcg" });
}

async function probeAll(probe: Probe): Promise<ChosenAcceleration> {
  const reasons: string[] = [];
  for (const cpu of KVM_CPUS) {
    const hindrance = await probe(cpu);
    if (hindrance === null) return { accel: "kvm", cpu, processors: KVM_PROCESSORS, why: "the image boots under it" };
    reasons.push(`-cpu ${cpu}: ${hindrance}`);
  }
  return { ...TCG, why: reasons.join("; ") };
}

async function readKnown(file: string, host: string): Promise<z.infer<typeof cacheSchema> | null> {
  try {
    const known = cacheSchema.parse(JSON.parse(await readFile(file, "utf8")));
    return known.host === host ? known : null;
  } catch {
    return null; // none yet, or not ours: it is probed again
  }
}

async function qemuVersion(): Promise<string> {
  const [first = ""] = (await runTool("qemu-system-x86_64", ["--version"])).split("\n");
  return first;
}

/** The image's boot disk under its firmware, without any other disk: the initrd says that it finds no root, and powers off. */
export function probeKvm(firmwareCode: string, esp: string): Probe {
  return (cpu) =>
    withScratch("ironclaw-kvm-", async (directory) => {
      const console = join(directory, "console");
      const args = [
        ...[
          "-nodefaults",
          "-no-user-config",
          "-machine",
          "q35",
          "-accel",
          "kvm",
          "-cpu",
          cpu,
          "-smp",
          String(KVM_PROCESSORS),
          "-m",
          "512",
        ],
        ...[
          "-drive",
          `if=pflash,format=raw,unit=0,readonly=on,file=${firmwareCode}`,
          "-display",
          "none",
          "-nic",
          "none",
        ],
        ...["-drive", `if=none,id=esp,format=raw,readonly=on,file=${esp}`],
        ...["-device", "virtio-blk-pci,drive=esp,bootindex=0", "-serial", `file:${console}`, "-no-reboot"],
      ];
      return watchProbe(spawn("qemu-system-x86_64", args, { stdio: ["ignore", "ignore", "pipe"] }), console);
    });
}

/** Ends QEMU as soon as it is known: what KVM could not run leaves the machine paused, and QEMU waiting. */
async function watchProbe(qemu: ChildProcessByStdio<null, null, Readable>, console: string): Promise<string | null> {
  let complaint = "";
  let ended = false;
  qemu.stderr.on("data", (text: Buffer) => {
    complaint = (complaint + text.toString()).slice(0, 4096);
  });
  const gone = new Promise<void>((resolve) => {
    qemu.once("error", () => resolve());
    qemu.once("close", () => resolve());
  }).then(() => {
    ended = true;
  });
  const booted = async () => (await readFile(console, "latin1").catch(() => "")).includes(BOOTED);
  try {
    for (const deadline = performance.now() + PROBE_TIMEOUT_MS; performance.now() < deadline; await delay(100)) {
      if (await booted()) return null;
      if (ended || complaint.includes("KVM internal error")) break;
    }
    return (await booted()) ? null : firstLine(complaint) || (ended ? "the guest ended early" : "nothing within 60 s");
  } finally {
    qemu.kill("SIGKILL");
    await gone;
  }
}

function firstLine(text: string): string {
  const [line = ""] = text.trim().split("\n");
  return line.replaceAll(/[^ -~]+/g, " ").slice(0, 200);
}
