import { hash } from "node:crypto";
import { closeSync, createReadStream, openSync, writeSync } from "node:fs";
import { createInterface } from "node:readline";

// A file of lines: `? scope sha256:...` before the agent is asked for an operation over these bytes, `= scope sha256:...` once it has given the
// result. The digest is the one that the audit log has (AUDIT.md, inputDigest).

/** Written by the workloads. */
export class Ledger implements Disposable {
  readonly #fd: number;

  constructor(path: string) {
    this.#fd = openSync(path, "ax");
  }

  asked(scope: string, input: Uint8Array): void {
    this.#write("?", scope, input);
  }
  acknowledged(scope: string, input: Uint8Array): void {
    this.#write("=", scope, input);
  }

  #write(what: string, scope: string, input: Uint8Array): void {
    writeSync(this.#fd, `${what} ${scope} sha256:${hash("sha256", input, "hex")}\n`);
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }
}

export interface Entry {
  asked: number;
  acknowledged: number;
}

/** What was asked and acknowledged, by scope and digest with a space between. */
export async function readLedger(path: string): Promise<Map<string, Entry>> {
  const entries = new Map<string, Entry>();
  for await (const line of createInterface({ input: createReadStream(path) })) {
    const key = line.slice(2);
    const entry = entries.get(key) ?? { asked: 0, acknowledged: 0 };
    if (line.startsWith("?")) entry.asked += 1;
    else entry.acknowledged += 1;
    entries.set(key, entry);
  }
  return entries;
}
