import { PolicyError } from "./errors.ts";
import { JsonScanner, type JsonVisitor } from "./json-scanner.ts";

export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

export interface JsonLimits {
  /** Bytes of the document. */
  readonly maxBytes: number;
  /** Objects and arrays inside each other. */
  readonly maxDepth: number;
}

/**
 * Reads one JSON text (RFC 8259), stricter than `JSON.parse`: a duplicate key in an object, a `__proto__` key, an integer that is not exact,
 * invalid UTF-8, a byte order mark and a lone surrogate are refused, because two readers could understand them differently.
 * @param what names the document in errors
 * @throws PolicyError `ERR_POLICY_MALFORMED`; a `JsonSyntaxError` where the text itself is wrong
 */
export function parseJson(bytes: Uint8Array, what: string, limits: JsonLimits): Json {
  return scanJson(jsonText(bytes, what, limits), what, limits);
}

/** The document as text. @throws PolicyError `ERR_POLICY_MALFORMED` for one that is too large, or no UTF-8 */
export function jsonText(bytes: Uint8Array, what: string, { maxBytes }: Pick<JsonLimits, "maxBytes">): string {
  if (bytes.length > maxBytes) {
    throw new PolicyError("ERR_POLICY_MALFORMED", `${what}: size`, {
      expected: `at most ${maxBytes} bytes`,
      got: `${bytes.length}`,
    });
  }
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch (cause) {
    throw new PolicyError("ERR_POLICY_MALFORMED", what, { expected: "utf-8", got: "other bytes", cause });
  }
}

/** As `parseJson`, of a text. @param visitor is told where each value stands. @throws JsonSyntaxError */
export function scanJson(
  text: string,
  what: string,
  { maxDepth }: Pick<JsonLimits, "maxDepth">,
  visitor: JsonVisitor | null = null,
): Json {
  return new JsonScanner(text, what, maxDepth, visitor).document();
}
