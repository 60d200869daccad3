/** An entry of an ld.so.cache. `variant`: the subdirectory of `glibc-hwcaps` that it stands in. */
export interface CachedLibrary {
  readonly name: string;
  readonly path: string;
  readonly variant?: string;
  readonly flags?: number;
  readonly hwcap?: bigint;
}

/** The file that ldconfig would write for these, in their order. */
export function libraryCache(libraries: readonly CachedLibrary[]): Uint8Array {
  const variants = [...new Set(libraries.flatMap(({ variant }) => variant ?? []))];
  const stringsAt = 48 + 24 * libraries.length;
  const strings: number[] = [];
  const intern = (text: string): number => {
    const at = stringsAt + strings.length;
    strings.push(...new TextEncoder().encode(text), 0);
    return at;
  };
  const entries = libraries.map(({ name, path, variant, flags = 0x0303, hwcap }) => ({
    ...{ flags, key: intern(name), value: intern(path) },
    hwcap: hwcap ?? (variant === undefined ? 0n : (1n << 62n) | BigInt(variants.indexOf(variant))),
  }));
  const names = variants.map(intern);
  while (strings.length % 4 !== 0) strings.push(0);
  const extensionAt = stringsAt + strings.length;
  const extension = variants.length === 0 ? 0 : 8 + 16 + 4 * names.length;
  const bytes = new Uint8Array(extensionAt + extension);
  const view = new DataView(bytes.buffer);
  bytes.set(new TextEncoder().encode("glibc-ld.so.cache1.1"));
  view.setUint32(20, libraries.length, true);
  view.setUint32(24, strings.length, true);
  bytes[28] = 2;
  view.setUint32(32, extension === 0 ? 0 : extensionAt, true);
  entries.forEach(({ flags, key, value, hwcap }, index) => {
    const at = 48 + 24 * index;
    for (const [offset, number] of [flags, key, value].entries()) view.setUint32(at + 4 * offset, number, true);
    view.setBigUint64(at + 16, hwcap, true);
  });
  bytes.set(strings, stringsAt);
  if (extension > 0) {
    const words = [0xeaa42174, 1, 1, 0, extensionAt + 24, 4 * names.length, ...names];
    for (const [index, word] of words.entries()) view.setUint32(extensionAt + 4 * index, word, true);
  }
  return bytes;
}
