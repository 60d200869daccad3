import { dirname } from "node:path";
import { type Acknowledged, type Call, isCall, type StoreRun } from "./store-run.ts";

/** What a power cut could take. */
class Unsynced {
  /** Files with bytes that no sync has covered, and directories with entries that none has. */
  readonly #paths = new Set<string>();
  readonly #known = new Set<string>();

  note({ name, path, from, refused = false }: Call): void {
    if (refused) return;
    switch (name) {
      case "create":
      case "mkdir":
      case "link":
        if (!this.#known.has(path)) this.#paths.add(dirname(path));
        this.#known.add(path);
        return;
      case "write":
      case "ftruncate":
        this.#paths.add(path);
        return;
      case "rename":
        this.#move(from ?? path, path);
        return;
      case "unlink":
        this.#paths.delete(path);
        return;
      case "fsync":
      case "fdatasync":
        this.#paths.delete(path);
        return;
      default:
    }
  }

  /** A directory takes with it what is in it. */
  #move(from: string, to: string): void {
    const inside = [...this.#paths].filter((path) => path === from || path.startsWith(`${from}/`));
    for (const path of inside) {
      this.#paths.delete(path);
      this.#paths.add(to + path.slice(from.length));
    }
    this.#paths.add(dirname(to));
  }

  get paths(): readonly string[] {
    return [...this.#paths];
  }
}

/** What was called durable before all of it was on the disk: the file or directory that a power cut could have taken it from. */
export function undurable({ directory, events }: StoreRun, scratch = /^$/): readonly string[] {
  const unsynced = new Unsynced();
  return events.flatMap((event) => {
    if (isCall(event)) {
      unsynced.note(event);
      return [];
    }
    return event.kept === "written" ? [] : tooEarly(event, unsynced, directory, scratch);
  });
}

function tooEarly({ what }: Acknowledged, { paths }: Unsynced, directory: string, scratch: RegExp): string[] {
  const lost = paths.filter((path) => !scratch.test(path));
  return lost.map((path) => `${what}: ${path.replace(directory, "") || "the directory itself"} is not synced`);
}
