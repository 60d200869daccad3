// Runs in the guest, as root, under the image's own Node: becomes another user and tries to open what it is told to.
import { openSync, readdirSync, readFileSync, statSync } from "node:fs";

export interface OpenOrder {
  readonly uid: number;
  readonly paths: readonly string[];
}

/** Path to `open`, or the error's code. */
export type OpenResult = Readonly<Record<string, string>>;

function attempt(path: string): string {
  try {
    if (statSync(path).isDirectory()) readdirSync(path);
    else openSync(path, "r");
    return "open";
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? "unknown";
  }
}

const { uid, paths }: OpenOrder = JSON.parse(readFileSync(0, "utf8"));
process.setgroups?.([]);
process.setgid?.(uid);
process.setuid?.(uid);
process.stdout.write(JSON.stringify(Object.fromEntries(paths.map((path) => [path, attempt(path)]))));
