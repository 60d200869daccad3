import { lstatSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";

/** So many bytes of a secret in a row are no accident. */
const WINDOW = 8;
const BASE64_WINDOW = 15;

export interface Found {
  /** Paths of files that hold a part of the secret. */
  readonly files: readonly string[];
  readonly searched: number;
  readonly bytes: number;
}

/**
 * Looks for a secret of at least 18 bytes, or any 8 bytes of it, in every file below a directory: as they are, as hexadecimal digits of either case with and without
 * blanks between the bytes, and in base64. Does not find what is encrypted, compressed or written in another way.
 */
export function searchFiles(directory: string, secret: Uint8Array): Found {
  const needles = formsOf(secret);
  const texts = filesBelow(directory).map((path) => ({ path, content: readFileSync(path) }));
  return {
    files: texts.filter(({ content }) => needles.some((needle) => content.includes(needle))).map(({ path }) => path),
    searched: texts.length,
    bytes: texts.reduce((sum, { content }) => sum + content.length, 0),
  };
}

/** What the parts of a secret look like. */
export function formsOf(secret: Uint8Array): readonly Buffer[] {
  const parts = Array.from({ length: secret.length - WINDOW + 1 }, (_, at) =>
    Buffer.from(secret.subarray(at, at + WINDOW)),
  );
  const hex = parts.flatMap((part) => [part.toString("hex"), part.toString("hex").replace(/..(?=.)/g, "$& ")]);
  // One of three neighbouring bytes begins a group of four characters, wherever the secret stands.
  const base64 = [0, 1, 2].flatMap((at) => {
    const text = Buffer.from(secret.subarray(at, at + BASE64_WINDOW)).toString("base64");
    return [text, text.replaceAll("+", "-").replaceAll("/", "_")];
  });
  const texts = [...hex, ...hex.map((text) => text.toUpperCase()), ...base64];
  return [...parts, ...texts.map((text) => Buffer.from(text, "latin1"))];
}

function filesBelow(directory: string): readonly string[] {
  return readdirSync(directory, { recursive: true, encoding: "utf8" })
    .map((name) => join(directory, name))
    .filter((path) => lstatSync(path).isFile());
}
