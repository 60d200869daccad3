import { UsageError } from "./command.ts";

/** Which private key on which token, and how to reach it: the part of RFC 7512 that names one key and nothing else. */
export interface Pkcs11Uri {
  /** Absolute path of the PKCS#11 library. */
  readonly modulePath: string;
  /** File with the user's PIN. */
  readonly pinSource: string;
  /** Token label and serial number; undefined matches every token. */
  readonly token: string | undefined;
  readonly serial: string | undefined;
  /** CKA_LABEL and CKA_ID of the key; undefined matches every key. */
  readonly object: string | undefined;
  readonly id: Uint8Array | undefined;
}

// RFC 7512, section 2.3: characters that stand for themselves, beside the unreserved ones. `%` only before two hexadecimal digits.
const PATH_VALUE = /^(?:[A-Za-z0-9\-._~:[\]@!$'()*+,=&]|%[0-9A-Fa-f]{2})*$/;
const QUERY_VALUE = /^(?:[A-Za-z0-9\-._~:[\]@!$'()*+,=/?|]|%[0-9A-Fa-f]{2})*$/;
const PATH_NAMES = ["token", "serial", "object", "id", "type"];
const QUERY_NAMES = ["module-path", "pin-source"];

export function isPkcs11Uri(text: string): boolean {
  return /^pkcs11:/i.test(text);
}

/**
 * Reads a `pkcs11:` URI. An attribute that is not understood is refused: left out, it would match more keys than were meant.
 * @throws UsageError naming the attribute, never its value: it could be a PIN
 */
export function parsePkcs11Uri(text: string): Pkcs11Uri {
  const [path = "", query = "", ...more] = text.slice("pkcs11:".length).split("?");
  // A second question mark may only stand inside a query's value.
  const attributes = readAttributes(path, ";", PATH_NAMES, PATH_VALUE);
  const queries = readAttributes([query, ...more].join("?"), "&", QUERY_NAMES, QUERY_VALUE);
  const type = decodeText("type", attributes.get("type"));
  if (type !== undefined && type !== "private") throw refused("type", "private, the only kind that signs", "another");
  return {
    modulePath: requireValue("module-path", decodeText("module-path", queries.get("module-path")), /^\/[^\0]+$/),
    pinSource: requireValue(
      "pin-source",
      decodeText("pin-source", queries.get("pin-source")),
      /^[^|\0][^\0]*$/,
    ).replace(/^file:(?:\/\/)?(?=\/)/, ""),
    token: decodeText("token", attributes.get("token")),
    serial: decodeText("serial", attributes.get("serial")),
    object: decodeText("object", attributes.get("object")),
    id: decodeBytes(attributes.get("id")),
  };
}

function readAttributes(
  text: string,
  separator: string,
  names: readonly string[],
  form: RegExp,
): ReadonlyMap<string, string> {
  const found = new Map<string, string>();
  for (const attribute of text === "" ? [] : text.split(separator)) {
    const place = attribute.indexOf("=");
    const name = place < 0 ? "" : attribute.slice(0, place);
    if (!names.includes(name)) throw unknownAttribute(name, names);
    if (found.has(name)) throw refused(name, "it once", "it twice");
    const value = attribute.slice(place + 1);
    if (!form.test(value)) throw refused(name, "percent-encoding for every other character", "another character");
    if (value === "") throw refused(name, "a value", "none");
    found.set(name, value);
  }
  return found;
}

function unknownAttribute(name: string, names: readonly string[]): UsageError {
  const fields = { expected: `only ${names.join(", ")}`, got: /^[a-z-]{1,32}$/.test(name) ? name : "something else" };
  if (name !== "pin-value") return new UsageError("pkcs11 URI", fields);
  return new UsageError("pkcs11 URI", { ...fields, hint: "an argument is seen by everybody: use pin-source=FILE" });
}

function decodeBytes(value: string | undefined): Uint8Array | undefined {
  if (value === undefined) return undefined;
  const pieces = value.match(/%[0-9A-Fa-f]{2}|[^%]/g) ?? [];
  return Uint8Array.from(pieces, (piece) =>
    piece.length === 3 ? Number.parseInt(piece.slice(1), 16) : piece.charCodeAt(0),
  );
}

function decodeText(name: string, value: string | undefined): string | undefined {
  const bytes = decodeBytes(value);
  if (bytes === undefined) return undefined;
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw refused(name, "UTF-8", "other bytes");
  }
}

function requireValue(name: string, value: string | undefined, form: RegExp): string {
  if (value !== undefined && form.test(value)) return value;
  const expected = name === "module-path" ? "the library's absolute path" : "a file with the PIN, mode 0600";
  throw refused(name, expected, value === undefined ? "none" : "something else");
}

function refused(name: string, expected: string, got: string): UsageError {
  return new UsageError(`pkcs11 URI ${name}`, { expected, got });
}
