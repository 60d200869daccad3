import * as z from "zod";
import { fromBase64Url, IronclawError, type Json, parseJson, utf8 } from "../policy/index.ts";
import { AttestError } from "./errors.ts";
import { schemaError } from "./schema-issue.ts";

/** Characters of a token. */
export const MAX_EAR = 1 << 16;
const MAX_HEADER_BYTES = 512;
const SIGNATURE_BYTES = 64;

export interface JwsParts {
  readonly header: Uint8Array;
  readonly payload: Uint8Array;
  readonly signature: Uint8Array;
  /** The characters that are signed: header, dot, payload, as they came. */
  readonly input: Uint8Array;
}

/** One algorithm, and no parameter that brings a key or a certificate along (`jwk`, `jku`, `x5c`, `x5u`) or that has to be understood (`crit`). */
const headerSchema = z.strictObject({
  alg: z.literal("ES256"),
  typ: z.literal("JWT"),
  kid: z.string().regex(/^[A-Za-z0-9_-]{43}$/, "expected a SHA-256 in base64url"),
});

/** Splits a compact JWS (RFC 7515 section 7.1). Verifies nothing. @throws AttestError `ERR_EAR_MALFORMED` */
export function splitJws(jws: string): JwsParts {
  if (jws.length > MAX_EAR) throw malformed("size", `at most ${MAX_EAR} characters`, `${jws.length}`);
  const parts = jws.split(".", 4);
  const [header, payload, signature] = parts;
  if (header === undefined || payload === undefined || signature === undefined || parts.length !== 3)
    throw malformed("form", "header, payload and signature between two dots", "another form");
  const raw = fromBase64url(signature, "signature");
  if (raw.length !== SIGNATURE_BYTES) throw malformed("signature", `${SIGNATURE_BYTES} bytes`, `${raw.length}`);
  return {
    header: fromBase64url(header, "header"),
    payload: fromBase64url(payload, "payload"),
    signature: raw,
    input: utf8(`${header}.${payload}`),
  };
}

/** @throws AttestError `ERR_EAR_MALFORMED` for any other algorithm or parameter */
export function parseEarHeader(bytes: Uint8Array): z.infer<typeof headerSchema> {
  const parsed = headerSchema.safeParse(parseEarJson(bytes, "EAR header", MAX_HEADER_BYTES), { reportInput: true });
  if (parsed.success) return parsed.data;
  throw schemaError("ERR_EAR_MALFORMED", "EAR header", parsed.error);
}

/** JSON without doubled keys: two readers must not see two tokens. @throws AttestError `ERR_EAR_MALFORMED` */
export function parseEarJson(bytes: Uint8Array, what: string, maxBytes: number): Json {
  try {
    return parseJson(bytes, what, { maxBytes, maxDepth: 6 });
  } catch (cause) {
    if (!(cause instanceof IronclawError)) throw cause;
    throw new AttestError("ERR_EAR_MALFORMED", cause.message, { cause });
  }
}

/** Without padding, and without bits that no byte needs: one text for the same bytes. */
function fromBase64url(text: string, what: string): Uint8Array {
  try {
    if (text !== "") return fromBase64Url(text, `EAR ${what}`);
  } catch (cause) {
    if (!(cause instanceof IronclawError)) throw cause;
    throw malformed(what, "base64url without padding", "another text", cause);
  }
  throw malformed(what, "base64url without padding", "nothing");
}

function malformed(what: string, expected: string, got: string, cause?: unknown): AttestError {
  return new AttestError("ERR_EAR_MALFORMED", `EAR ${what}`, { expected, got, cause });
}
