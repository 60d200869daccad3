import { randomBytes } from "node:crypto";
import {
  AttestError,
  defaultQuotePcrs,
  type ExportedEvidence,
  exportEvidence,
  parseEvidence,
  type Reason,
} from "../../attest/index.ts";
import { sha256Hex, toHex } from "../../policy/index.ts";
import { type Command, type CommandInput, UsageError } from "./command.ts";
import { writeDirectory } from "./directories.ts";
import { readInput, writeOutput } from "./files.ts";
import { openMachine } from "./machine-ports.ts";
import { answer, JSON_OPTION } from "./output.ts";

export const NONCE_BYTES = 32;

export const command: Command = {
  summary: "ask a running machine for a report, or take one apart for other tools",
  positionals: [],
  options: {
    machine: { type: "string", value: "DIR", help: "the running machine's directory of port sockets" },
    from: { type: "string", value: "FILE", help: "a report that is there already, instead of a machine" },
    nonce: {
      type: "string",
      value: "HEX",
      help: "32 fresh random bytes of the verifier (default: made here and printed; with --from: the report's own)",
    },
    bank: { type: "string", value: "NAME", help: "sha256 (default) or sha384" },
    out: { type: "string", value: "FILE", help: "the report" },
    export: {
      type: "string",
      value: "DIR",
      help: "its parts as files that tpm2_checkquote and other tools take; a new or empty directory",
    },
    json: JSON_OPTION,
  },
  examples: [
    "ironclaw report --machine /tmp/ironclaw-dev-x1/vm --nonce $(openssl rand -hex 32) --out report.cbor",
    "ironclaw report --machine /tmp/ironclaw-dev-x1/vm --export report",
    "ironclaw report --from report.cbor --export report",
  ],
  run: async (input, io) => {
    const source = sourceOf(input);
    const { out, directory } = outputsOf(input, source);
    if (source.kind === "machine") io.phase("waiting for the machine's report");
    const report = source.kind === "file" ? await readInput(source.file, "report") : await ask(source);
    if (out !== undefined) await writeOutput(out, report);
    const exported = directory === undefined ? null : { directory, ...(await exportReport(report, source, directory)) };
    answer(input, io, factsOf(source, report, out, exported), sentenceOf(source, report, out, exported));
    refuseMalformed(exported?.malformed ?? []);
    return 0;
  },
};

type Exported = ExportedEvidence & { readonly directory: string };

function factsOf(source: Source, report: Uint8Array, out: string | undefined, exported: Exported | null): object {
  const asked = source.kind === "file" ? {} : { bank: source.bank, nonce: toHex(source.nonce) };
  const kept = out === undefined ? {} : { file: out };
  const { directory, files, malformed } = exported ?? {};
  const parts = files === undefined ? {} : { directory, files: [...files.keys()], malformed };
  return { ...asked, ...kept, bytes: report.length, sha256: sha256Hex(report), ...parts };
}

function sentenceOf(source: Source, report: Uint8Array, out: string | undefined, exported: Exported | null): string {
  return [
    ...(source.kind === "machine" && source.made ? [`nonce ${toHex(source.nonce)}`] : []),
    ...(out === undefined ? [] : [`report of ${report.length} bytes: ${out}, sha256 ${sha256Hex(report)}`]),
    ...(exported === null ? [] : [`${exported.files.size} files: ${exported.directory}, see README.txt there`]),
  ].join("\n");
}

type Source =
  | {
      readonly kind: "machine";
      readonly directory: string;
      readonly bank: "sha256" | "sha384";
      readonly nonce: Uint8Array;
      /** Nobody gave a nonce. */
      readonly made: boolean;
    }
  | { readonly kind: "file"; readonly file: string; readonly nonce: Uint8Array | null };

/** A machine to ask or a report to read; never both. */
function sourceOf(input: CommandInput): Source {
  const file = input.optional("from");
  if (file === undefined) return machineOf(input);
  for (const option of ["machine", "bank", "out"]) {
    if (input.optional(option) !== undefined)
      throw new UsageError(`--${option}`, { expected: "it without --from", got: "both" });
  }
  return { kind: "file", file, nonce: nonceOf(input) };
}

function machineOf(input: CommandInput): Source {
  const directory = input.optional("machine");
  if (directory === undefined)
    throw new UsageError("--machine DIR", { expected: "a value, or one of --from", got: "none" });
  const nonce = nonceOf(input);
  const bank = input.choice("bank", ["sha256", "sha384"]);
  return { kind: "machine", directory, bank, nonce: nonce ?? randomBytes(NONCE_BYTES), made: nonce === null };
}

function nonceOf(input: CommandInput): Uint8Array | null {
  return input.optional("nonce") === undefined ? null : input.hex("nonce", NONCE_BYTES);
}

/** Where the report and its parts go: one of the two at least. */
function outputsOf(input: CommandInput, { kind }: Source): Record<"out" | "directory", string | undefined> {
  const [out, directory] = [input.optional("out"), input.optional("export")];
  if (out !== undefined || directory !== undefined) return { out, directory };
  const expected = kind === "file" ? "a value" : "a value, or one of --out";
  throw new UsageError("--export DIR", { expected, got: "none" });
}

async function ask({ directory, nonce, bank }: Source & { kind: "machine" }): Promise<Uint8Array> {
  const control = await openMachine(directory);
  try {
    return await control.challenge({ nonce, bank, pcrs: defaultQuotePcrs });
  } finally {
    control.close();
  }
}

async function exportReport(report: Uint8Array, { nonce }: Source, directory: string): Promise<ExportedEvidence> {
  const exported = exportEvidence(parseEvidence(report), nonce);
  await writeDirectory(directory, exported.files);
  return exported;
}

/** What could be read of the report is written by now; the exit code says that not all could be. */
function refuseMalformed(malformed: readonly Reason[]): void {
  if (malformed.length === 0) return;
  throw new AttestError("ERR_EVIDENCE_MALFORMED", "report", {
    expected: "well-formed sections",
    got: malformed.map(({ item }) => item).join(", "),
    hint: "the malformed sections were exported as their bytes alone",
  });
}
