import * as z from "zod";
import {
  ByteReader,
  ByteWriter,
  CREDENTIAL_NAME,
  concatBytes,
  encodeCanonicalJson,
  equalBytes,
  fromBase64,
  parseCanonicalJson,
  sha256,
  toBase64,
  utf8,
} from "../policy/index.ts";
import { SealError } from "./errors.ts";

// FORMATS.md, section 9.

const MAGIC = utf8("IRONSTOR");
const VERSION = 1;
export const STORE_SLOT_BYTES = 512 * 1024;
export const STORE_BYTES = 2 * STORE_SLOT_BYTES;
const HEADER = 56;
const CHECKED = 24;
/** Where the spawner notes that the agent is lost: behind the content of the first slot. See lost-record.ts. */
export const LOST_RECORD_OFFSET = STORE_SLOT_BYTES - 4096;
const MAX_CONTENT = LOST_RECORD_OFFSET - HEADER;

const base64 = z.string().max(STORE_SLOT_BYTES);
const contentSchema = z
  .strictObject({
    ekName: z
      .string()
      .regex(/^(?:[0-9a-f]{68}|[0-9a-f]{100})$/)
      .nullable(),
    entries: z.array(
      z.strictObject({
        name: z.string().regex(CREDENTIAL_NAME),
        generation: z.int().min(1).max(0xffff_ffff),
        state: z.enum(["served", "pending"]),
        package: base64,
        imported: base64.nullable(),
      }),
    ),
    /** Left out when there are none, so that a store without them reads as before. */
    recoveries: z.int().min(1).max(255).optional(),
  })
  .refine(
    ({ entries }) =>
      entries.every((entry, index) => {
        const before = entries[index - 1];
        return (
          before === undefined ||
          before.name < entry.name ||
          (before.name === entry.name && before.generation < entry.generation && before.state !== entry.state)
        );
      }),
    { path: ["entries"], message: "expected entries by name, then generation, each once, at most one of each state" },
  );

/** One package that the machine has kept. */
export interface StoreEntry {
  readonly name: string;
  readonly generation: number;
  /** `served`: a launch with it came to serve. `pending`: handed in by a reseal, not served yet. */
  readonly state: "served" | "pending";
  /** The envelope as it was handed in. */
  readonly package: Uint8Array;
  /** The private area on this TPM; null when it has to be imported again. */
  readonly imported: Uint8Array | null;
}

export interface StoreContent {
  /** Hexadecimal Name of the EK of the TPM on which this machine's counter was defined; null before that. */
  readonly ekName: string | null;
  readonly entries: readonly StoreEntry[];
  /** Lost logins that led to a reboot, and lost agents, since the machine last served for a good stretch. Absent and 0 are the same. */
  readonly recoveries?: number | undefined;
}

export const EMPTY_STORE: StoreContent = { ekName: null, entries: [] };

/**
 * Where a store lies: a file or a raw device of at least `STORE_BYTES`. Both methods act at once or throw; what was written is
 * only safe after `flush`.
 */
export interface StoreMedium {
  read(offset: number, length: number): Uint8Array;
  write(offset: number, bytes: Uint8Array): void;
  flush(): void;
}

/** A medium that forgets: for machines that keep nothing, and for trials. */
export function memoryMedium(bytes = new Uint8Array(STORE_BYTES)): StoreMedium {
  return {
    read: (offset, length) => bytes.slice(offset, offset + length),
    write: (offset, written) => bytes.set(written, offset),
    flush: () => undefined,
  };
}

/** What a store held when it was opened. `damaged`: no slot is valid although one was once; used as empty. */
export interface OpenedStore {
  readonly content: StoreContent;
  readonly damaged: boolean;
}

interface Slot {
  readonly index: 0 | 1;
  readonly sequence: bigint;
  readonly content: StoreContent;
}

/**
 * Two slots, of which the valid one with the higher sequence counts. A write goes to the other one, whole, and is flushed: a crash,
 * a full disk or a torn write at any byte leaves what was there. The first write fills both, the first slot first: so a first write
 * that was cut off, with the second slot still zero, is told from a store that was damaged.
 */
export class Store {
  readonly #medium: StoreMedium;
  #current: Slot | null;

  private constructor(medium: StoreMedium, current: Slot | null) {
    this.#medium = medium;
    this.#current = current;
  }

  /** @throws SealError ERR_STORE when the medium cannot be read or is too small */
  static open(medium: StoreMedium): { readonly store: Store; readonly opened: OpenedStore } {
    const [first, second] = [readSlot(medium, 0), readSlot(medium, 1)];
    const current = newer(asSlot(0, first), asSlot(1, second));
    const damaged = current === null && second.some((byte) => byte !== 0);
    return { store: new Store(medium, current), opened: { content: current?.content ?? EMPTY_STORE, damaged } };
  }

  get content(): StoreContent {
    return this.#current?.content ?? EMPTY_STORE;
  }

  /** @throws SealError ERR_STORE; what is read afterwards is the earlier content or this one, whole */
  write(content: StoreContent): void {
    const first = this.#current === null;
    this.#writeOther(content);
    if (first) this.#writeOther(content);
  }

  #writeOther(content: StoreContent): void {
    const index = this.#current?.index === 0 ? 1 : 0;
    const sequence = (this.#current?.sequence ?? 0n) + 1n;
    const bytes = encodeSlot(sequence, content);
    try {
      this.#medium.write(index * STORE_SLOT_BYTES, bytes);
      this.#medium.flush();
    } catch (cause) {
      throw unusable("written", cause);
    }
    this.#current = { index, sequence, content };
  }
}

/** @throws SealError ERR_STORE for content that does not fit or that no reader takes */
export function encodeSlot(sequence: bigint, content: StoreContent): Uint8Array {
  const body = encodeContent(content);
  if (body.length > MAX_CONTENT)
    throw new SealError("ERR_STORE", "store content", {
      expected: `at most ${MAX_CONTENT} bytes`,
      got: `${body.length}`,
    });
  const head = new ByteWriter().bytes(MAGIC).u32(VERSION).u64(sequence).u32(body.length).finish();
  return concatBytes(head, sha256(concatBytes(head, body)), body);
}

/** Null for bytes that are no valid slot. */
export function parseSlot(bytes: Uint8Array): { readonly sequence: bigint; readonly content: StoreContent } | null {
  try {
    const reader = new ByteReader(bytes, "store slot");
    if (!equalBytes(reader.bytes(8, "magic"), MAGIC) || reader.u32("version") !== VERSION) return null;
    const sequence = reader.u64("sequence");
    const length = reader.u32("length");
    if (length > MAX_CONTENT) return null;
    const digest = reader.bytes(32, "sha256");
    const body = reader.bytes(length, "content");
    if (!equalBytes(digest, sha256(concatBytes(bytes.subarray(0, CHECKED), body)))) return null;
    return { sequence, content: parseContent(body) };
  } catch {
    return null; // cut short, or a content that no agent wrote: not a slot either way
  }
}

function readSlot(medium: StoreMedium, index: 0 | 1): Uint8Array {
  try {
    return medium.read(index * STORE_SLOT_BYTES, STORE_SLOT_BYTES);
  } catch (cause) {
    throw unusable("read", cause);
  }
}

function asSlot(index: 0 | 1, bytes: Uint8Array): Slot | null {
  const slot = parseSlot(bytes);
  return slot === null ? null : { index, ...slot };
}

function newer(a: Slot | null, b: Slot | null): Slot | null {
  if (a === null || b === null) return a ?? b;
  return a.sequence > b.sequence ? a : b;
}

function encodeContent({ ekName, entries, recoveries = 0 }: StoreContent): Uint8Array {
  const document = {
    ekName,
    entries: entries.map(({ name, generation, state, package: envelope, imported }) => ({
      ...{ name, generation, state, package: toBase64(envelope) },
      imported: imported === null ? null : toBase64(imported),
    })),
    ...(recoveries === 0 ? {} : { recoveries }),
  };
  try {
    return encodeCanonicalJson(document, contentSchema, "ERR_ENVELOPE_MALFORMED", "store");
  } catch (cause) {
    throw new SealError("ERR_STORE", "store content", {
      expected: "what a reader takes",
      got: messageOf(cause),
      cause,
    });
  }
}

function parseContent(bytes: Uint8Array): StoreContent {
  const { ekName, entries, recoveries } = parseCanonicalJson(bytes, contentSchema, "ERR_ENVELOPE_MALFORMED", "store");
  return {
    ekName,
    entries: entries.map(({ name, generation, state, package: envelope, imported }) => ({
      ...{ name, generation, state, package: fromBase64(envelope, "package") },
      imported: imported === null ? null : fromBase64(imported, "imported"),
    })),
    ...(recoveries === undefined ? {} : { recoveries }),
  };
}

function messageOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}

function unusable(act: string, cause: unknown): SealError {
  const got = cause instanceof Error && "code" in cause ? String(cause.code) : "a failure";
  return new SealError("ERR_STORE", "store", { expected: `a medium that can be ${act}`, got, cause });
}
