import { concatBytes, utf8 } from "../policy/index.ts";
import { AttestError } from "./errors.ts";
import { type PeImage, readPeSection } from "./pe.ts";

// What systemd's stub makes of the unified kernel image that it is a part of, as far as PCRs show it (systemd-stub(7)). Every version here was
// compared with a boot. Nothing is predicted for another one: whoever seals to a wrong value learns of it from a PIN that stays sealed.

interface StubRules {
  /** Sections that it extends into PCR 11, in its own order, not the file's. */
  readonly measured: readonly string[];
  /** Sections that it hands to the kernel as files behind the initrd, which the kernel measures with it. */
  readonly files: readonly (readonly [section: string, file: string])[];
  /** Sections that it knows, and that change what is measured in ways that no boot was compared with. */
  readonly unpredicted: readonly string[];
  /** It strips the command line, and makes spaces of the control characters in it. */
  readonly tidiesCommandLine: boolean;
  /** Its boot with Secure Boot was compared, too: it vouches for the kernel then, which the firmware neither verifies nor measures. */
  readonly comparedWithSecureBoot: boolean;
}

const MEASURED_SINCE_252 = [".linux", ".osrel", ".cmdline", ".initrd", ".splash", ".dtb"];

const STUBS: Readonly<Record<string, StubRules>> = {
  // Debian 12, and our own images.
  252: {
    measured: MEASURED_SINCE_252,
    files: [],
    unpredicted: [".pcrsig", ".pcrpkey"],
    tidiesCommandLine: false,
    comparedWithSecureBoot: true,
  },
  // Debian 13.
  257: {
    measured: [...MEASURED_SINCE_252, ".uname", ".sbat"],
    files: [[".osrel", "os-release"]],
    unpredicted: [".ucode", ".pcrsig", ".pcrpkey", ".profile", ".dtbauto", ".hwids"],
    tidiesCommandLine: true,
    comparedWithSecureBoot: false,
  },
};

/** What the stub passes on, and what it extends on the way. */
export interface StubbedKernel {
  /** Into PCR 11: name and content of each section. */
  readonly measured: readonly (readonly [name: string, content: Uint8Array])[];
  readonly kernel: Uint8Array;
  readonly commandLine: Uint8Array;
  readonly initrd: Uint8Array;
}

/**
 * Look at a unified kernel image as the stub in it does.
 * @throws AttestError ERR_PE_MALFORMED, or ERR_PCR_PREDICTION for a stub or a section of which it is not known what it measures
 */
export function readStubbedKernel(image: PeImage, secureBoot = false): StubbedKernel {
  const rules = rulesOf(image, secureBoot);
  const other = image.sections.find(({ name }) => rules.unpredicted.includes(name));
  if (other !== undefined)
    throw new AttestError("ERR_PCR_PREDICTION", `section ${other.name}`, { expected: "absent", got: "present" });
  const section = (name: string) => requiredSection(image, name);
  const commandLine = section(".cmdline");
  return {
    measured: rules.measured.flatMap((name) => {
      const content = readPeSection(image, name);
      return content === null ? [] : [[name, content] as const];
    }),
    kernel: section(".linux"),
    commandLine: rules.tidiesCommandLine ? tidied(commandLine) : commandLine,
    initrd: joined([section(".initrd"), ...rules.files.map(([name, file]) => extraFile(file, section(name)))]),
  };
}

function rulesOf(image: PeImage, secureBoot: boolean): StubRules {
  const magic = String.fromCharCode(...(readPeSection(image, ".sdmagic")?.subarray(0, 64) ?? []));
  const version = /^#### LoaderInfo: systemd-stub (\d+)/.exec(magic)?.[1];
  const rules = version === undefined ? undefined : STUBS[version];
  if (rules !== undefined && (rules.comparedWithSecureBoot || !secureBoot)) return rules;
  const compared = Object.keys(STUBS).filter((each) => STUBS[each]?.comparedWithSecureBoot || !secureBoot);
  throw new AttestError("ERR_PCR_PREDICTION", secureBoot ? "systemd-stub with Secure Boot" : "systemd-stub", {
    expected: `version ${compared.join(" or ")}`,
    got: version ?? "no version",
  });
}

function requiredSection(image: PeImage, name: string): Uint8Array {
  const content = readPeSection(image, name);
  if (content !== null) return content;
  throw new AttestError("ERR_PCR_PREDICTION", `section ${name}`, { expected: "present", got: "absent" });
}

function tidied(text: Uint8Array): Uint8Array {
  const spaced = text.map((byte) => Math.max(byte, 0x20));
  const first = spaced.findIndex((byte) => byte !== 0x20);
  return first < 0 ? new Uint8Array() : spaced.slice(first, spaced.findLastIndex((byte) => byte !== 0x20) + 1);
}

/** A single part is passed on as it is; of several, each ends at a multiple of four. */
function joined(parts: readonly Uint8Array[]): Uint8Array {
  return parts.length === 1 ? concatBytes(...parts) : concatBytes(...parts.map(padded));
}

const padded = (bytes: Uint8Array): Uint8Array => concatBytes(bytes, new Uint8Array(-bytes.length & 3));

/** One file in `.extra`, byte for byte the archive that the stub writes: its trailer is a constant with other letters than its headers. */
function extraFile(name: string, content: Uint8Array): Uint8Array {
  const trailer = `07070100000000000000000000000000000000000000010000000000000000000000000000000000000000000000000000000B00000000TRAILER!!!\0\0\0\0`;
  return concatBytes(
    member(".extra", 1, 0o40555, new Uint8Array()),
    member(`.extra/${name}`, 2, 0o100444, content),
    utf8(trailer),
  );
}

/** Header and name, then the content, each padded ("newc", as the kernel unpacks it). */
function member(path: string, inode: number, mode: number, content: Uint8Array): Uint8Array {
  const links = 1;
  // Then times and size; the device's four numbers; the name's length with its end, and no checksum.
  const fields = [inode, mode, 0, 0, links, 0, content.length, 0, 0, 0, 0, path.length + 1, 0];
  const header = `070701${fields.map((field) => field.toString(16).padStart(8, "0")).join("")}${path}\0`;
  return concatBytes(padded(utf8(header)), padded(content));
}
