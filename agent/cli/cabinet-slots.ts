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
  parseEnvelope,
  parseJson,
  parsePolicy,
  type SlotName,
  sha256Hex,
  utf8,
  verifyRelease,
} from "../../policy/index.ts";
import { verifySealedPackage } from "../../seal/index.ts";
import { AgentError } from "../errors.ts";
import { UsageError } from "./command.ts";
import { readInput, reasonOf } from "./files.ts";

export const SLOTS = Object.keys(CABINET_SLOTS) as readonly SlotName[]; // the keys of a literal are exactly SlotName

/** What a slot is to hold: a document as it is, or all files of a directory as a bundle of guest paths. */
export async function readSlotContent(slot: SlotName, path: string): Promise<Uint8Array> {
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

/**
 * Reads a slot's document as the launch will. Signatures are checked as far as `anchors` are given.
 * @throws IronclawError of the document's own reader
 */
export async function checkSlot(slot: SlotName, bytes: Uint8Array, anchors: Anchors | null): Promise<void> {
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
    case "release":
      if (anchors === null) parseEnvelope(bytes);
      else await verifyRelease(bytes, anchors.releaseRoot);
      return;
    case "sealed":
      if (anchors === null) parseEnvelope(bytes);
      else await verifySealedPackage(bytes, anchors);
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
}

/** Checks the documents against each other, anchors first, and says what is there. */
export async function checkContents(contents: ReadonlyMap<SlotName, Uint8Array>): Promise<readonly SlotFacts[]> {
  const anchorsBytes = contents.get("anchors");
  const anchors = anchorsBytes === undefined ? null : parseAnchors(anchorsBytes);
  for (const [slot, bytes] of contents) await checkSlot(slot, bytes, anchors);
  return SLOTS.map((slot) => {
    const bytes = contents.get(slot);
    return { slot, bytes: bytes?.length ?? 0, sha256: bytes === undefined ? null : sha256Hex(bytes) };
  });
}

export function renderSlots(facts: readonly SlotFacts[]): string {
  return facts
    .map(({ slot, bytes, sha256 }) => `${slot.padEnd(10)} ${`${bytes}`.padStart(9)}  ${sha256 ?? "-"}`)
    .join("\n");
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
    if (!(cause instanceof Error && "syscall" in cause)) throw cause;
    const fields = { expected: "a readable file", got: reasonOf(cause), cause };
    throw new AgentError("ERR_ENVIRONMENT", `cabinet ${path}`, fields);
  } finally {
    if (fd !== undefined) closeSync(fd);
  }
}
