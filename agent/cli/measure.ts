import { readFileSync, realpathSync } from "node:fs";
import { resolve } from "node:path";
import { measureClosure } from "../../attest/index.ts";
import { AgentError } from "../errors.ts";
import type { Command } from "./command.ts";

export const command: Command = {
  summary: "pin a PKCS#11 library: the digests of it and of everything the loader opens for it; runs nothing",
  positionals: ["LIBRARY"],
  options: { json: { type: "boolean", help: "print the policy's `module` fragment as JSON" } },
  examples: [
    "ironclaw measure /usr/lib/softhsm/libsofthsm2.so",
    "ironclaw measure /usr/lib/softhsm/libsofthsm2.so --json",
  ],
  run: async (input, io) => {
    const entry = resolve(input.positional(0));
    const readFile = (path: string): Uint8Array | null => {
      try {
        return new Uint8Array(readFileSync(path));
      } catch {
        return null; // the resolver says which name was looked for and by whom
      }
    };
    if (readFile(entry) === null)
      throw new AgentError("ERR_ENVIRONMENT", `library ${entry}`, { expected: "a readable file", got: "none" });
    const pin = measureClosure({ entry, readFile, realPath: (path) => realpathSync(path) });
    const fragment = { path: pin.path, sha256: pin.sha256, closure: pin.closure, config: {}, environment: {} };
    if (input.flag("json")) io.print(JSON.stringify(fragment, null, 2));
    else {
      io.print(`${pin.sha256}  ${pin.path}`);
      for (const [path, digest] of Object.entries(pin.closure)) io.print(`${digest}  ${path}`);
    }
    return 0;
  },
};
