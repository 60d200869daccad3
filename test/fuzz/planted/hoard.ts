export function run(bytes: Uint8Array): void {
  // A count that is believed before the bytes are there.
  if (bytes[0] === 0x7f) new Uint8Array(256 * 1024 * 1024).fill(bytes[1] ?? 0);
}
