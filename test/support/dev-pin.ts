import { randomBytes } from "node:crypto";
import { beforeAll, describe, expect, it } from "vitest";
import { INTRUDER_UID, SCOPED_UID } from "../../vm-images/story/demo-policy.ts";
import { countPinCopies } from "../../vm-images/story/pin-copies.ts";
import { AGENT_UID, type Dev, guestProgram, SHIM_UID, SHIMS } from "./dev-machine.ts";
import type { ScannedProcess } from "./guest-memory.ts";
import type { ScanOrder, ScanResult } from "./guest-scan.ts";
import {
  counted,
  inAllEncodings,
  maskedNeedle,
  pinNeedles as needlesOf,
  newCanary,
  nothing,
  total,
} from "./pin-needles.ts";

/** What a process of each name has in its memory for certain: where this is not found, nothing else would be. */
const KNOWN: Readonly<Record<string, string>> = {
  spawner: "/run/ironclaw-shim",
  agent: "/etc/ironclaw/agent.json",
  shim: "SOFTHSM2_CONF=/etc/softhsm2.conf",
  "release-signer": `IRONCLAW_PORT=/dev/virtio-ports/workload.${SCOPED_UID}`,
  intruder: `IRONCLAW_PORT=/dev/virtio-ports/workload.${INTRUDER_UID}`,
  shell: "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
};
const ROLES: Readonly<Record<number, string>> = {
  [AGENT_UID]: "agent",
  [SHIM_UID]: "shim",
  [SCOPED_UID]: "release-signer",
  [INTRUDER_UID]: "intruder",
};
const roleOf = ({ pid, uid }: ScannedProcess) => ROLES[uid] ?? (pid === 1 ? "spawner" : "shell");

/** Where copies of the PIN are in a machine that serves. */
export function describePinCopies(dev: Dev): void {
  describe("the PIN, after login", () => {
    let pinNeedles: string[];
    let scan: ScanResult;
    let canary: string;

    beforeAll(async () => {
      const { pin } = dev().stage.machine;
      canary = newCanary(pin.length);
      const workload = await dev().running.workload(SCOPED_UID);
      try {
        // Something for the audit log to record, and for the library to work with.
        const use = { scope: "release-signing", label: "release-ec", mechanism: "CKM_ECDSA" };
        await workload.request("sign", { ...use, data: randomBytes(32).toString("hex") });
        // V8 holds a text with a character beyond Latin 1 in two bytes each, little-endian; swapped characters give big-endian.
        for (const value of [canary, `${canary}\u2603`, Buffer.from(canary, "utf16le").swap16().toString("utf16le")])
          await workload.request("hold", { value });
      } finally {
        workload.close();
      }
      const needles = needlesOf(pin);
      pinNeedles = needles.map(({ name }) => name);
      const order: ScanOrder = {
        needles: [
          ...[...needles, maskedNeedle("canary", Buffer.from(canary))],
          ...Object.entries(KNOWN).map(([role, text]) => maskedNeedle(role, Buffer.from(text))),
        ],
        places: ["/run", "/tmp", "/etc", "/var", await dev().shell.output("readlink /run/ironclaw/cabinet")],
      };
      await dev().shell.put("/tmp/planted", inAllEncodings(canary));
      await dev().shell.output(
        "dmesg >/tmp/kernel-log; cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline >/tmp/arguments; true",
      );
      scan = (await dev().shell.program(guestProgram("guest-scan.ts"), order)) as ScanResult;
    });

    const shims = () => scan.processes.filter(({ uid }) => uid === SHIM_UID);

    it("I4: the scan reads all memory of every process: spawner, agent, shims, both workloads and the shell", () => {
      expect(scan.processes.map(roleOf).sort()).toEqual([...Object.keys(KNOWN), "shim"].sort());
      for (const process of scan.processes) {
        const role = roleOf(process);
        expect([role, process.unread, total(process.counts[role] ?? nothing) > 0]).toEqual([role, [], true]);
      }
      expect(scan.kernelThreads).toBeGreaterThan(0);
    });

    it("I4: the same scan finds a canary of equal length in the workload that holds it, in every encoding, and only there", () => {
      for (const { uid, counts } of scan.processes) {
        const { utf8, utf16le, utf16be } = counts["canary"] ?? nothing;
        expect([uid, utf8 > 0, utf16le > 0, utf16be > 0]).toEqual([uid, ...Array(3).fill(uid === SCOPED_UID)]);
      }
    });

    it("I4: no process but a shim holds a copy of it, whole or half", () => {
      for (const process of scan.processes) {
        const found = counted(process, pinNeedles);
        console.info(`copies of ${pinNeedles.join(", ")} in the ${roleOf(process)}: ${found.map(total).join(", ")}`);
        if (process.uid !== SHIM_UID) expect([process.uid, ...found]).toEqual([process.uid, nothing, nothing, nothing]);
      }
      expect(shims()).toHaveLength(SHIMS);
    });

    it("I4: a dump of all memory holds no more copies than the shim does, and disks and logs none", async () => {
      const copies = await countPinCopies(dev().running, dev().stage.machine.pin, dev().directory);
      const inShims = shims().reduce((sum, process) => sum + Math.max(...counted(process, pinNeedles).map(total)), 0);
      expect(copies.memory).toBeLessThanOrEqual(inShims);
      expect(copies.filesAndLogs).toBe(0);
      expect(copies.canary).toBeGreaterThan(0);
      expect((await dev().shell.output("cat /proc/swaps")).split("\n")).toHaveLength(1); // its heading: memory is all there is
    });

    it("I4: no file in the guest holds it: not the audit log, the cabinet, the kernel's log, an argument or an environment", () => {
      const sizes = new Map(scan.files.map(({ path, bytes }) => [path, bytes]));
      for (const path of ["/run/ironclaw/state/audit/0000000000000001.log", "/tmp/kernel-log", "/tmp/arguments"])
        expect([path, (sizes.get(path) ?? 0) > 0]).toEqual([path, true]);
      for (const file of scan.files)
        expect([file.path, ...counted(file, pinNeedles)]).toEqual([file.path, nothing, nothing, nothing]);
      const withCanary = scan.files.filter(({ counts }) => total(counts["canary"] ?? nothing) > 0);
      expect(withCanary.map(({ path, counts }) => [path, counts["canary"]])).toEqual([
        ["/tmp/planted", { utf8: 1, utf16le: 1, utf16be: 1 }],
      ]);
    });
  });
}
