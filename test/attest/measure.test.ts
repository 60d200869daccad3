import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { formatDevices } from "../../attest/devices.ts";
import { devicesDigest, environmentDigest, modulePolicy } from "../../attest/measure.ts";
import { sha256Hex, utf8 } from "../../policy/index.ts";

const device = fc.stringMatching(/^(usb:)?[0-9a-f]{4}:[0-9a-f]{4}$/);

describe("the module that a policy pins", () => {
  it("I1: has what was measured, in the order of its names, and not the interpreter a second time", () => {
    const pin = {
      ...{ path: "/lib/m.so", sha256: "a".repeat(64), interpreter: "/lib64/ld.so" },
      closure: { "/lib/c.so": "c".repeat(64), "/lib/b.so": "b".repeat(64) },
    };
    const config = { "/etc/z.conf": "d".repeat(64), "/etc/m.conf": "e".repeat(64) };
    const module = modulePolicy(pin, config, { B: "2", A: "1" });
    expect(module).toEqual({
      ...{ path: pin.path, sha256: pin.sha256, closure: pin.closure, config },
      environment: { A: "1", B: "2" },
    });
    const names = [module.closure, module.config, module.environment].map((map) => Object.keys(map));
    expect(names).toEqual([
      ["/lib/b.so", "/lib/c.so"],
      ["/etc/m.conf", "/etc/z.conf"],
      ["A", "B"],
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
        (devices) => void expect(devicesDigest(devices)).toBe(sha256Hex(utf8(formatDevices(devices)))),
      ),
    );
  });
});
