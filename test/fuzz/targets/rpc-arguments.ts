import { ArgumentReader } from "../../../agent/p11kit/codec.ts";

const readers: readonly ((reader: ArgumentReader) => void)[] = [
  (reader) => void reader.byteArray("data"),
  (reader) => void reader.attributes(),
  (reader) => void reader.attributeQueries(),
  (reader) => void reader.mechanismAndKey(),
  (reader) => {
    reader.byte("byte");
    reader.ulong("ulong");
    reader.room("room");
  },
];

/** The first byte says which arguments follow, the second the protocol version. */
export function run(bytes: Uint8Array): void {
  const reader = new ArgumentReader(bytes.slice(2), (bytes[1] ?? 0) % 3);
  readers[(bytes[0] ?? 0) % readers.length]?.(reader);
  reader.end();
}
