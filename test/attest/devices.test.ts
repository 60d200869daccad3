import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  compareDevices,
  formatDevices,
  isUsbDevice,
  listDevices,
  listPciDevices,
  listUsbDevices,
  parseDevices,
} from "../../attest/devices.ts";
import { AttestError } from "../../attest/errors.ts";

const id = fc.stringMatching(/^[0-9a-f]{4}$/);
const port = fc.nat(255).map((number) => number + 1);
const usbName = fc
  .tuple(port, fc.array(port, { minLength: 1, maxLength: 6 }))
  .map(([bus, ports]) => `${bus}-${ports.join(".")}`);
const line = fc.oneof(
  fc.tuple(id, id).map((ids) => ids.join(":")),
  fc.tuple(id, id).map((ids) => `usb:${ids.join(":")}`),
);

const usb = (name: string, idVendor: string, idProduct: string) => ({ name, idVendor, idProduct });

describe("lists of what a machine shows", () => {
  it("I1: of PCI functions are sysfs's texts as vendor:device, sorted, with repeats", () => {
    const functions = [
      { address: "0000:00:02.0", vendor: "0x1af4\n", device: "0x1043\n" },
      { address: "0000:00:01.0", vendor: "0x1af4\n", device: "0x1042\n" },
      { address: "0000:00:03.0", vendor: "0x1af4\n", device: "0x1042\n" },
    ];
    expect(listPciDevices(functions)).toEqual(["1af4:1042", "1af4:1042", "1af4:1043"]);
  });

  it("I1: of USB devices are sysfs's texts as usb:vendor:product, sorted, with repeats, a plugged-in hub among them", () => {
    const devices = [usb("1-1", "0409\n", "55aa\n"), usb("1-1.2", "08e6\n", "4433\n"), usb("2-3", "08e6\n", "4433\n")];
    expect(listUsbDevices(devices)).toEqual(["usb:0409:55aa", "usb:08e6:4433", "usb:08e6:4433"]);
  });

  it("I1: of both kinds are one list in which no device is lost and none appears", () => {
    const pci = fc.array(fc.tuple(id, id));
    fc.assert(
      fc.property(pci, fc.array(fc.tuple(usbName, id, id)), (functions, devices) => {
        const list = listDevices(
          functions.map(([vendor, device]) => ({ address: "a", vendor: `0x${vendor}\n`, device: `0x${device}\n` })),
          devices.map(([name, vendor, product]) => usb(name, `${vendor}\n`, `${product}\n`)),
        );
        const expected = [
          ...functions.map(([vendor, device]) => `${vendor}:${device}`),
          ...devices.map(([, vendor, product]) => `usb:${vendor}:${product}`),
        ];
        expect(list).toEqual(expected.sort());
        expect(parseDevices(formatDevices(list))).toEqual(list);
      }),
    );
  });

  it.each(["1af4", "0x1AF4\n", "0x1af4\n\n", "0x1af4 ", " 0x1af4", "0x1af45\n", ""])(
    "I1: the text %j for a PCI vendor is refused",
    (vendor) => {
      expect(() => listPciDevices([{ address: "x", vendor, device: "0x1042" }])).toThrow(/pci x vendor/);
    },
  );

  it.each(["0x08e6\n", "08E6\n", "8e6\n", "08e6\n\n", "08e6:", ""])(
    "I1: the text %j for a USB vendor is refused",
    (idVendor) => {
      expect(() => listUsbDevices([usb("1-1", idVendor, "4433\n")])).toThrow(/usb 1-1 idVendor/);
    },
  );
});

describe("the names in /sys/bus/usb/devices", () => {
  it("I1: a device, plugged in directly or behind hubs, is one", () => {
    fc.assert(fc.property(usbName, (name) => void expect(isUsbDevice(name)).toBe(true)));
  });

  it.each(["usb1", "usb12", "1-0:1.0", "1-2.4:1.1"])("I1: the root hub or interface %s is none", (name) => {
    expect(isUsbDevice(name)).toBe(false);
    expect(() => listUsbDevices([usb(name, "1d6b\n", "0002\n")])).toThrow(AttestError);
  });

  it("I1: a name of any other form is refused and not left out", () => {
    const other = fc.string().filter((name) => !/^(usb\d+|\d+-\d+(\.\d+)*(:\d+\.\d+)?)$/.test(name));
    fc.assert(fc.property(other, (name) => void expect(() => isUsbDevice(name)).toThrow(AttestError)));
    for (const name of ["", "usb", "1-", "1-1:", "-1", "1-1.", "ep_00", "1-1\n"])
      expect(() => isUsbDevice(name)).toThrow(AttestError);
  });
});

describe("the text of a device list", () => {
  it("I1: round trips, sorted, with repeats", () => {
    fc.assert(
      fc.property(fc.array(line), (devices) => {
        expect(parseDevices(formatDevices(devices))).toEqual(devices.toSorted());
      }),
    );
  });

  it.each([
    ...["1af4:1042", "1AF4:1042\n", "1af4:1043\n1af4:1042\n", "\n", "1af4:1042\n\n"],
    ...["usb:1af4:1042", "USB:08e6:4433\n", "usb:08e6:4433\n1af4:1042\n", "usb:08e6\n", "usb:usb:08e6:4433\n"],
  ])("I1: the list %j is refused", (text) => {
    expect(() => parseDevices(text)).toThrow(/devices/);
  });
});

describe("what has come and gone between two lists", () => {
  it("I5: is nothing when they are the same multiset, in whatever order", () => {
    fc.assert(
      fc.property(fc.array(line), (devices) => {
        expect(compareDevices(devices, devices.toReversed())).toEqual([]);
      }),
    );
  });

  it("I5: turns the one into the other, one change for each device of a kind", () => {
    const few = fc.array(fc.constantFrom("1af4:1042", "1b36:0002", "usb:08e6:4433", "usb:0627:0001"));
    fc.assert(
      fc.property(few, few, (before, after) => {
        const result: string[] = before.toSorted();
        for (const { device, change } of compareDevices(before, after)) {
          if (change === "added") result.push(device);
          else result.splice(result.indexOf(device), 1);
        }
        expect(result.sort()).toEqual(after.toSorted());
        const kinds = new Map(compareDevices(before, after).map(({ device, change }) => [device, change]));
        for (const { device, change } of compareDevices(before, after)) expect(kinds.get(device)).toBe(change);
      }),
    );
  });

  it("I5: tells a second device of the same kind", () => {
    expect(compareDevices(["usb:08e6:4433"], ["usb:08e6:4433", "usb:08e6:4433", "1b36:0002"])).toEqual([
      { device: "1b36:0002", change: "added" },
      { device: "usb:08e6:4433", change: "added" },
    ]);
    expect(compareDevices(["usb:08e6:4433"], [])).toEqual([{ device: "usb:08e6:4433", change: "removed" }]);
  });
});
