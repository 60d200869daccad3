import { type HostItem, unknownPart } from "./configuration.ts";
import { keyed } from "./qemu-keys.ts";
import { type OptionKeys, readSwitch } from "./words.ts";

/** What the guest's random numbers come from; a file that somebody writes is no such place. */
const RANDOM = /^\/dev\/(?:u?random|hwrng)$/;

export const readObject = keyed(
  "qom-type",
  "qom-type id filename size share mem-path prealloc prealloc-threads prealloc-context host-nodes host-nodes.* policy merge dump hugetlb hugetlbsize align readonly discard-data reserve seal x-use-canonical-path-for-ramblock-id poll-max-ns poll-grow poll-shrink aio-max-batch thread-pool-min thread-pool-max data file format keyid iv",
  (keys, what) => {
    const type = keys.get("qom-type") ?? "";
    switch (type) {
      case "rng-builtin":
      case "iothread":
      case "secret":
        return [];
      case "rng-random":
        return RANDOM.test(keys.get("filename") ?? "/dev/urandom") ? [] : [unknownPart(what, "filename")];
      case "memory-backend-ram":
      case "memory-backend-file":
        return memoryItems(keys, what, "off");
      case "memory-backend-memfd":
        return memoryItems(keys, what, "on");
      default:
        return [unknownPart(what, type)];
    }
  },
);

/** @param shared what QEMU does where the text does not say it */
function memoryItems(keys: OptionKeys, what: string, shared: "on" | "off"): readonly HostItem[] {
  const isOff = (key: string, otherwise: string) => readSwitch(keys.get(key) ?? otherwise) === false;
  return [
    ...(isOff("share", shared) ? [] : [{ kind: "shared-memory", what } as const]),
    ...(isOff("hugetlb", "off") && !keys.has("mem-path") ? [] : [{ kind: "hugepages", what } as const]),
    ...(isOff("merge", "off") ? [] : [{ kind: "memory-merge", what } as const]),
  ];
}
