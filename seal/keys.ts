import { createPrivateKey, createPublicKey, generateKeyPair, type KeyObject, randomUUID, sign } from "node:crypto";
import { link, open, unlink } from "node:fs/promises";
import { dirname } from "node:path";
import { promisify } from "node:util";
import { IronclawError, parseVerificationKey, type SigningKey, type VerificationKey } from "../policy/index.ts";
import { SealError } from "./errors.ts";
import { syncDirectory } from "./store-file.ts";

export type SigningKeyKind = VerificationKey["kind"];

const generate = promisify(generateKeyPair);

/** Makes a release root, release or operator key in memory. */
export async function createSigningKey(
  kind: SigningKeyKind = "p256",
): Promise<{ privatePem: string; key: SigningKey }> {
  const { privateKey } =
    kind === "p256"
      ? await generate("ec", { namedCurve: "P-256" })
      : await generate("rsa", { modulusLength: 2048, publicExponent: 65537 });
  return {
    privatePem: exportPem(privateKey),
    key: signingKey(privateKey, kind),
  };
}

/**
 * Makes a key and writes it to `path`, PKCS#8 PEM, mode 0600: all of it or nothing. Never overwrites: a lost root key cannot be replaced.
 * @throws SealError ERR_KEY_FILE when the file exists or cannot be written
 */
export async function createSigningKeyFile(path: string, kind: SigningKeyKind = "p256"): Promise<SigningKey> {
  const { privatePem, key } = await createSigningKey(kind);
  try {
    await writeNewFile(path, privatePem);
  } catch (cause) {
    throw new SealError("ERR_KEY_FILE", `key file ${path}`, {
      expected: "a new file",
      got: reason(cause),
      cause,
    });
  }
  return key;
}

/** The name is given last, and only where there is none: unlike rename(2), link(2) replaces nothing. */
async function writeNewFile(path: string, content: string): Promise<void> {
  const temporary = `${path}.${randomUUID()}.tmp`;
  const names = [temporary];
  try {
    await writeSynced(temporary, content);
    await link(temporary, path);
    names.push(path);
    await unlink(temporary);
    syncDirectory(dirname(path));
  } catch (error) {
    // Whoever is told that there is no key can make one.
    for (const name of names) await unlink(name).catch(() => undefined);
    throw error;
  }
}

async function writeSynced(path: string, content: string): Promise<void> {
  const file = await open(path, "wx", 0o600);
  try {
    await file.writeFile(content);
    await file.sync();
  } finally {
    await file.close();
  }
}

/**
 * Loads a key that only its owner can read.
 * @throws SealError ERR_KEY_FILE when it is missing, has permissions for others, or is of another kind
 */
export async function loadSigningKey(path: string): Promise<SigningKey> {
  const pem = await readPrivateFile(path);
  try {
    const privateKey = createPrivateKey(pem);
    return signingKey(privateKey, privateKey.asymmetricKeyType === "ec" ? "p256" : "rsa2048");
  } catch (cause) {
    // The cause of a parse failure can quote the file: only our own errors are kept.
    const fields = cause instanceof IronclawError ? { cause } : {};
    const expected = "a PKCS#8 PEM key, ECDSA P-256 or RSA-2048";
    throw new SealError("ERR_KEY_FILE", `key file ${path}`, {
      expected,
      got: "something else",
      ...fields,
    });
  }
}

async function readPrivateFile(path: string): Promise<string> {
  let mode: number;
  let text: string;
  try {
    const file = await open(path, "r");
    try {
      mode = (await file.stat()).mode & 0o777;
      text = await file.readFile("utf8");
    } finally {
      await file.close();
    }
  } catch (cause) {
    throw new SealError("ERR_KEY_FILE", `key file ${path}`, {
      expected: "a readable file",
      got: reason(cause),
      cause,
    });
  }
  if ((mode & 0o077) !== 0) {
    throw new SealError("ERR_KEY_FILE", `key file ${path}`, {
      expected: "mode 0600",
      got: `0${mode.toString(8)}`,
      hint: `chmod 600 ${path}`,
    });
  }
  return text;
}

function signingKey(privateKey: KeyObject, kind: SigningKeyKind): SigningKey {
  const spkiPem = createPublicKey(privateKey).export({ type: "spki", format: "pem" }).toString();
  if (parseVerificationKey(spkiPem).kind !== kind) throw new TypeError(`expected a ${kind} key`);
  return {
    spkiPem,
    sign: async (data) => Uint8Array.from(sign("sha256", data, { key: privateKey, dsaEncoding: "ieee-p1363" })),
  };
}

function exportPem(privateKey: KeyObject): string {
  return privateKey.export({ type: "pkcs8", format: "pem" }).toString();
}

function reason(cause: unknown): string {
  return cause instanceof Error && "code" in cause ? String(cause.code) : "an error";
}
