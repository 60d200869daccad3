import { CPU_LEVELS, parseLibraryCache } from "../../../attest/library-cache.ts";

export function run(bytes: Uint8Array): void {
  const cache = parseLibraryCache(bytes);
  for (const cpu of CPU_LEVELS) cache.find("libc.so.6", "x86_64", cpu);
}
