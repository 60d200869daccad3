import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { parseXml, type XmlElement } from "../../vm-images/host/xml.ts";
import { exposureOf, GOOD, lineOf, OURS, short, thrown } from "../support/host-configurations.ts";

const foundWith = (...more: readonly string[]) => short(exposureOf(lineOf([...OURS, ...more])));

/** A value by its meaning, so that it can be spelled in each way that QEMU reads alike. */
type Value = string | boolean | number | { readonly place: readonly [number, number, number, number] };

interface Form {
  readonly option: string;
  /** The key that a first word is the value of, with that word. */
  readonly head: readonly [string, string] | null;
  readonly keys: Readonly<Record<string, Value>>;
  /** Takes a key without a value for a switch; takes JSON. */
  readonly flags?: true;
  readonly json?: true;
}

const DISK = ["-drive", "if=none,id=x,format=raw,readonly=on,file=/x"];
const device = (driver: string, keys: Form["keys"]): Form => ({
  ...{ option: "device", head: ["driver", driver], keys },
  ...{ flags: true, json: true },
});
const object = (type: string, keys: Form["keys"]): Form => ({
  ...{ option: "object", head: ["qom-type", type], keys: { id: "m", ...keys } },
  json: true,
});
const chardev = (backend: string, keys: Form["keys"]): Form => ({
  ...{ option: "chardev", head: ["backend", backend], keys: { id: "c", ...keys } },
  flags: true,
});
const drive = (keys: Form["keys"]): Form => ({ option: "drive", head: null, keys, flags: true });
const FORMS: readonly (readonly [Form, readonly string[]])[] = [
  [device("vfio-pci", { host: { place: [0, 0, 0x14, 0] } }), ["controller fail"]],
  [device("vfio-pci", { host: { place: [0, 3, 0, 0] }, romfile: "/r" }), ["device fail", "injected warn"]],
  [device("usb-host", { vendorid: 0x46d, productid: 0xc31c }), ["device fail"]],
  [device("usb-host", { hostbus: 1, hostaddr: 2 }), ["controller fail"]],
  [device("usb-host", { hostbus: 1, hostaddr: 20 }), ["device fail"]],
  [device("virtserialport", { name: "ironclaw.shell" }), ["port fail"]],
  [device("virtio-blk-pci", { drive: "x", serial: "root", "write-cache": true }), ["emulated fail"]],
  [device("usb-storage", { drive: "x", serial: "state" }), ["emulated fail"]],
  [device("nvme", { drive: "x", serial: "loot" }), ["emulated fail", "disk fail"]],
  [device("virtio-net-pci", { mq: false }), ["network fail"]],
  [object("memory-backend-ram", { share: true }), ["shared-memory fail"]],
  [object("memory-backend-ram", { share: false, merge: true }), ["memory-merge warn"]],
  [object("memory-backend-memfd", {}), ["shared-memory fail"]],
  [object("memory-backend-memfd", { share: false, hugetlb: true }), ["hugepages warn"]],
  [object("rng-random", { filename: "/tmp/known" }), ["unknown fail"]],
  [chardev("socket", { host: "0.0.0.0", port: "44", server: true, wait: false }), ["network-socket fail"]],
  [chardev("socket", { path: "/run/a,b=c", server: true, wait: false }), []],
  [chardev("serial", { path: "/dev/ttyUSB0" }), ["device fail"]],
  [chardev("file", { path: "/dev/ttyS0", mux: false }), ["device fail"]],
  [drive({ if: "none", id: "y", format: "raw", snapshot: true, file: "/y" }), ["snapshot fail"]],
  [drive({ if: "none", id: "y", format: "qcow2", snapshot: false, file: "/y" }), ["snapshot warn"]],
  [drive({ if: "none", id: "y", format: "raw", file: "nbd+unix:///y" }), ["unknown fail"]],
  [drive({ if: "pflash", format: "raw", unit: 0, file: "/y" }), ["disk fail"]],
  [drive({ if: "pflash", format: "raw", unit: 0, readonly: true, file: "/y" }), []],
  [drive({ if: "pflash", format: "raw", unit: 10, file: "/y" }), ["unknown fail"]],
  [
    { option: "blockdev", head: ["driver", "raw"], keys: { "node-name": "n", "file.driver": "nbd" }, json: true },
    ["unknown fail"],
  ],
  [{ option: "machine", head: ["type", "q35"], keys: { usb: true } }, Array(4).fill("emulated fail")],
  [{ option: "machine", head: ["type", "q35"], keys: { usb: false, "mem-merge": false } }, []],
  [{ option: "machine", head: ["type", "q35"], keys: { "mem-merge": true } }, ["memory-merge warn"]],
  [{ option: "machine", head: ["type", "microvm"], keys: {} }, ["unknown fail", "suspend fail", "suspend fail"]],
  [{ option: "display", head: ["type", "none"], keys: {} }, []],
  [{ option: "display", head: ["type", "gtk"], keys: { gl: true } }, ["display warn"]],
  [{ option: "vnc", head: ["vnc", ":0"], keys: { password: true }, flags: true }, ["display fail"]],
  [{ option: "vnc", head: ["vnc", "unix:/v"], keys: { websocket: "5700" } }, ["display fail"]],
  [{ option: "spice", head: null, keys: { unix: true, addr: "/s" }, flags: true }, ["display warn"]],
  [{ option: "spice", head: null, keys: { unix: false, port: 5900 } }, ["display fail"]],
  [{ option: "nic", head: ["type", "none"], keys: {} }, []],
  [{ option: "nic", head: ["type", "user"], keys: { model: "e1000" } }, ["network fail"]],
  [{ option: "netdev", head: ["type", "user"], keys: { id: "n" }, json: true }, ["network fail"]],
  [{ option: "accel", head: ["accel", "qtest"], keys: {} }, ["unknown fail"]],
  [{ option: "icount", head: ["shift", "7"], keys: { rr: "record" } }, ["unknown fail"]],
  [{ option: "tpmdev", head: ["type", "emulator"], keys: { id: "t", chardev: "c" } }, []],
  [{ option: "smp", head: ["cpus", "2"], keys: { maxcpus: 4 } }, []],
  [{ option: "global", head: null, keys: { driver: "ICH9-LPC", property: "disable_s3", value: 0 } }, ["suspend fail"]],
  [{ option: "global", head: null, keys: { driver: "ICH9-LPC", property: "disable_s4", value: 1 } }, []],
];

const spelled = (form: Form, key: string, value: Value): fc.Arbitrary<string> => {
  if (typeof value === "string") return fc.constant(`${key}=${value.replaceAll(",", ",,")}`);
  if (typeof value === "number")
    return fc
      .constantFrom(
        `${value}`,
        `0x${value.toString(16)}`,
        `0X00${value.toString(16).toUpperCase()}`,
        `0${value.toString(8)}`,
      )
      .map((text) => `${key}=${text}`);
  if (typeof value === "boolean") {
    const words = (value ? ["on", "yes", "true", "y"] : ["off", "no", "false", "n"]).map((word) => `${key}=${word}`);
    return fc.constantFrom(...words, ...(form.flags === true ? [value ? key : `no${key}`] : []));
  }
  return placeSpelled(value.place).map((text) => `${key}=${text}`);
};
function placeSpelled([domain, bus, slot, part]: readonly [number, number, number, number]): fc.Arbitrary<string> {
  return fc.tuple(fc.boolean(), fc.boolean(), fc.boolean()).map(([long, whole, loud]) => {
    const pad = (value: number, digits: number) => value.toString(16).padStart(long ? digits : 1, "0");
    const text = `${whole ? `${pad(domain, 4)}:` : ""}${pad(bus, 2)}:${pad(slot, 2)}.${part}`;
    return loud ? text.toUpperCase() : text;
  });
}

/** Each way to say the same. */
function spellings(form: Form): fc.Arbitrary<readonly string[]> {
  const keys = Object.entries(form.keys).map(([key, value]) => spelled(form, key, value));
  const named = form.head === null ? [] : [fc.constant(form.head.join("="))];
  const all = [...named, ...keys];
  const byKeys = fc
    .tuple(...all)
    .chain((parts) => fc.shuffledSubarray(parts, { minLength: parts.length }))
    .filter(([first]) => first?.includes("=") === true || form.head === null);
  const word = form.head?.[1];
  const byHead =
    word === undefined
      ? []
      : [
          fc
            .tuple(...keys)
            .chain((parts) => fc.shuffledSubarray(parts, { minLength: parts.length }))
            .map((parts) => [word, ...parts]),
        ];
  const text = fc.oneof(byKeys, ...byHead).map((parts) => parts.join(","));
  return fc
    .tuple(fc.constantFrom("-", "--"), form.json === true ? fc.oneof(text, asJson(form)) : text)
    .map(([dash, value]) => [`${dash}${form.option}`, value]);
}

function asJson({ head, keys }: Form): fc.Arbitrary<string> {
  const values = Object.entries(keys).map(([key, value]) =>
    (typeof value === "object" ? placeSpelled(value.place) : fc.constant(value)).map((plain) => [key, plain] as const),
  );
  return fc
    .tuple(fc.constant(head ?? (["", ""] as const)), ...values)
    .chain((entries) => fc.shuffledSubarray(entries, { minLength: entries.length }))
    .map((entries) => JSON.stringify(Object.fromEntries(entries)));
}

const given = ({ option, head, keys }: Form) => `-${option} ${head?.[1] ?? ""} ${Object.keys(keys).join(" ")}`;

describe("an option of QEMU", () => {
  it.each(FORMS.map(([form, found]) => [given(form), form, found] as const))(
    "I5: %s is judged alike in every spelling that QEMU takes for it",
    (_, form, found) => {
      fc.assert(
        fc.property(spellings(form), ([option = "", value = ""]) => {
          expect(foundWith(...DISK, option, value)).toEqual(found);
        }),
        { numRuns: 40 },
      );
    },
  );

  it.each(FORMS.filter(([{ head }]) => head !== null).map(([form]) => [given(form), form] as const))(
    "I5: %s is refused where its first word is said again as a key",
    (_, { option, head }) => {
      const [key = "", word = ""] = head ?? [];
      const error = thrown(() => foundWith(`-${option}`, `${word},${key}=other`));
      // What is wrong by being there is not read.
      if (option === "netdev") expect(error).toBe(undefined);
      else expect(error).toMatchObject({ code: "ERR_HOST_MALFORMED", expected: `one ${key}`, got: "two" });
    },
  );

  it.each([
    ["a key of a device", "-device", "virtio-rng-pci,wormhole=1"],
    ["a key of a passed device", "-device", "vfio-pci,host=00:14.0,wormhole=1"],
    ["a key of a drive", "-drive", "if=none,id=w,format=raw,file=/x,wormhole=1"],
    ["a key of a node", "-blockdev", "driver=raw,node-name=w,wormhole=1"],
    ["a key of a chardev", "-chardev", "null,id=w,wormhole=1"],
    ["a key of an object", "-object", "rng-builtin,id=w,wormhole=1"],
    ["a key of the machine", "-machine", "wormhole=1"],
    ["a key of the processors", "-smp", "2,wormhole=1"],
    ["a key of the memory", "-m", "512,wormhole=1"],
    ["a kind of object", "-object", "wormhole,id=w"],
    ["a kind of chardev", "-chardev", "wormhole,id=w"],
    ["a kind of console", "-serial", "wormhole"],
    ["a format", "-drive", "if=none,id=w,format=wormhole,file=/x"],
    ["a protocol", "-drive", "if=none,id=w,format=raw,file=wormhole:x"],
    ["a global property", "-global", "wormhole.on=1"],
    ["a kind of TPM", "-tpmdev", "wormhole,id=w"],
    ["what is logged", "-d", "guest_errors,cpu"],
  ])("I5: %s that is in no table is named as a finding", (_, option, value) => {
    expect(foundWith(option, value)).toContain("unknown fail");
  });

  it("I5: one that nobody knows is named, and hides none behind it", () => {
    const starts = OURS.flatMap((word, at) => (word.startsWith("-") ? [at] : []));
    fc.assert(
      fc.property(fc.constantFrom(...starts), fc.constantFrom("-wormhole", "--no-such"), (at, unknown) => {
        const words = [...OURS.slice(0, at), unknown, "-s", ...OURS.slice(at)];
        expect(short(exposureOf(lineOf(words)))).toEqual(["unknown fail", "debugger fail"]);
      }),
    );
  });
});

describe("a domain's element", () => {
  const write = ({ name, attributes, children, text }: XmlElement): string =>
    `<${name}${[...attributes].map(([key, value]) => ` ${key}='${value}'`).join("")}>${text}${children.map(write).join("")}</${name}>`;
  const paths = (element: XmlElement, path: readonly number[] = []): readonly (readonly number[])[] => [
    path,
    ...element.children.flatMap((each, index) => paths(each, [...path, index])),
  ];
  const edit = (
    element: XmlElement,
    [first, ...rest]: readonly number[],
    change: (element: XmlElement) => XmlElement,
  ): XmlElement =>
    first === undefined
      ? change(element)
      : {
          ...element,
          children: element.children.map((each, index) => (index === first ? edit(each, rest, change) : each)),
        };
  const good = parseXml(GOOD);
  const wormhole: XmlElement = { name: "wormhole", attributes: new Map(), children: [], text: "" };

  it("I5: that nobody knows is named, wherever it stands", () => {
    for (const path of paths(good)) {
      const domain = edit(good, path, (each) => ({ ...each, children: [...each.children, wormhole] }));
      expect(short(exposureOf(write(domain))), `below ${path}`).toEqual(["unknown fail"]);
    }
  });

  it("I5: that stands twice where libvirt takes one of them is named", () => {
    const twice = GOOD.replace("<serial>root</serial>", "<serial>root</serial><serial>state</serial>");
    expect(short(exposureOf(twice))).toEqual(["unknown fail"]);
    const pm = "<pm><suspend-to-mem enabled='yes'/></pm></domain>";
    expect(short(exposureOf(GOOD.replace("</domain>", pm)))).toEqual(["unknown fail"]);
  });
});
