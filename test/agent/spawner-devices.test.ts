import { execFileSync } from "node:child_process";
import {
  closeSync,
  constants,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, test } from "vitest";
import { openDoor, PROFILE } from "./spawner/door.ts";
import {
  buildPrograms,
  type HostOptions,
  type HostSpawner,
  type Programs,
  shimUid,
  single,
  startSpawner,
} from "./spawner/host.ts";

let programs: Programs;
const running: HostSpawner[] = [];

beforeAll(() => {
  programs = buildPrograms();
});
afterAll(() => programs.remove());
afterEach(async () => {
  for (const spawner of running.splice(0)) await spawner.stop();
});

async function started(options: HostOptions = {}): Promise<HostSpawner> {
  const spawner = await startSpawner(programs, { cabinet: PROFILE, ...options });
  running.push(spawner);
  return spawner;
}

/** Why a shim with this node is refused; "started" when it is not. */
async function refusal(node: string, options: HostOptions = {}): Promise<string> {
  const start = openDoor(await started(options), programs, { nodes: [node] });
  return start.then(
    () => "started",
    (error: Error) => error.message,
  );
}

const NOT_FOR_SHIMS = /not a device that a shim may have/;

/** What the kernel would say about the devices of these numbers, in a directory. */
function sysfs(
  devices: readonly { readonly number: string; readonly path: string; readonly subsystem: string | null }[],
) {
  const root = mkdtempSync(join(programs.directory, "sys-"));
  mkdirSync(join(root, "dev/char"), { recursive: true });
  for (const { number, path, subsystem } of devices) {
    const directory = join(root, "devices", path);
    mkdirSync(directory, { recursive: true });
    symlinkSync(`../../devices/${path}`, join(root, "dev/char", number));
    if (subsystem === null) continue;
    mkdirSync(join(root, "class", subsystem), { recursive: true });
    symlinkSync(`${"../".repeat(path.split("/").length + 1)}class/${subsystem}`, join(directory, "subsystem"));
  }
  return root;
}

describe("nodes", () => {
  test("I5: the listed node is the shim's, opens, cannot be changed, and there is nothing else of /dev", async () => {
    const before = statSync("/dev/full");
    const door = await openDoor(await started(), programs, { nodes: ["/dev/full"] });
    const entries = (await door.ask("list /dev")).split(";").slice(0, -1);
    const [mode, owner] = single ? [(before.mode & 0o7777).toString(8), 65_534] : ["600", shimUid];
    expect(entries).toEqual([expect.stringMatching(/^\/dev d 755 /), `/dev/full c ${mode} ${owner} 1:7`]);
    expect(await door.ask("open /dev/full")).toBe("0");
    for (const other of ["/dev/null", "/dev/zero", "/dev/tty", "/dev/kmsg"])
      expect(await door.ask(`open ${other}`), other).toBe("ENOENT");
    expect(await door.ask("chmod /dev/full")).toBe("EROFS");
    expect(await door.ask("unlink /dev/full")).toMatch(/^(EROFS|EBUSY)$/);
    expect(await door.ask("mknod /dev/null")).toMatch(/^(EROFS|EPERM)$/);
    const after = statSync("/dev/full");
    expect([after.mode, after.uid, after.gid]).toEqual([before.mode, before.uid, before.gid]);
  });

  test("I5: a node is in the shim that lists it and in no other", async () => {
    const spawner = await started();
    const nodes = ["/dev/full", "/dev/urandom", "/dev/null", "/dev/zero", "/dev/random"];
    const with5 = await openDoor(spawner, programs, { nodes });
    const without = await openDoor(spawner, programs, { id: 1 });
    for (const node of nodes) {
      expect(await with5.ask(`open ${node}`), node).toBe("0");
      expect(await without.ask(`open ${node}`), node).toBe("ENOENT");
    }
  });

  test("I5: a writable directory holds no device: a node made there would not open, and none can be made", async () => {
    const door = await openDoor(await started(), programs, { nodes: ["/dev/full"], writable: ["/state"] });
    expect(await door.ask("mknod /state/null")).toBe("EPERM");
  });

  // Each is on most machines; where it is not, it is refused as missing.
  test.each([
    ...["kmsg", "mem", "kmem", "port", "tty", "tty0", "console", "ptmx", "fuse", "kvm", "net/tun", "vhost-net"],
    ...["userfaultfd", "vfio/vfio", "mapper/control", "loop-control", "tpm0", "tpmrm0", "hwrng", "snapshot", "autofs"],
  ])("I5: /dev/%s is never a shim's", async (name) => {
    expect(await refusal(`/dev/${name}`)).toMatch(/not a device that a shim may have|No such file/);
  });

  test.each([
    ["/dev/kmsg", NOT_FOR_SHIMS],
    ["/dev/tty", NOT_FOR_SHIMS],
    ["/dev/ptmx", NOT_FOR_SHIMS],
    ["/dev", /neither a path below/],
    ["/dev/", /neither a path below/],
    ["/dev/../dev/full", /neither a path below/],
    ["/proc/self/fd/0", /neither a path below/],
    ["dev/full", /neither a path below/],
    ["usb:08e6", /neither a path below/],
    ["usb:08E6:4433", /neither a path below/],
    ["usb:08e6:4433 ", /neither a path below/],
    ["", /neither a path below/],
  ])("I5: the node %j is refused", async (node, why) => {
    expect(await refusal(node)).toMatch(why);
  });

  test("I5: what is no character device is refused: a link, a file, a directory, a pipe, a disk", async () => {
    const devices = mkdtempSync(join(programs.directory, "dev-"));
    symlinkSync("/dev/full", join(devices, "link"));
    symlinkSync("/dev", join(devices, "directory"));
    writeFileSync(join(devices, "file"), "");
    execFileSync("mkfifo", [join(devices, "pipe")]);
    mkdirSync(join(devices, "real"));
    if (!single) execFileSync("mknod", [join(devices, "disk"), "b", "7", "0"]);
    expect(await refusal("/dev/link", { devices })).toMatch(/Too many levels of symbolic links/);
    expect(await refusal("/dev/directory/full", { devices })).toMatch(
      /Too many levels of symbolic links|Not a directory/,
    );
    for (const name of ["file", "pipe", "real", ...(single ? [] : ["disk"])])
      expect(await refusal(`/dev/${name}`, { devices }), name).toMatch(/No such device/);
  });

  test("I5: a node over a measured file, in a writable directory, or listed twice is refused", async () => {
    const spawner = await started();
    const file = {
      ...{ path: "/dev/full", executable: false, writable: false },
      source: { kind: "cabinet", offset: 0, length: 1 } as const,
    };
    await expect(openDoor(spawner, programs, { nodes: ["/dev/full"], files: [file] })).rejects.toThrow(/File exists/);
    const inside = openDoor(spawner, programs, { id: 1, nodes: ["/dev/full"], writable: ["/dev"] });
    await expect(inside).rejects.toThrow(/node 0: in a writable directory/);
    const twice = openDoor(spawner, programs, { id: 2, nodes: ["/dev/full", "/dev/full"] });
    await expect(twice).rejects.toThrow(/File exists/);
  });

  test("a ninth node is a breach", async () => {
    const spawner = await started();
    await expect(openDoor(spawner, programs, { nodes: Array(9).fill("/dev/full") })).rejects.toThrow();
    expect(await spawner.ended()).toBe(11);
  });
});

describe("the shape of a device", () => {
  // The machine's terminal multiplexer (5:2) plays the part: what counts is what the kernel says about the number.
  const HSM = "pci0000:00/0000:00:05.0/hsm/hsm0";
  const shaped = (path: string, subsystem: string | null): HostOptions => ({
    sysfs: sysfs([{ number: "5:2", path, subsystem }]),
  });

  test("I5: a device of a PCI or USB function with a subsystem of its own is accepted", async () => {
    expect(await refusal("/dev/ptmx", shaped(HSM, "hsm"))).toBe("started");
    const usb = "pci0000:00/0000:00:01.2/usb1/1-1/1-1:1.0/usbmisc/token0";
    expect(await refusal("/dev/ptmx", shaped(usb, "usbmisc"))).toBe("started");
  });

  test.each([
    "misc",
    "tty",
    "tpm",
    "tpmrm",
    "nvme-generic",
    "vfio",
    "uio",
    "virtio-ports",
    "scsi_generic",
    "usb",
    "input",
    "drm",
  ])("I5: one of the kernel's general subsystem %s is not, whatever function it belongs to", async (subsystem) => {
    expect(await refusal("/dev/ptmx", shaped(HSM, subsystem))).toMatch(NOT_FOR_SHIMS);
  });

  test("I5: one without a subsystem, of no function, or that the kernel does not know, is not", async () => {
    expect(await refusal("/dev/ptmx", shaped(HSM, null))).toMatch(NOT_FOR_SHIMS);
    expect(await refusal("/dev/ptmx", shaped("virtual/hsm/hsm0", "hsm"))).toMatch(NOT_FOR_SHIMS);
    expect(await refusal("/dev/ptmx", { sysfs: sysfs([]) })).toMatch(NOT_FOR_SHIMS);
  });

  test("I5: sysfs makes no memory device acceptable", async () => {
    const options = { sysfs: sysfs([{ number: "1:11", path: HSM, subsystem: "hsm" }]) };
    expect(await refusal("/dev/kmsg", options)).toMatch(NOT_FOR_SHIMS);
  });
});

describe("USB", () => {
  const CONTROLLER = "devices/pci0000:00/0000:00:01.2/usb1";

  interface UsbDevice {
    readonly name: string;
    readonly id: string;
    readonly bus: number;
    readonly device: number;
    readonly minor?: number;
  }

  /** Devices on a bus, none authorised. A user namespace's root can make no nodes. */
  function usb(devices: readonly UsbDevice[]) {
    const root = mkdtempSync(join(programs.directory, "usb-"));
    const list = join(root, "sys/bus/usb/devices");
    mkdirSync(list, { recursive: true });
    for (const { name, id, bus, device, minor = (bus - 1) * 128 + device - 1 } of devices) {
      const [vendor = "", product = ""] = id.split(":");
      mkdirSync(join(root, "sys", CONTROLLER, name), { recursive: true });
      symlinkSync(`../../../${CONTROLLER}/${name}`, join(list, name));
      const attributes = {
        ...{ idVendor: vendor, idProduct: product, busnum: bus, devnum: device, authorized: 0 },
        ...{ speed: "12", descriptors: "\0\x01", serial: "not for the shim", uevent: "DEVTYPE=usb_device" },
      };
      for (const [attribute, value] of Object.entries(attributes))
        writeFileSync(join(list, name, attribute), `${value}\n`);
      const directory = join(root, "dev/bus/usb", `${bus}`.padStart(3, "0"));
      mkdirSync(directory, { recursive: true });
      const node = join(directory, `${device}`.padStart(3, "0"));
      if (!single) execFileSync("mknod", [node, "c", "189", `${minor}`]);
    }
    const authorised = (name: string) => readFileSync(join(list, name, "authorized"), "utf8").trim();
    return { options: { sysfs: join(root, "sys"), devices: join(root, "dev") }, authorised };
  }

  const bus: readonly UsbDevice[] = [
    { name: "usb1", id: "08e6:4433", bus: 1, device: 1 }, // a root hub that lies
    { name: "1-1", id: "08e6:4433", bus: 1, device: 4 },
    { name: "1-2.3", id: "08e6:4433", bus: 2, device: 127 },
    { name: "1-2", id: "1d6b:0002", bus: 1, device: 2 },
    { name: "1-1:1.0", id: "08e6:4433", bus: 1, device: 9 },
  ];

  test("I5: every device of the id is authorised and has its node; no hub, no interface and no other device", async () => {
    const { options, authorised } = usb(bus);
    const spawner = await started(options);
    const start = openDoor(spawner, programs, { nodes: ["usb:08e6:4433"] });
    if (single) return expect(start).rejects.toThrow(/No such file/);
    const door = await start;
    const entries = (await door.ask("list /dev")).split(";").filter((entry) => entry.includes(" c "));
    expect(entries.sort()).toEqual([
      `/dev/bus/usb/001/004 c 600 ${shimUid} 189:3`,
      `/dev/bus/usb/002/127 c 600 ${shimUid} 189:254`,
    ]);
    expect(bus.map(({ name }) => authorised(name))).toEqual(["0", "1", "1", "0", "0"]);
  });

  test("I5: of sysfs a shim has copies of a few attributes of its own devices, so that libusb and libudev find them", async () => {
    const { options } = usb(bus);
    const spawner = await started(options);
    const start = openDoor(spawner, programs, { nodes: ["usb:08e6:4433"] });
    if (single) return expect(start).rejects.toThrow(/No such file/);
    const door = await start;
    const entries = (await door.ask("list /sys")).split(";").slice(0, -1);
    const files = ["busnum", "descriptors", "devnum", "idProduct", "idVendor", "speed", "uevent"];
    const copies = ["1-1", "1-2.3"].flatMap((name) => [
      ...files.map((file) => `/sys/${CONTROLLER}/${name}/${file} f 444 0`),
      `/sys/${CONTROLLER}/${name}/subsystem ? 777 0`,
      `/sys/bus/usb/devices/${name} ? 777 0`,
    ]);
    // Root is nobody in the shim's user namespace.
    const expected = copies.map((entry) => entry.replace(/ 0$/, " 65534"));
    expect(entries.filter((entry) => !entry.includes(" d ")).sort()).toEqual(expected.sort());
    for (const name of ["1-1", "1-2.3"]) {
      expect(await door.ask(`words /sys/bus/usb/devices/${name}/uevent`)).toBe("DEVTYPE=usb_device");
      expect(await door.ask(`words /sys/bus/usb/devices/${name}/subsystem/devices/${name}/idVendor`)).toBe("08e6");
    }
    expect(await door.ask("words /sys/bus/usb/devices/1-2/idVendor")).toBe("ENOENT");
    expect(await door.ask("unlink /sys/bus/usb/devices/1-1")).toBe("EROFS");
  });

  test("I5: without such a device there is no shim, and nothing is authorised", async () => {
    const { options, authorised } = usb(bus);
    expect(await refusal("usb:08e6:4434", options)).toMatch(/usb:08e6:4434: no such device/);
    expect(bus.map(({ name }) => authorised(name))).toEqual(["0", "0", "0", "0", "0"]);
    expect(await refusal("usb:08e6:4433", { sysfs: join(programs.directory, "nowhere") })).toMatch(/No such file/);
  });

  /** A bus whose first device does not answer: the attribute for which the kernel asks it is a pipe that nobody writes to. */
  function silentBus() {
    const { options } = usb(bus);
    const attribute = join(options.sysfs, "bus/usb/devices/1-1/authorized");
    rmSync(attribute);
    execFileSync("mkfifo", [attribute]);
    return { options, attribute };
  }

  test("I10: a device that does not answer costs its shim ten seconds and its start, and the spawner nothing more", async () => {
    const spawner = await started(silentBus().options);
    const start = openDoor(spawner, programs, { nodes: ["usb:08e6:4433"] });
    await expect(start).rejects.toThrow(/device nodes: no answer within 10 s/);
    const other = await openDoor(spawner, programs, { id: 1 });
    expect(await other.ask("loopback")).toBe("down");
    const children = () => readFileSync(`/proc/${spawner.pid}/task/${spawner.pid}/children`, "utf8").trim().split(" ");
    // the agent and that shim: who asked the device is gone
    await expect.poll(() => children().length, { timeout: 20_000 }).toBe(2);
  });

  test("I3: while a device does not answer the agent's end is seen all the same", async () => {
    const { options, attribute } = silentBus();
    const spawner = await started(options);
    const agent = await spawner.logged(/agent started, pid (\d+)/);
    const start = openDoor(spawner, programs, { nodes: ["usb:08e6:4433"] }).catch((error: Error) => error.message);
    let pipe = -1;
    const asked = () => {
      try {
        pipe = openSync(attribute, constants.O_WRONLY | constants.O_NONBLOCK);
      } catch {
        return false; // nobody reads it yet
      }
      return true;
    };
    await expect.poll(asked, { timeout: 20_000 }).toBe(true);
    process.kill(agent, "SIGKILL");
    // it ended, or it takes no reply
    expect([10, 11]).toContain(await spawner.ended());
    expect(spawner.log()).toMatch(/shim 0: device nodes: given up\n.*agent PCR NOT capped/s);
    expect(await start).toMatch(/ended/);
    closeSync(pipe);
  });

  test("I5: a node whose number is not the device's is refused", async () => {
    const { options } = usb([{ name: "1-1", id: "08e6:4433", bus: 1, device: 4, minor: 4 }]);
    expect(await refusal("usb:08e6:4433", options)).toMatch(single ? /No such file/ : /No such device/);
  });

  test("I5: a USB device's node by its path is refused: the number on the bus says nothing about the device", async () => {
    const { options } = usb(bus);
    expect(await refusal("/dev/bus/usb/001/004", options)).toMatch(single ? /No such file/ : NOT_FOR_SHIMS);
  });
});
