// A reader of OVMF's variable store, written for the tests.

const HEADER = 60;
const ADDED = 0x3f;

export interface ReadVariable {
  readonly name: string;
  readonly attributes: number;
  /** Where it lies in the store. */
  readonly data: Buffer;
  /** It was neither deleted nor replaced. */
  readonly isValid: boolean;
}

export const storeStart = (store: Uint8Array): number => bufferOf(store).readUInt16LE(48) + 28;

/** Where the next variable would begin. */
export function storeEnd(store: Uint8Array): number {
  return walk(store).end;
}

export function storedVariables(store: Uint8Array): readonly ReadVariable[] {
  return walk(store).found;
}

function walk(store: Uint8Array): { found: readonly ReadVariable[]; end: number } {
  const bytes = bufferOf(store);
  const found: ReadVariable[] = [];
  let at = storeStart(store);
  while (bytes.readUInt16LE(at) === 0x55aa) {
    const [nameSize, dataSize] = [bytes.readUInt32LE(at + 36), bytes.readUInt32LE(at + 40)];
    const name = bytes.toString("utf16le", at + HEADER, at + HEADER + nameSize - 2);
    const data = bytes.subarray(at + HEADER + nameSize, at + HEADER + nameSize + dataSize);
    found.push({ name, data, attributes: bytes.readUInt32LE(at + 4), isValid: bytes[at + 2] === ADDED });
    at = (at + HEADER + nameSize + dataSize + 3) & ~3;
  }
  return { found, end: at };
}

const bufferOf = ({ buffer, byteOffset, length }: Uint8Array): Buffer => Buffer.from(buffer, byteOffset, length);
