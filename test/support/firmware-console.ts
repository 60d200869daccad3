import { mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Image } from "../../vm-images/build.ts";
import { bootVm } from "../../vm-images/qemu.ts";
import { startSwtpm } from "../../vm-images/swtpm.ts";

const PATIENCE_S = 400;
const DECIDED = /BdsDxe: (?:failed to (?:load|start)|starting|No bootable option)[^\n]*\n/;

/** What the firmware of this image's machine says on the console about a boot disk, once it has decided. The machine is then ended. */
export async function firmwareSays(image: Image, esp: string, directory: string): Promise<string> {
  const place = mkdtempSync(join(directory, "fw-"));
  mkdirSync(join(place, "tpm"));
  writeFileSync(join(place, "cabinet.img"), new Uint8Array(4096));
  const tpmSocket = join(place, "tpm.sock");
  await using _tpm = await startSwtpm({ directory: join(place, "tpm"), socket: tpmSocket });
  await using vm = await bootVm({
    ...{ esp, root: image.root, cabinet: join(place, "cabinet.img"), tpmSocket, directory: place, variant: "release" },
    ...(image.firmware === undefined ? {} : { firmware: image.firmware }),
  });
  const said = () => readFileSync(vm.consoleLog, "latin1");
  for (let second = 0; second < PATIENCE_S && !DECIDED.test(said()); second++) await sleep(1_000);
  return said();
}
