import { execFile } from "node:child_process";
import { open } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { CLIENT_MODULE } from "./sign.ts";

export const SCOPES = "/run/ironclaw/scopes";
const TOOL_TIMEOUT = 120_000;

export type Fields = Record<string, unknown>;

/** What the host may ask for on the workload's port, by the request's `op`. */
export type Operations = Readonly<Record<string, (fields: Fields) => Promise<Fields>>>;

export function text(fields: Fields, name: string): string {
  const value = fields[name];
  if (typeof value !== "string") throw new TypeError(`${name}: expected a string, got ${typeof value}`);
  return value;
}

export function scopeSocket(fields: Fields): string {
  return `unix:path=${SCOPES}/${text(fields, "scope")}.sock`;
}

/** Run one client program against a scope and return its standard output: as text, or as hexadecimal for "buffer". */
export function run(
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

async function answer(line: string, operations: Operations): Promise<string> {
  let id: unknown = null;
  try {
    const fields: Fields = JSON.parse(line);
    id = fields["id"];
    const operation = operations[text(fields, "op")];
    if (operation === undefined) throw new TypeError(`op: expected one of ${Object.keys(operations).join(", ")}`);
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
export async function servePort(path: string, operations: Operations): Promise<never> {
  const port = await open(path, "r+");
  let pending = "";
  for (;;) {
    const { bytesRead, buffer } = await port.read(Buffer.alloc(65_536), 0, 65_536, null);
    if (bytesRead === 0) await sleep(100);
    pending += buffer.toString("utf8", 0, bytesRead);
    const lines = pending.split("\n");
    pending = lines.pop() ?? "";
    for (const line of lines) await port.write(`${await answer(line, operations)}\n`);
  }
}
