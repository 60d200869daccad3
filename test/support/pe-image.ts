/** The section in which a stub of systemd says its version: without one, nothing is predicted. */
export const stubMagic = (version = "252.39-1~deb12u2"): [name: string, content: Uint8Array] => [
  ".sdmagic",
  new TextEncoder().encode(`#### LoaderInfo: systemd-stub ${version} ####\0`),
];

/** A minimal PE32+ EFI application with the given sections, each padded to 512 bytes in the file. Nothing to run. */
export function peImage(
  sections: readonly (readonly [name: string, content: Uint8Array])[],
  trailing: Uint8Array = new Uint8Array(0),
): Uint8Array {
  const align = (value: number, to: number): number => Math.ceil(value / to) * to;
  const optionalAt = 64 + 24;
  const optionalSize = 112 + 16 * 8;
  const headersSize = align(optionalAt + optionalSize + 40 * sections.length, 512);
  const rawSizes = sections.map(([, content]) => align(content.length, 512));
  const end = headersSize + rawSizes.reduce((sum, size) => sum + size, 0);
  const bytes = new Uint8Array(end + trailing.length);
  const view = new DataView(bytes.buffer);
  bytes.set([0x4d, 0x5a]);
  view.setUint32(60, 64, true);
  bytes.set([0x50, 0x45, 0, 0], 64);
  view.setUint16(68, 0x8664, true);
  view.setUint16(70, sections.length, true);
  view.setUint16(84, optionalSize, true);
  view.setUint16(86, 0x22e, true);
  view.setUint16(optionalAt, 0x20b, true);
  view.setUint32(optionalAt + 32, 4096, true); // SectionAlignment
  view.setUint32(optionalAt + 36, 512, true); // FileAlignment
  view.setUint32(optionalAt + 60, headersSize, true);
  view.setUint32(optionalAt + 64, 0x12345678, true); // CheckSum, not hashed
  view.setUint16(optionalAt + 68, 10, true); // Subsystem: EFI application
  view.setUint32(optionalAt + 108, 16, true);
  let raw = headersSize;
  let address = 4096;
  sections.forEach(([name, content], index) => {
    const at = optionalAt + optionalSize + 40 * index;
    bytes.set(new TextEncoder().encode(name), at);
    view.setUint32(at + 8, content.length, true);
    view.setUint32(at + 12, address, true);
    view.setUint32(at + 16, rawSizes[index] ?? 0, true);
    view.setUint32(at + 20, raw, true);
    bytes.set(content, raw);
    raw += rawSizes[index] ?? 0;
    address += align(Math.max(content.length, 1), 4096);
  });
  view.setUint32(optionalAt + 56, address, true); // SizeOfImage
  bytes.set(trailing, end);
  return bytes;
}
