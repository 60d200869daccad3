import { closeSync, openSync, readSync } from "node:fs";
import { readdir, stat } from "node:fs/promises";
import { join, relative } from "node:path";
import { parseEnrolment } from "../../attest/index.ts";
import {
  type Anchors,
  CABINET_SLOTS,
  type Cabinet,
  encodeBundle,
  openCabinet,
  parseAnchors,
  parseBundle,
  parseJson,
  parsePolicy,
  type SlotName,
  sha256Hex,
  utf8,
} from "../../policy/index.ts";
import { flat } from "../../seal/index.ts";
import { AgentError } from "../errors.ts";
import { reasonOf } from "../system-reason.ts";
import {
  type CheckedDocuments,
  checkDocuments,
  type DocumentSlot,
  isDocumentSlot,
  type ReleaseFacts,
  type SealedFacts,
} from "./cabinet-documents.ts";
import { UsageError } from "./command.ts";
import { readInput } from "./files.ts";

export const SLOTS = Object.keys(CABINET_SLOTS) as readonly SlotName[]; // the keys of a literal are exactly SlotName

/** What a slot is to hold: a document as it is, or all files of a directory as a bundle of guest paths. */
export async function readSlotContent(slot: Exclude<SlotName, DocumentSlot>, path: string): Promise<Uint8Array> {
  const isDirectory = (await stat(path).catch(() => null))?.isDirectory() ?? false;
  const bundled = slot === "module" || slot === "token";
  return isDirectory && bundled ? encodeBundle(await readTree(path, slot)) : readInput(path, slot);
}

/** Every regular file below a directory, under its path in the guest: `DIR/etc/x` is `/etc/x`. */
export async function readTree(directory: string, what: string): Promise<[path: string, content: Uint8Array][]> {
  const entries = await readdir(directory, { withFileTypes: true, recursive: true }).catch((cause: unknown) => {
    const fields = { expected: "a directory", got: reasonOf(cause), cause };
    throw new AgentError("ERR_ENVIRONMENT", `${what} ${directory}`, fields);
  });
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  return Promise.all(
    files.map(async (file) => [`/${relative(directory, file)}`, await readInput(file, what)] as [string, Uint8Array]),
  );
}

/** `machine.json`: a name that the machine may claim, and that widens nothing. @throws UsageError */
export function machineDocument(name: string): Uint8Array {
  if (/^[\w.-]{1,64}$/.test(name)) return utf8(`${JSON.stringify({ name })}\n`);
  throw new UsageError("--name", { expected: "1 to 64 letters, digits, dots, dashes and underscores", got: name });
}

/** Reads a document as the launch will. @throws IronclawError of the document's own reader */
export function checkSlot(slot: Exclude<SlotName, DocumentSlot>, bytes: Uint8Array): void {
  switch (slot) {
    case "module":
    case "token":
      parseBundle(bytes);
      return;
    case "policy":
      parsePolicy(bytes);
      return;
    case "anchors":
      parseAnchors(bytes);
      return;
    case "machine":
      parseJson(bytes, "machine", { maxBytes: CABINET_SLOTS.machine, maxDepth: 4 });
      return;
    case "enrolment":
      parseEnrolment(bytes);
      return;
  }
}

export interface SlotFacts {
  readonly slot: SlotName;
  readonly bytes: number;
  /** null: the slot is empty. */
  readonly sha256: string | null;
  /** The signed documents in the slots `release` and `sealed`. */
  readonly documents?: readonly ReleaseFacts[] | readonly SealedFacts[];
}

export interface CabinetFacts {
  readonly slots: readonly SlotFacts[];
  readonly warnings: readonly string[];
}

/** The anchors under which a cabinet's documents are checked. @throws AgentError ERR_CONFIG_INVALID without any */
export function anchorsOf(contents: ReadonlyMap<SlotName, Uint8Array>): Anchors {
  const bytes = contents.get("anchors");
  if (bytes !== undefined) return parseAnchors(bytes);
  throw new AgentError("ERR_CONFIG_INVALID", "cabinet slot anchors", {
    expected: "trust anchors",
    got: "an empty slot",
  });
}

/** Checks the documents against each other, and says what is there. */
export async function checkContents(contents: ReadonlyMap<SlotName, Uint8Array>): Promise<CabinetFacts> {
  for (const [slot, bytes] of contents) if (!isDocumentSlot(slot)) checkSlot(slot, bytes);
  const { warnings, ...documents } = await checkSigned(contents);
  const slots = SLOTS.map((slot): SlotFacts => {
    const bytes = contents.get(slot);
    const size = { slot, bytes: bytes?.length ?? 0, sha256: bytes === undefined ? null : sha256Hex(bytes) };
    return isDocumentSlot(slot) ? { ...size, documents: documents[slot] } : size;
  });
  return { slots, warnings };
}

async function checkSigned(contents: ReadonlyMap<SlotName, Uint8Array>): Promise<CheckedDocuments> {
  const [release, sealed] = [contents.get("release"), contents.get("sealed")];
  if (release === undefined && sealed === undefined) return { release: [], sealed: [], warnings: [] };
  const slots = { ...(release === undefined ? {} : { release }), ...(sealed === undefined ? {} : { sealed }) };
  return checkDocuments(slots, anchorsOf(contents), contents.get("policy"), new Date());
}

export function renderCabinet({ slots, warnings }: CabinetFacts): string {
  const lines = slots.flatMap(({ slot, bytes, sha256, documents = [] }) => [
    `${slot.padEnd(10)} ${`${bytes}`.padStart(9)}  ${sha256 ?? "-"}`,
    ...documents.map(
      (document) => `  ${document.file}  ${"kind" in document ? sealedLine(document) : releaseLine(document)}`,
    ),
  ]);
  return [...lines, ...warnings.map((warning) => `warning: ${flat(warning)}`)].join("\n");
}

function releaseLine({ name, epoch, raise, notBefore, notAfter, now }: ReleaseFacts): string {
  const words = { valid: "valid now", "not-yet-valid": "not yet valid", expired: "expired" } as const;
  return `${flat(name)}, epoch ${epoch}${raise ? ", ends lower ones" : ""}, ${notBefore} to ${notAfter} (${words[now]})`;
}

function sealedLine({ name, kind, generation, notAfter, tokenSerial }: SealedFacts): string {
  const token = tokenSerial === null ? "" : ` of token ${tokenSerial}`;
  return `${name}, ${kind}${token}, generation ${generation}, ${notAfter === null ? "no end" : `until ${notAfter}`}`;
}

/** The filled slots of a cabinet image or partition. @throws AgentError ERR_ENVIRONMENT; PolicyError for a damaged one */
export function readCabinet(path: string): Map<SlotName, Uint8Array> {
  return withFile(path, (read) => {
    const cabinet: Cabinet = openCabinet(read);
    const contents = new Map<SlotName, Uint8Array>();
    for (const name of SLOTS) {
      const slot = cabinet.slot(name);
      if (slot !== null) contents.set(name, slot.bytes);
    }
    return contents;
  });
}

export interface OpenedCabinet {
  readonly cabinet: Cabinet;
  readonly read: (offset: number, length: number) => Uint8Array;
}

/** @throws AgentError ERR_ENVIRONMENT; PolicyError for a damaged header */
export function openCabinetFile<T>(path: string, use: (opened: OpenedCabinet) => T): T {
  return withFile(path, (read) => use({ cabinet: openCabinet(read), read }));
}

function withFile<T>(path: string, use: (read: (offset: number, length: number) => Uint8Array) => T): T {
  let fd: number | undefined;
  try {
    const opened = openSync(path, "r");
    fd = opened;
    return use((offset, length) => {
      const bytes = new Uint8Array(length);
      return bytes.subarray(0, readSync(opened, bytes, 0, length, offset));
    });
  } catch (cause) {
    throw cabinetFailure(path, cause);
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}

/** What the system has against a cabinet, as AgentError ERR_ENVIRONMENT; anything else as it is. */
function cabinetFailure(path: string, cause: unknown): unknown {
  if (!(cause instanceof Error && "syscall" in cause)) return cause;
  const fields = { expected: "a readable file", got: reasonOf(cause), cause };
  return new AgentError("ERR_ENVIRONMENT", `cabinet ${path}`, fields);
}
