/** What `elfImage` puts into its dynamic section and program headers. */
export interface ElfImageOptions {
  readonly soname?: string;
  readonly needed?: readonly string[];
  readonly rpath?: string;
  readonly runpath?: string;
  readonly flags1?: number;
  readonly interpreter?: string;
  /** Further dynamic entries whose value is an empty-looking name. */
  readonly tags?: readonly number[];
  readonly machine?: number;
  /** p_flags of a PT_GNU_STACK; without, there is none. */
  readonly stack?: number;
  /** p_flags of the PT_LOAD. */
  readonly loadFlags?: number;
  /** DT_FLAGS. */
  readonly flags?: number;
  /** Further names in the string table. */
  readonly strings?: readonly string[];
}

/** A minimal x86_64 shared object with one PT_LOAD segment: enough for a parser, nothing to run. */
export function elfImage(options: ElfImageOptions = {}): Uint8Array {
  const strings: number[] = [0];
  const intern = (text: string): bigint => {
    const at = strings.length;
    strings.push(...new TextEncoder().encode(text), 0);
    return BigInt(at);
  };
  const entries: [tag: bigint, value: bigint][] = (options.needed ?? []).map((name) => [1n, intern(name)]);
  if (options.soname !== undefined) entries.push([14n, intern(options.soname)]);
  if (options.rpath !== undefined) entries.push([15n, intern(options.rpath)]);
  if (options.runpath !== undefined) entries.push([29n, intern(options.runpath)]);
  if (options.flags !== undefined) entries.push([30n, BigInt(options.flags)]);
  for (const name of options.strings ?? []) intern(name);
  if (options.flags1 !== undefined) entries.push([0x6ffffffbn, BigInt(options.flags1)]);
  for (const tag of options.tags ?? []) entries.push([BigInt(tag), intern("x")]);
  const interpreterAt = options.interpreter === undefined ? -1 : Number(intern(options.interpreter));

  const segmentCount = 2 + (interpreterAt < 0 ? 0 : 1) + (options.stack === undefined ? 0 : 1);
  const dynamicAt = 64 + 56 * segmentCount;
  const dynamicSize = 16 * (entries.length + 3);
  const stringsAt = dynamicAt + dynamicSize;
  const size = stringsAt + strings.length;
  const bytes = new Uint8Array(size);
  const view = new DataView(bytes.buffer);
  bytes.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  view.setUint16(16, 3, true);
  view.setUint16(18, options.machine ?? 62, true);
  view.setUint32(20, 1, true);
  view.setBigUint64(32, 64n, true);
  view.setUint16(52, 64, true);
  view.setUint16(54, 56, true);
  view.setUint16(56, segmentCount, true);
  const segment = (index: number, type: number, at: number, length: number, flags = 0): void => {
    const header = 64 + 56 * index;
    view.setUint32(header, type, true);
    view.setUint32(header + 4, flags, true);
    for (const [field, value] of [
      [8, at],
      [16, at],
      [24, at],
      [32, length],
      [40, length],
    ] as const) {
      view.setBigUint64(header + field, BigInt(value), true);
    }
  };
  segment(0, 1, 0, size, options.loadFlags ?? 0);
  segment(1, 2, dynamicAt, dynamicSize);
  if (interpreterAt >= 0) segment(2, 3, stringsAt + interpreterAt, (options.interpreter ?? "").length + 1);
  if (options.stack !== undefined) segment(segmentCount - 1, 0x6474e551, 0, 0, options.stack);
  entries.push([5n, BigInt(stringsAt)], [10n, BigInt(strings.length)], [0n, 0n]);
  entries.forEach(([tag, value], index) => {
    view.setBigUint64(dynamicAt + 16 * index, tag, true);
    view.setBigUint64(dynamicAt + 16 * index + 8, value, true);
  });
  bytes.set(strings, stringsAt);
  return bytes;
}
