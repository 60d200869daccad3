import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { formatPciDevices, listPciDevices, parsePciDevices } from "../../attest/devices.ts";
import {
  compareModule,
  devicesDigest,
  environmentDigest,
  type MeasuredModule,
  modulePolicy,
} from "../../attest/measure.ts";
import { sha256Hex, utf8 } from "../../policy/index.ts";

const pin = {
  path: "/lib/m.so",
  sha256: "a".repeat(64),
  closure: { "/lib/c.so": "c".repeat(64), "/lib/b.so": "b".repeat(64) },
  interpreter: "/lib64/ld.so",
};
const measured = (
  change: Partial<Parameters<typeof modulePolicy>[0]> = {},
  devices = ["1af4:1042", "1af4:1042"],
): MeasuredModule => ({
  module: modulePolicy({ ...pin, ...change }, { "/etc/m.conf": "d".repeat(64) }, { SOFTHSM2_CONF: "/etc/m.conf" }),
  devices,
});
const device = fc.stringMatching(/^[0-9a-f]{4}:[0-9a-f]{4}$/);

describe("compareModule", () => {
  it("what equals the policy has no mismatch, in whatever order it was found", () => {
    const closure = { "/lib/b.so": "b".repeat(64), "/lib/c.so": "c".repeat(64) };
    expect(compareModule(measured(), measured({ closure }))).toEqual([]);
  });

  it("I1: every difference is named with what was expected and what was found, additions and absences too", () => {
    const got = measured({
      sha256: "f".repeat(64),
      closure: { "/lib/c.so": "e".repeat(64), "/lib/x.so": "b".repeat(64) },
    });
    const environment = { SOFTHSM2_CONF: "/tmp/other", EXTRA: "1" };
    expect(compareModule(measured(), { ...got, module: { ...got.module, environment, config: {} } })).toEqual([
      { kind: "library", name: "/lib/m.so", expected: "a".repeat(64), got: "f".repeat(64) },
      { kind: "closure", name: "/lib/b.so", expected: "b".repeat(64), got: "absent" },
      { kind: "closure", name: "/lib/c.so", expected: "c".repeat(64), got: "e".repeat(64) },
      { kind: "closure", name: "/lib/x.so", expected: "absent", got: "b".repeat(64) },
      { kind: "file", name: "/etc/m.conf", expected: "d".repeat(64), got: "absent" },
      { kind: "environment", name: "EXTRA", expected: "absent", got: "1" },
      { kind: "environment", name: "SOFTHSM2_CONF", expected: "/etc/m.conf", got: "/tmp/other" },
    ]);
  });

  it("the same device twice where the policy has one is a mismatch", () => {
    const [mismatch, ...rest] = compareModule(
      measured({}, ["1af4:1042"]),
      measured({}, ["1af4:1042", "8086:100e", "1af4:1042"]),
    );
    expect(mismatch).toMatchObject({ kind: "devices", name: "+1af4:1042 +8086:100e", expected: "1af4:1042" });
    expect(rest).toEqual([]);
  });

  it("a name from Object.prototype is an ordinary name", () => {
    const closure = { ...pin.closure, constructor: "1".repeat(64) };
    expect(compareModule(measured(), measured({ closure }))).toEqual([
      { kind: "closure", name: "constructor", expected: "absent", got: "1".repeat(64) },
    ]);
  });
});

describe("digests", () => {
  it("the environment is hashed as sorted K=V lines, and no value can forge a line", () => {
    expect(environmentDigest({ B: "2", A: "1" })).toBe(sha256Hex(utf8("A=1\nB=2\n")));
    expect(() => environmentDigest({ A: "1\nB=2" })).toThrow(/environment "A"/);
    expect(() => environmentDigest({ "A=1\nB": "2" })).toThrow(/environment/);
  });

  it("the devices digest is over the lines of the list", () => {
    fc.assert(
      fc.property(
        fc.array(device),
        (devices) => void expect(devicesDigest(devices)).toBe(sha256Hex(utf8(formatPciDevices(devices)))),
      ),
    );
  });
});

describe("PCI device lists", () => {
  it("round trip, sorted, with repeats", () => {
    fc.assert(
      fc.property(
        fc.array(device),
        (devices) => void expect(parsePciDevices(formatPciDevices(devices))).toEqual(devices.toSorted()),
      ),
    );
  });

  it("sysfs texts become vendor:device", () => {
    const functions = [
      { address: "0000:00:02.0", vendor: "0x1af4\n", device: "0x1043\n" },
      { address: "0000:00:01.0", vendor: "0x1af4\n", device: "0x1042\n" },
    ];
    expect(listPciDevices(functions)).toEqual(["1af4:1042", "1af4:1043"]);
    expect(() => listPciDevices([{ address: "x", vendor: "1af4", device: "0x1042" }])).toThrow(/pci x vendor/);
  });

  it.each(["1af4:1042", "1AF4:1042\n", "1af4:1043\n1af4:1042\n", "\n", "1af4:1042\n\n"])(
    "the list %j is refused",
    (text) => {
      expect(() => parsePciDevices(text)).toThrow(/pci devices/);
    },
  );
});
