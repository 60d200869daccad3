import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, describe, expect, it } from "vitest";
import { AttestError } from "../../attest/errors.ts";
import { measurePe, parsePe, readPeSection } from "../../attest/pe.ts";
import { foldBootExtends, predictBootExtends, predictBootPcrs } from "../../attest/predict.ts";
import { toHex } from "../../policy/index.ts";
import { peImage, stubMagic } from "../support/pe-image.ts";

const text = (value: string): Uint8Array => new TextEncoder().encode(value);
const image = peImage(
  [
    [".text", text("code")],
    [".data", new Uint8Array(700).fill(7)],
  ],
  text("trailing"),
);
const directory = mkdtempSync(join(tmpdir(), "pe-"));
afterAll(() => rmSync(directory, { recursive: true }));
const thrown = (act: () => unknown): unknown => {
  try {
    act();
  } catch (error) {
    return error;
  }
  return undefined;
};

describe("measurePe", () => {
  it.each(["sha256", "sha384"] as const)(
    "the %s digest is the one that osslsigncode signs, with and without the signature",
    (bank) => {
      const file = (name: string): string => join(directory, name);
      writeFileSync(file("in.efi"), image);
      const quiet = { stdio: "pipe", encoding: "utf8" } as const;
      execFileSync(
        "openssl",
        [
          "req",
          "-x509",
          "-newkey",
          "rsa:2048",
          "-nodes",
          "-keyout",
          file("key"),
          "-out",
          file("cert"),
          "-subj",
          "/CN=test",
        ],
        quiet,
      );
      rmSync(file(`${bank}.efi`), { force: true });
      execFileSync(
        "osslsigncode",
        [
          "sign",
          "-certs",
          file("cert"),
          "-key",
          file("key"),
          "-h",
          bank,
          "-in",
          file("in.efi"),
          "-out",
          file(`${bank}.efi`),
        ],
        quiet,
      );
      let report = "";
      try {
        report = execFileSync("osslsigncode", ["verify", "-in", file(`${bank}.efi`)], quiet);
      } catch (error) {
        report = String((error as { stdout?: string }).stdout); // the certificate has no trusted root: only the digest matters
      }
      const signedDigest = /Calculated message digest : ([0-9A-F]+)/.exec(report)?.[1]?.toLowerCase();
      const signed = parsePe(readFileSync(file(`${bank}.efi`)));
      expect(signed.certificateSize).toBeGreaterThan(0);
      expect(toHex(measurePe(signed, bank))).toBe(signedDigest);
      expect(toHex(measurePe(parsePe(image), bank))).toBe(signedDigest);
    },
  );

  it("every byte counts but the checksum and the certificate table entry", () => {
    const parsed = parsePe(image);
    const before = toHex(measurePe(parsed, "sha256"));
    const free = (at: number): boolean =>
      (at >= parsed.checksumOffset && at < parsed.checksumOffset + 4) ||
      (at >= parsed.certificateEntryOffset && at < parsed.certificateEntryOffset + 8);
    fc.assert(
      fc.property(fc.nat(image.length - 1), (at) => {
        const changed = image.slice();
        changed[at] = (changed[at] ?? 0) ^ 1;
        const error = thrown(() => expect(toHex(measurePe(parsePe(changed), "sha256")) === before).toBe(free(at)));
        expect(error === undefined || error instanceof AttestError).toBe(true);
      }),
      { numRuns: 500 },
    );
  });

  it("a section's content ends at its virtual size", () => {
    expect(readPeSection(parsePe(image), ".text")).toEqual(text("code"));
    expect(readPeSection(parsePe(image), ".none")).toBeNull();
    expect(() =>
      readPeSection(
        parsePe(
          peImage([
            [".a", text("1")],
            [".a", text("2")],
          ]),
        ),
        ".a",
      ),
    ).toThrow(/at most one/);
  });

  it("overlapping sections are refused", () => {
    const bytes = image.slice();
    const table = 64 + 24 + 112 + 128;
    new DataView(bytes.buffer).setUint32(table + 40 + 20, 512, true);
    expect(thrown(() => parsePe(bytes))).toMatchObject({ code: "ERR_PE_MALFORMED" });
  });

  it("I10: random and mutated bytes end in a typed error or parse", () => {
    const check = (bytes: Uint8Array): void => {
      const error = thrown(() => measurePe(parsePe(bytes), "sha256"));
      expect(error === undefined || error instanceof AttestError).toBe(true);
    };
    fc.assert(fc.property(fc.uint8Array({ maxLength: 600 }), check));
    fc.assert(
      fc.property(fc.nat(420), fc.nat(255), fc.nat(image.length), (at, value, length) => {
        const bytes = image.slice();
        bytes[at] = value;
        check(bytes);
        check(bytes.subarray(0, length));
      }),
      { numRuns: 1000 },
    );
  });
});

describe("predictBootPcrs", () => {
  const kernel = peImage([[".text", text("kernel")]]);
  const sections: [string, Uint8Array][] = [
    [".text", text("stub")],
    stubMagic(),
    [".osrel", text("ID=ironclaw\n")],
    [".cmdline", text("quiet lockdown=integrity")],
    [".uname", text("6.12")],
    [".linux", kernel],
    [".initrd", text("initrd")],
  ];
  const uki = peImage(sections);
  const hash = (bank: string, ...parts: (string | Uint8Array)[]): Buffer =>
    parts.reduce((state, item) => state.update(item), createHash(bank)).digest();
  const replay = (bank: string, digests: Uint8Array[]): string =>
    digests
      .reduce<Buffer>((pcr, digest) => hash(bank, pcr, digest), Buffer.alloc(bank === "sha256" ? 32 : 48))
      .toString("hex");

  it.each(["sha256", "sha384"] as const)("the %s values are those of a replay of the documented events", (bank) => {
    const got = predictBootPcrs({ uki })[bank];
    const wide = Buffer.from("quiet lockdown=integrity\0", "utf16le");
    const stub = [".linux", ".osrel", ".cmdline", ".initrd"].flatMap((name) => [
      hash(bank, `${name}\0`),
      hash(bank, sections.find(([own]) => own === name)?.[1] ?? ""),
    ]);
    expect(got).toEqual({
      4: replay(bank, [
        hash(bank, "Calling EFI Application from Boot Option"),
        hash(bank, Buffer.alloc(4)),
        measurePe(parsePe(uki), bank),
        measurePe(parsePe(kernel), bank),
      ]),
      9: replay(bank, [hash(bank, wide), hash(bank, "initrd")]),
      11: replay(bank, stub),
      12: replay(bank, []),
    });
    expect(got[12]).toMatch(/^0+$/);
  });

  it("the extends are in the order of the boot, and the values are their fold", () => {
    const boot = predictBootExtends({ uki });
    // Firmware's action, separator and image; the stub's sections; the kernel; its command line and initrd.
    expect(boot.map(({ pcr }) => pcr)).toEqual([4, 4, 4, ...Array(8).fill(11), 4, 9, 9]);
    expect(foldBootExtends(boot)).toEqual(predictBootPcrs({ uki }));
    expect(foldBootExtends([]).sha384[4]).toBe("00".repeat(48));
    const [first, second, ...rest] = boot;
    if (first === undefined || second === undefined) throw new Error("two extends");
    expect(foldBootExtends([second, first, ...rest]).sha256[4]).not.toBe(predictBootPcrs({ uki }).sha256[4]);
  });

  it("I2: a changed initrd changes PCRs 4, 9 and 11", () => {
    const other = predictBootPcrs({
      uki: peImage(sections.map(([name, content]) => [name, name === ".initrd" ? text("INITRD") : content])),
    });
    const same = predictBootPcrs({ uki });
    for (const pcr of [4, 9, 11] as const) expect(other.sha256[pcr]).not.toBe(same.sha256[pcr]);
  });

  it("an image without a command line is not predicted", () => {
    const incomplete = peImage(sections.filter(([name]) => name !== ".cmdline"));
    expect(thrown(() => predictBootPcrs({ uki: incomplete }))).toMatchObject({ code: "ERR_PCR_PREDICTION" });
  });
});
