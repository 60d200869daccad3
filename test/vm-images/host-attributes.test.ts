import { describe, expect, it } from "vitest";
import { readLibvirtText } from "../../vm-images/host/libvirt.ts";
import { exposureOf, GOOD, short } from "../support/host-configurations.ts";
import { ORDINARY } from "../support/ordinary-domain.ts";
import { READER } from "../support/usb-token.ts";

const unknown = (text: string) => readLibvirtText(text).items.filter(({ kind }) => kind === "unknown");

/** Where every element begins, and whether it is a note, a limit or a finding as a whole, of which nothing more is said. */
const beginnings = (text: string) =>
  [...text.matchAll(/<([a-z][\w:-]*)(?=[ />])/gi)].map(({ 0: tag, 1: name = "", index }) => ({
    name,
    with: (attribute: string) => text.slice(0, index + tag.length) + attribute + text.slice(index + tag.length),
  }));
const WHOLE = /^(?:metadata|libosinfo:\w+|interface|mac|link|graphics|listen|image|iotune|total_iops_sec)$/;

describe("the attributes of a libvirt domain", () => {
  it("of an ordinary machine are all known, and what it exposes is told without noise", () => {
    expect(unknown(ORDINARY)).toEqual([]);
    expect(short(exposureOf(ORDINARY, ["1af4:1042", READER]))).toEqual([
      "disk fail", // the root, writable
      ...["emulated fail", "emulated fail", "emulated fail"], // USB, a root port, virtio's serial ports
      ...["network fail", "guest-agent fail", "emulated fail", "display fail"],
      ...["emulated fail", "emulated fail", "emulated fail", "emulated fail"], // sound, video, balloon, random numbers
    ]);
  });

  it.each(beginnings(ORDINARY).map((each) => [each.name, each] as const))(
    "that nobody knows are a finding at <%s>, or it is one as a whole",
    (name, beginning) => {
      const found = unknown(beginning.with(" wormhole='x'"));
      // Below what is a finding as a whole, some have names that others have elsewhere.
      if (WHOLE.test(name)) expect(found).toEqual([]);
      else if (found.length === 0) expect(["source", "target", "model", "audio"]).toContain(name);
      else expect(found).toMatchObject([{ got: `something else: wormhole= of <${name}>`.slice(0, 56) }]);
    },
  );

  it.each([
    [
      "a disk that whoever starts the machine opened",
      "<driver name='qemu' type='raw'/><source file='/m/state.img'/>",
      "<driver name='qemu' type='raw'/><source file='/m/state.img' fdgroup='g'/>",
    ],
    ["raw commands to a disk", "<disk type='file' device='disk'>", "<disk type='file' device='disk' rawio='yes'>"],
    [
      "a log of all TPM commands",
      "<backend type='emulator' version='2.0'/>",
      "<backend type='emulator' version='2.0' debug='20'/>",
    ],
    ["one of the domain itself", "<domain type='kvm'>", "<domain type='kvm' constructor='x'>"],
    ["one of the device list", "<devices>", "<devices x='y'>"],
  ])("that would matter are a finding: %s", (_, from, to) => {
    expect(GOOD).toContain(from);
    expect(short(exposureOf(GOOD.replace(from, to)))).toEqual(["unknown fail"]);
  });

  it("of arguments for QEMU count too, and the name space that belongs to them does not", () => {
    const space = "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'";
    const line = (more: string) =>
      GOOD.replace("<domain", `<domain ${space}`).replace(
        "</domain>",
        `<qemu:commandline><qemu:arg value='-S'${more}/></qemu:commandline></domain>`,
      );
    expect(exposureOf(line(""))).toEqual([]);
    expect(short(exposureOf(line(" file='x'")))).toEqual(["unknown fail"]);
  });

  it("and elements with the names of every object's properties are strangers like others", () => {
    for (const name of ["constructor", "toString", "__proto__"])
      expect(short(exposureOf(GOOD.replace("</domain>", `<${name} a='b'><c/></${name}></domain>`)))).toContain(
        "unknown fail",
      );
  });
});
