import { beforeAll, describe, expect, it } from "vitest";
import { INTRUDER_UID, SCOPED_UID } from "../../vm-images/story/demo-policy.ts";
import { AGENT_UID, type Dev, guestProgram, processesOf, SHIM_UID, SHIMS } from "./dev-machine.ts";
import type { OpenOrder, OpenResult } from "./guest-open.ts";

/** What a workload without a scope can open and see. */
export function describeIntruder(dev: Dev): void {
  describe("another uid in the guest", () => {
    let paths: string[];
    let stateDisk: string;
    const open = async (order: OpenOrder) =>
      (await dev().shell.program(guestProgram("guest-open.ts"), order)) as OpenResult;
    const same = (value: string) => Object.fromEntries(paths.map((path) => [path, value]));

    beforeAll(async () => {
      const cabinet = await dev().shell.output("readlink /run/ironclaw/cabinet");
      const store = await dev().shell.output("readlink /run/ironclaw/store");
      const block = await dev().shell.output(
        'for b in /sys/block/vd*; do [ "$(cat $b/serial)" = state ] && echo $b; done; true',
      );
      stateDisk = block.replace("/sys/block/", "/dev/");
      expect([cabinet, store, stateDisk].map((path) => path.slice(0, -1))).toEqual(Array(3).fill("/dev/vd"));
      paths = [
        "/dev/tpmrm0",
        ...[cabinet, store, stateDisk],
        "/run/ironclaw-shim",
        "/run/ironclaw-shim/0/shim",
        "/run/ironclaw/state/audit/0000000000000001.log",
        "/dev/kmsg",
      ];
    });

    it("I6: opens neither TPM nor cabinet nor store nor state disk nor the shim's directory nor the audit log nor the kernel's log", async () => {
      const { "/dev/kmsg": log, ...others } = await open({ uid: INTRUDER_UID, paths });
      const { "/dev/kmsg": _, ...expected } = same("EACCES");
      expect(others).toEqual(expected);
      expect(log).toBe("EPERM"); // dmesg_restrict
    });

    it("I6: opens no port but its own, and no block device", async () => {
      const devices = (await dev().shell.output("ls -d /dev/vport* /dev/vd* /dev/dm-* /dev/tpm0 /dev/mem")).split("\n");
      const own = await dev().shell.output(`readlink /dev/virtio-ports/workload.${INTRUDER_UID}`);
      const result = await open({ uid: INTRUDER_UID, paths: devices.filter((path) => path !== own) });
      expect(new Set(Object.values(result))).toEqual(new Set(["EACCES"]));
      expect(Object.keys(result).length).toBeGreaterThanOrEqual(9);
    });

    it("I6: does not even see the agent, the shim or the other workload", async () => {
      const others = (
        await Promise.all([AGENT_UID, SHIM_UID, SCOPED_UID].map((uid) => processesOf(dev(), uid)))
      ).flat();
      expect(others).toHaveLength(2 + SHIMS);
      const result = await open({ uid: INTRUDER_UID, paths: others.map((pid) => `/proc/${pid}/status`) });
      expect(Object.values(result)).toEqual(others.map(() => "ENOENT"));
    });

    it("I6: is kept out by its uid alone: the agent opens its own, and root everything", async () => {
      expect(await open({ uid: 0, paths })).toEqual(same("open"));
      const agent = await open({ uid: AGENT_UID, paths });
      expect(paths.filter((path) => agent[path] === "open").sort()).toEqual(
        paths.filter((path) => !/ironclaw-shim|kmsg/.test(path) && path !== stateDisk).sort(),
      );
    });
  });
}
