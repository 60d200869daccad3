import { spawn } from "node:child_process";
import { randomInt } from "node:crypto";
import { readdir, readFile, writeFile } from "node:fs/promises";
import { join, resolve } from "node:path";
import * as z from "zod";
import { ImageError } from "../errors.ts";
import type { ImageFile } from "../files.ts";
import { makeDirectory } from "../make-directory.ts";

/** Where the guest's SoftHSM looks for its tokens: in the shim's writable directory. */
export const TOKEN_DIRECTORY = "/var/lib/softhsm/tokens";
const HOST_MODULE = "/usr/lib/softhsm/libsofthsm2.so";

const answerSchema = z.object({
  serial: z.string().min(1),
  keys: z.record(z.string(), z.string()),
});

/** A SoftHSM token that stands in for the HSM, as files for the cabinet, with the public keys of what it holds. */
export interface DemoToken {
  readonly label: string;
  readonly serial: string;
  readonly keys: Readonly<Record<string, Uint8Array>>;
  readonly files: readonly ImageFile[];
}

/** A PIN of 16 characters from an alphabet without look-alikes, about 93 bits; as bytes, so that it can be wiped. */
export function randomPin(): Uint8Array {
  const alphabet = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789";
  return Uint8Array.from({ length: 16 }, () => alphabet.charCodeAt(randomInt(alphabet.length)));
}

/** Make a token in `directory` with a P-256 and an RSA-2048 key pair. The PIN goes to the child through a pipe. */
export async function makeDemoToken(directory: string, label: string, pin: Uint8Array): Promise<DemoToken> {
  const tokens = join(directory, "tokens");
  await makeDirectory(tokens, 0o700);
  const configuration = join(directory, "softhsm2-host.conf");
  await writeFile(configuration, `directories.tokendir = ${tokens}\nobjectstore.backend = file\nlog.level = ERROR\n`, {
    mode: 0o600,
  });
  const order = JSON.stringify({
    module: HOST_MODULE,
    label,
    pin: Buffer.from(pin).toString("latin1"),
    soPin: Buffer.from(randomPin()).toString("latin1"),
  });
  const answer = answerSchema.parse(JSON.parse(await runMaker(configuration, order)));
  return {
    label,
    serial: answer.serial,
    keys: Object.fromEntries(
      Object.entries(answer.keys).map(([name, spki]) => [name, new Uint8Array(Buffer.from(spki, "base64"))]),
    ),
    files: await readTree(tokens, TOKEN_DIRECTORY),
  };
}

function runMaker(configuration: string, order: string): Promise<string> {
  const environment = { PATH: "/usr/bin:/bin", SOFTHSM2_CONF: configuration };
  const child = spawn(process.execPath, [resolve(import.meta.dirname, "make-token.ts")], { env: environment });
  const output: Buffer[] = [];
  const complaints: Buffer[] = [];
  child.stdout.on("data", (chunk) => output.push(chunk));
  child.stderr.on("data", (chunk) => complaints.push(chunk));
  child.stdin.end(order);
  return new Promise((settle, reject) => {
    child.on("error", reject);
    child.on("close", (code) => {
      if (code === 0) settle(Buffer.concat(output).toString());
      else reject(new ImageError("ERR_IMAGE_SOURCE", `SoftHSM token: ${Buffer.concat(complaints).toString().trim()}`));
    });
  });
}

async function readTree(directory: string, guestDirectory: string): Promise<ImageFile[]> {
  const entries = await readdir(directory, {
    withFileTypes: true,
    recursive: true,
  });
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  return Promise.all(
    files.sort().map(async (file) => ({
      path: file.replace(directory, guestDirectory),
      bytes: new Uint8Array(await readFile(file)),
    })),
  );
}
