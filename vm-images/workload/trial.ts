// The same program in the variants `demo` and `dev`, with what only trials of it need: stock clients, recorded bytes, and a look around.
import { readFile } from "node:fs/promises";
import { replayFrames } from "./replay.ts";
import { type Operations, run, SCOPES, scopeSocket, text } from "./serve.ts";
import { CLIENT_MODULE } from "./sign.ts";
import { runWorkload, SIGNING } from "./signing.ts";

const READ_LIMIT = 4_096;

/** What `hold` was given. Only referenced so that it stays in this process's memory. */
const held: string[] = [];

const TRIALS: Operations = {
  hold: async (fields) => {
    held.push(text(fields, "value"));
    return { held: held.length };
  },
  // What the kernel lets anybody read of itself: how the machine was set up, as seen from inside.
  read: async (fields) => ({ content: (await readFile(text(fields, "path"), "utf8")).slice(0, READ_LIMIT) }),
  "pkcs11-tool-list": async (fields) => ({
    output: await run("/usr/bin/pkcs11-tool", ["--module", CLIENT_MODULE, "--list-objects"], scopeSocket(fields)),
  }),
  "pkcs11-tool-sign": async (fields) => {
    const sign = [
      "--module",
      CLIENT_MODULE,
      "--sign",
      "--mechanism",
      text(fields, "mechanism"),
      "--label",
      text(fields, "label"),
    ];
    const output = await run(
      "/usr/bin/pkcs11-tool",
      sign,
      scopeSocket(fields),
      Buffer.from(text(fields, "data"), "hex"),
      "buffer",
    );
    return { signature: output };
  },
  "openssl-sign": async (fields) => {
    const key = `pkcs11:object=${text(fields, "label")};type=private`;
    const sign = ["dgst", "-sha256", "-engine", "pkcs11", "-keyform", "engine", "-sign", key];
    const output = await run(
      "/usr/bin/openssl",
      sign,
      scopeSocket(fields),
      Buffer.from(text(fields, "data"), "hex"),
      "buffer",
    );
    return { signature: output };
  },
  replay: async (fields) => {
    const frames = fields["frames"];
    if (!Array.isArray(frames)) throw new TypeError("frames: expected an array");
    const answers = await replayFrames(
      `${SCOPES}/${text(fields, "scope")}.sock`,
      frames.map((frame) => Buffer.from(String(frame), "hex")),
    );
    return {
      answers: answers.map((answer) => Buffer.from(answer).toString("hex")),
    };
  },
};

void runWorkload({ ...SIGNING, ...TRIALS });
