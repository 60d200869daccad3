// The demo workload: an ordinary program under its own uid that wants signatures. It is told what to do over its own
// virtio-serial port (one JSON object a line), and can do exactly the operations in OPERATIONS.
import { execFile } from "node:child_process";
import { open, readFile } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { connect, type Mechanism } from "../../agent/client/index.ts";
import { replayFrames } from "./replay.ts";
import { CLIENT_MODULE, type SignRequest, signThroughScope } from "./sign.ts";

const SCOPES = "/run/ironclaw/scopes";
const TOOL_TIMEOUT = 120_000;
const READ_LIMIT = 4_096;

type Fields = Record<string, unknown>;

/** What `hold` was given. Only referenced so that it stays in this process's memory. */
const held: string[] = [];

const OPERATIONS: Record<string, (fields: Fields) => Promise<Fields>> = {
  identity: async () => ({
    uid: process.getuid?.(),
    pid: process.pid,
    node: process.version,
  }),
  hold: async (fields) => {
    held.push(text(fields, "value"));
    return { held: held.length };
  },
  // What the kernel lets anybody read of itself: how the machine was set up, as seen from inside.
  read: async (fields) => ({ content: (await readFile(text(fields, "path"), "utf8")).slice(0, READ_LIMIT) }),
  sign: async (fields) => {
    const request = JSON.stringify({
      label: text(fields, "label"),
      mechanism: text(fields, "mechanism"),
      data: text(fields, "data"),
    });
    // A process of its own: p11-kit-client.so reads its server address once.
    return JSON.parse(await run(process.execPath, [process.argv[1] ?? "", "--sign"], scopeSocket(fields), request));
  },
  // Through the native door of the same socket, and in this process: nothing is loaded.
  "native-sign": async (fields) => {
    await using client = await connect({ scope: text(fields, "scope") });
    await using session = client.session();
    const mechanism = text(fields, "mechanism") as Mechanism; // the agent says whether it is one
    const signature = await session.sign({ mechanism, digest: Buffer.from(text(fields, "digest"), "hex") });
    return { keys: client.keys.map(({ name }) => name), signature: Buffer.from(signature).toString("hex") };
  },
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

function text(fields: Fields, name: string): string {
  const value = fields[name];
  if (typeof value !== "string") throw new TypeError(`${name}: expected a string, got ${typeof value}`);
  return value;
}

function scopeSocket(fields: Fields): string {
  return `unix:path=${SCOPES}/${text(fields, "scope")}.sock`;
}

/** Run one client program against a scope and return its standard output: as text, or as hexadecimal for "buffer". */
function run(
  file: string,
  args: string[],
  address: string,
  input: string | Buffer = "",
  output: "utf8" | "buffer" = "utf8",
): Promise<string> {
  const environment = {
    PATH: "/usr/bin",
    P11_KIT_SERVER_ADDRESS: address,
    PKCS11_MODULE_PATH: CLIENT_MODULE,
    OPENSSL_CONF: "/dev/null",
  };
  return new Promise((resolve, reject) => {
    const child = execFile(
      file,
      args,
      { env: environment, encoding: "buffer", timeout: TOOL_TIMEOUT },
      (error, stdout, stderr) => {
        if (error) reject(new Error(`${file}: ${stderr.toString().trim() || error.message}`));
        else resolve(stdout.toString(output === "buffer" ? "hex" : "utf8"));
      },
    );
    child.stdin?.end(input);
  });
}

async function answer(line: string): Promise<string> {
  let id: unknown = null;
  try {
    const fields: Fields = JSON.parse(line);
    id = fields["id"];
    const operation = OPERATIONS[text(fields, "op")];
    if (operation === undefined) throw new TypeError(`op: expected one of ${Object.keys(OPERATIONS).join(", ")}`);
    return JSON.stringify({ id, ok: true, ...(await operation(fields)) });
  } catch (error) {
    return JSON.stringify({
      id,
      ok: false,
      error: error instanceof Error ? error.message : String(error),
    });
  }
}

/** Serve the port for ever. A virtio-serial port reads as empty while nobody is connected on the host's side. */
async function servePort(path: string): Promise<never> {
  const port = await open(path, "r+");
  let pending = "";
  for (;;) {
    const { bytesRead, buffer } = await port.read(Buffer.alloc(65_536), 0, 65_536, null);
    if (bytesRead === 0) await sleep(100);
    pending += buffer.toString("utf8", 0, bytesRead);
    const lines = pending.split("\n");
    pending = lines.pop() ?? "";
    for (const line of lines) await port.write(`${await answer(line)}\n`);
  }
}

async function signOnce(): Promise<void> {
  const chunks: Buffer[] = [];
  for await (const chunk of process.stdin) chunks.push(chunk);
  const request = JSON.parse(Buffer.concat(chunks).toString());
  const signature = signThroughScope({
    ...request,
    data: Buffer.from(request.data, "hex"),
  } satisfies SignRequest);
  process.stdout.write(JSON.stringify({ signature: Buffer.from(signature).toString("hex") }));
}

async function main([argument]: string[]): Promise<void> {
  if (argument === "--sign") await signOnce();
  else if (argument !== undefined) await servePort(argument);
  else throw new Error("usage: workload PORT");
}

main(process.argv.slice(2)).catch((error: unknown) => {
  process.stderr.write(`workload: ${error instanceof Error ? error.message : "unknown failure"}\n`);
  process.exitCode = 1;
});
