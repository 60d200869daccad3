import type * as z from "zod";
import { utf8 } from "./bytes.ts";
import { PolicyError, type PolicyErrorCode } from "./errors.ts";

/** Largest document, in bytes, that any reader here accepts. */
export const MAX_DOCUMENT_BYTES = 1 << 20;

const strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The one encoding of a document: JSON without white space, fields in the order in which `schema` names them. */
export function encodeCanonicalJson<T>(
  value: unknown,
  schema: z.ZodType<T>,
  code: PolicyErrorCode,
  what: string,
): Uint8Array {
  return utf8(JSON.stringify(checkSchema(value, schema, code, what)));
}

/**
 * Reads a document and refuses every text but the canonical one: a doubled field, other white space or another
 * order would let two readers see two documents under one signature.
 *
 * @throws PolicyError with `code`
 */
export function parseCanonicalJson<T>(bytes: Uint8Array, schema: z.ZodType<T>, code: PolicyErrorCode, what: string): T {
  if (bytes.length > MAX_DOCUMENT_BYTES) {
    throw new PolicyError(code, `${what}: size`, {
      expected: `at most ${MAX_DOCUMENT_BYTES} bytes`,
      got: `${bytes.length}`,
    });
  }
  const text = decodeText(bytes, code, what);
  const value = checkSchema(parseJson(text, code, what), schema, code, what);
  // Valid UTF-8 has one text and a text one UTF-8, so equal texts are equal bytes.
  if (JSON.stringify(value) !== text) {
    throw new PolicyError(code, what, {
      expected: "canonical JSON",
      got: "another encoding of the same content",
    });
  }
  return value;
}

function decodeText(bytes: Uint8Array, code: PolicyErrorCode, what: string): string {
  try {
    return strictUtf8.decode(bytes);
  } catch {
    throw notJson(code, what);
  }
}

function parseJson(text: string, code: PolicyErrorCode, what: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw notJson(code, what);
  }
}

function notJson(code: PolicyErrorCode, what: string): PolicyError {
  return new PolicyError(code, what, { expected: "JSON in UTF-8", got: "something else" });
}

function checkSchema<T>(value: unknown, schema: z.ZodType<T>, code: PolicyErrorCode, what: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0];
  const where = issue === undefined || issue.path.length === 0 ? "document" : issue.path.map(String).join(".");
  throw new PolicyError(code, `${what} ${where}: ${(issue?.message ?? "invalid").toLowerCase()}`);
}
