import { constants, type Stats } from "node:fs";
import { chmod, chown, type FileHandle, lstat, open, rename, rm, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { type ErrorFields, encodeSpkiPem, pemBlocks } from "../../policy/index.ts";
import { MAX_SECRET_BYTES, syncDirectory } from "../../seal/index.ts";
import { AgentError } from "../errors.ts";
import { reasonOf } from "../system-reason.ts";
import { type SecretInput, UsageError } from "./command.ts";

/** Of any input; a kernel image has 12 MB, a document at most 1 MiB (its own reader says so). */
const MAX_INPUT = 256 << 20;
/** What the shim hands to C_Login, in bytes. */
const MAX_PIN = 255;

/** @throws AgentError ERR_ENVIRONMENT (exit code 4) when there is no such file or pipe, or it cannot be read */
export async function readInput(path: string, what: string): Promise<Uint8Array> {
  let file: FileHandle | undefined;
  try {
    file = await open(path, constants.O_RDONLY);
    const kind = await file.stat();
    if (kind.isDirectory()) throw unusable(path, what, "a directory");
    if (!kind.isFile() && !kind.isFIFO()) throw unusable(path, what, "a device");
    return await readBounded(file, path, what);
  } catch (cause) {
    throw cause instanceof AgentError ? cause : unusable(path, what, reasonOf(cause), cause);
  } finally {
    await file?.close();
  }
}

async function readBounded(file: FileHandle, path: string, what: string): Promise<Uint8Array> {
  const chunks: Buffer[] = [];
  let total = 0;
  for await (const chunk of file.createReadStream({ autoClose: false })) {
    chunks.push(chunk);
    total += chunk.length;
    if (total > MAX_INPUT) throw unusable(path, what, `more than ${MAX_INPUT} bytes`);
  }
  return new Uint8Array(Buffer.concat(chunks));
}

function unusable(path: string, what: string, got: string, cause?: unknown): AgentError {
  return new AgentError("ERR_ENVIRONMENT", `${what} ${path}`, { expected: "a readable file", got, cause });
}

/** What is no UTF-8 is left to its reader to refuse. */
export async function readText(path: string, what: string): Promise<string> {
  return new TextDecoder().decode(await readInput(path, what));
}

/**
 * A public key in PEM, however people's tools write it, in the one spelling that documents have. What is no such key, or several, is left to its reader
 * to refuse.
 */
export async function readPublicKey(path: string, what: string): Promise<string> {
  const text = await readText(path, what);
  const [der, ...others] = pemBlocks(text, "PUBLIC KEY") ?? [];
  return der === undefined || others.length > 0 ? text : encodeSpkiPem(der);
}

/** All of the file or nothing: an interrupted write, or a power cut, leaves what was there. @throws AgentError ERR_ENVIRONMENT */
export async function writeOutput(path: string, bytes: Uint8Array | string): Promise<void> {
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    const present = await lstat(path).catch(() => null);
    // Into a pipe or device one can only write, and a symbolic link is followed, not replaced.
    if (present !== null && !present.isFile()) return await writeFile(path, bytes);
    const mode = present === null ? 0o666 : 0o600;
    await writeFile(temporary, bytes, { flag: "wx", mode, flush: true });
    if (present !== null) await keepOwner(temporary, present);
    await rename(temporary, path);
    syncDirectory(dirname(path));
  } catch (cause) {
    await rm(temporary, { force: true }).catch(() => {});
    throw new AgentError("ERR_ENVIRONMENT", `output ${path}`, {
      expected: "a writable file",
      got: reasonOf(cause),
      cause,
    });
  }
}

/**
 * Whoever could read what is replaced can read what replaces it, whatever the umask, and nobody else. Who may not give a file away keeps it, and their
 * group, which was not the one that was meant, gets nothing of it.
 */
async function keepOwner(path: string, { uid, gid, mode }: Stats): Promise<void> {
  const given = await chown(path, uid, gid).then(
    () => true,
    () => false,
  );
  await chmod(path, mode & (given ? 0o777 : 0o707));
}

/** A PIN from standard input: one line without its end. Never echoed, never an argument. */
export async function readPin(stream: SecretInput): Promise<Uint8Array> {
  const what = "PIN";
  const whole = await readSecret(stream, what);
  const pin = whole.slice(0, whole[whole.length - 1] === 10 ? -1 : undefined);
  whole.fill(0);
  const problem = pinProblem(pin);
  if (problem === null) return pin;
  pin.fill(0);
  throw new UsageError(what, problem);
}

function pinProblem(pin: Uint8Array): ErrorFields | null {
  if (pin.length === 0 || pin.length > MAX_PIN)
    return { expected: `1 to ${MAX_PIN} bytes`, got: pin.length === 0 ? "none" : "more" };
  // A carriage return or a second line would be sealed as part of the PIN, and the token then counts a wrong try.
  if (pin.some((byte) => byte < 0x20 || byte === 0x7f))
    return { expected: "one line without control characters", got: "another input" };
  return null;
}

/** The bytes of a secret file from standard input, as they are. The caller wipes them. */
export async function readSecretFile(stream: SecretInput): Promise<Uint8Array> {
  const what = "secret file";
  const bytes = await readSecret(stream, what);
  if (bytes.length >= 1 && bytes.length <= MAX_SECRET_BYTES) return bytes;
  bytes.fill(0);
  const got = bytes.length === 0 ? "none" : "more";
  throw new UsageError(what, { expected: `1 to ${MAX_SECRET_BYTES} bytes`, got });
}

/** All of standard input, cut one byte behind the longest secret there can be. */
async function readSecret(stream: SecretInput, what: string): Promise<Uint8Array> {
  if (stream.isTTY) {
    throw new UsageError(what, {
      expected: "a pipe or a file on standard input",
      got: "a terminal, which would show it",
      hint: "for example: systemd-ask-password -n | ironclaw seal ...",
    });
  }
  const whole = new Uint8Array(MAX_SECRET_BYTES + 1);
  let length = 0;
  for await (const chunk of stream) {
    const room = whole.length - length;
    whole.set(chunk.subarray(0, room), length);
    length += Math.min(room, chunk.length);
    chunk.fill(0);
  }
  const secret = whole.slice(0, length);
  whole.fill(0);
  return secret;
}
