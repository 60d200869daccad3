import { describe, expect, it } from "vitest";
import { AttestError } from "../../attest/errors.ts";
import { parsePe } from "../../attest/pe.ts";
import { predictBootExtends } from "../../attest/predict.ts";
import { readStubbedKernel } from "../../attest/stub.ts";
import { readCpio } from "../support/cpio-reader.ts";
import { peImage, stubMagic } from "../support/pe-image.ts";

const text = (value: string): Uint8Array => new TextEncoder().encode(value);
const KERNEL = peImage([[".text", text("kernel")]]);

type Sections = readonly (readonly [string, Uint8Array])[];
const sections = (version: string, ...more: Sections): Sections => [
  [".text", text("stub")],
  stubMagic(version),
  [".sbat", text("sbat,1,of the stub\n")],
  [".uname", text("6.12.1")],
  [".osrel", text("ID=debian\n")],
  [".cmdline", text("console=ttyS0")],
  [".initrd", text("initrd")],
  [".linux", KERNEL],
  ...more,
];
const read = (all: Sections) => readStubbedKernel(parsePe(peImage(all)));
const names = (all: Sections) => read(all).measured.map(([name]) => name);
const refusal = (all: Sections): AttestError => {
  try {
    read(all);
  } catch (error) {
    if (error instanceof AttestError) return error;
  }
  throw new Error("no refusal");
};

// What the versions do in a boot is seen by the machines of test/e2e, whose PCRs are the predicted ones.

describe("systemd's stub in a kernel image", () => {
  it("measures what its version measures, in its own order", () => {
    const common = [".linux", ".osrel", ".cmdline", ".initrd"];
    const more = [".splash", text("BM")] as const;
    expect(names(sections("252.39-1~deb12u2", more))).toEqual([...common, ".splash"]);
    expect(names(sections("257.9-1~deb13u1", more))).toEqual([...common, ".splash", ".uname", ".sbat"]);
  });

  it("of version 252 passes the initrd on as it is, and of 257 with os-release behind it", () => {
    expect(read(sections("252")).initrd).toEqual(text("initrd"));
    const { initrd } = read(sections("257"));
    expect(Buffer.from(initrd.subarray(0, 8)).toString()).toBe("initrd\0\0");
    expect(readCpio(initrd.subarray(8))).toEqual([
      { path: ".extra", mode: 0o40555, mtime: 0, bytes: new Uint8Array() },
      { path: ".extra/os-release", mode: 0o100444, mtime: 0, bytes: text("ID=debian\n") },
    ]);
    expect(initrd.length % 4).toBe(0);
  });

  it("of version 257 strips the command line, whose section stays as it is", () => {
    const line = text("\t quiet\nlockdown=integrity \n");
    const changed = (version: string) =>
      sections(version).map(([name, content]) => [name, name === ".cmdline" ? line : content] as const);
    const newer = read(changed("257"));
    expect(Buffer.from(newer.commandLine).toString()).toBe("quiet lockdown=integrity");
    expect(newer.measured).toContainEqual([".cmdline", line]);
    expect(() => predictBootExtends({ uki: peImage(changed("252")) })).toThrow(/printable ASCII/);
  });

  it.each(["260~rc1", "255.4-1ubuntu8", "", "two hundred"])("of version %j is not predicted", (version) => {
    expect(refusal(sections(version))).toMatchObject({
      code: "ERR_PCR_PREDICTION",
      expected: "version 252 or 257",
      got: /^\d+/.exec(version)?.[0] ?? "no version",
    });
  });

  it("vouches for its kernel with Secure Boot, and of version 257 no such boot was compared", () => {
    const predict = (version: string) =>
      predictBootExtends({ uki: peImage(sections(version)), secureBoot: true }).filter(({ pcr }) => pcr === 4);
    expect(predict("252")).toHaveLength(3);
    expect(() => predict("257")).toThrow("systemd-stub with Secure Boot: expected version 252, got 257");
  });

  it("that says no version is not predicted", () => {
    const silent = sections("257").filter(([name]) => name !== ".sdmagic");
    expect(refusal(silent)).toMatchObject({ code: "ERR_PCR_PREDICTION", got: "no version" });
  });

  it.each([
    ["257", ".ucode"],
    ["257", ".profile"],
    ["257", ".pcrsig"],
    ["257", ".dtbauto"],
    ["252", ".pcrpkey"],
  ])(
    "of version %s is not predicted with a section %s, whose effect on a boot nobody has compared",
    (version, name) => {
      expect(refusal(sections(version, [name, text("x")]))).toMatchObject({
        code: "ERR_PCR_PREDICTION",
        expected: "absent",
        got: "present",
      });
      expect(refusal(sections(version, [name, text("x")])).message).toContain(`section ${name}`);
    },
  );
});
