export function run(bytes: Uint8Array): void {
  let offset = 0;
  // The classic: a length of zero makes no progress.
  while (offset < bytes.length) offset += (bytes[offset] ?? 0) === 0x40 ? 0 : 1;
}
