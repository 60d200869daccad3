import { statSync } from "node:fs";
import type { Cabinet, SlotName } from "../../policy/index.ts";
import { readBuiltImage } from "../../vm-images/built-image.ts";
import { AgentError } from "../errors.ts";
import { checkCabinet } from "./cabinet-checks.ts";
import { type CabinetFinding, ok, refusal, wrong } from "./cabinet-finding.ts";
import { openCabinetFile, readCabinet, SLOTS } from "./cabinet-slots.ts";
import { readCertificate } from "./certificate-files.ts";
import type { Command } from "./command.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const command: Command = {
  summary:
    "check all of a cabinet offline: layout, digests, signatures, dates, module against policy, policy against release",
  positionals: ["CABINET"],
  options: {
    image: {
      type: "string",
      value: "DIR",
      help: "also: does a release here predict this image, and the module fit it",
    },
    "ek-certificate": { type: "string", value: "FILE", help: "also: is everything sealed to this TPM (DER or PEM)" },
    before: { type: "string", value: "CABINET", help: "also: does any generation or epoch go back behind this one" },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw cabinet verify cabinet.img",
    "ironclaw cabinet verify cabinet.img --image build/image/demo --ek-certificate vm-1/tpm/ek.der --before old.img",
  ],
  run: async (input, io) => {
    const file = input.positional(0);
    const [image, certificate, before] = [
      input.optional("image"),
      input.optional("ek-certificate"),
      input.optional("before"),
    ];
    const references = {
      now: new Date(),
      image: image === undefined ? null : await readBuiltImage(image),
      ekCertificate: certificate === undefined ? null : await readCertificate(certificate, "EK certificate"),
      before: before === undefined ? null : readCabinet(before),
    };
    const { contents, findings: read } = readSlots(file);
    const findings = [...read, ...(contents === null ? [] : await checkCabinet(contents, references))];
    const sound = findings.every(({ level }) => level !== "fail");
    answer(input, io, { file, ok: sound, findings }, findings.map(render).join("\n"));
    return sound ? 0 : 3;
  },
};

interface ReadSlots {
  /** null: the header itself is damaged, or the file is no cabinet. */
  readonly contents: ReadonlyMap<SlotName, Uint8Array> | null;
  readonly findings: readonly CabinetFinding[];
}

const WRITE_AGAIN = "write it again: `cabinet new`";

/** Every slot by itself, so that a damaged one hides no other. */
function readSlots(file: string): ReadSlots {
  try {
    return openCabinetFile(file, ({ cabinet, read }) => {
      const contents = new Map<SlotName, Uint8Array>();
      const damaged = SLOTS.flatMap((name) => readSlot(cabinet, name, contents));
      return { contents, findings: [ok("layout", "header", "sound"), ...sizeOf(file, cabinet.end, read), ...damaged] };
    });
  } catch (error) {
    if (error instanceof AgentError) throw error; // no such file
    return { contents: null, findings: [refusal("layout", "header", WRITE_AGAIN, error)] };
  }
}

function readSlot(cabinet: Cabinet, name: SlotName, contents: Map<SlotName, Uint8Array>): readonly CabinetFinding[] {
  try {
    const slot = cabinet.slot(name);
    if (slot !== null) contents.set(name, slot.bytes);
    return [];
  } catch (error) {
    return [refusal("layout", `slot ${name}`, WRITE_AGAIN, error)];
  }
}

/** A disk may be longer than the cabinet on it; a file is as long as it, and what is cut off would be missed only when it is needed. */
function sizeOf(
  file: string,
  end: number,
  read: (offset: number, length: number) => Uint8Array,
): readonly CabinetFinding[] {
  const what = "length";
  if (read(end - 1, 1).length === 0)
    return [
      wrong("fail", "layout", what, {
        expected: `${end} bytes`,
        got: `${statSync(file).size}`,
        fix: "it was cut: copy it again",
      }),
    ];
  if (statSync(file).isFile() && statSync(file).size > end)
    return [
      wrong("warn", "layout", what, {
        expected: `${end} bytes`,
        got: `${statSync(file).size}`,
        fix: "nothing reads what is behind it",
      }),
    ];
  return [ok("layout", what, `${end} bytes`)];
}

function render({ level, what, got, expected, fix }: CabinetFinding): string {
  const compared = expected === undefined ? got : `expected ${expected}, got ${got}`;
  return `${level.padEnd(4)} ${what}: ${compared}${fix === undefined ? "" : `\n     fix: ${fix}`}`;
}
