import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { encodeCabinet } from "../../policy/index.ts";
import { chooseAcceleration, probeKvm } from "../acceleration.ts";
import type { Image } from "../build.ts";
import { makeDirectory } from "../make-directory.ts";
import { findFirmware, furtherPorts } from "../qemu-args.ts";
import { bootMachine, type MachineParts, type RunningMachine } from "../running.ts";
import type { CabinetContents } from "./tamper.ts";

export { type LaunchOutcome, type RunningMachine, requireServing } from "../running.ts";

export interface RunOrder
  extends Pick<MachineParts, "tpmDirectory" | "directory" | "disks" | "extraDevices" | "memoryMiB" | "acceleration"> {
  readonly image: Image;
  readonly contents: CabinetContents;
  /** Another boot disk than the image's own. */
  readonly esp?: string;
  /** Another root disk. */
  readonly root?: string;
}

/** Write the cabinet into `directory`, and start a software TPM and a machine on it: by KVM where the image boots under it. */
export async function startMachine(order: RunOrder): Promise<RunningMachine> {
  const { image, contents, ...rest } = order;
  await makeDirectory(order.directory, 0o700);
  const cabinet = join(order.directory, "cabinet.img");
  await writeFile(cabinet, encodeCabinet(contents), { mode: 0o600 });
  const { id: imageId, variant, workloads } = image.manifest;
  const probe = probeKvm((image.firmware ?? findFirmware()).code, image.esp);
  const acceleration = await chooseAcceleration({ want: "auto", directory: order.directory, imageId, probe });
  return bootMachine({
    ...{ esp: image.esp, root: image.root, variant, extraPorts: furtherPorts(variant, workloads) },
    ...(image.firmware === undefined ? {} : { firmware: image.firmware }),
    ...{ acceleration, ...rest, cabinet },
  });
}
