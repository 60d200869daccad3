import type * as z from "zod";
import { IronclawError, parseJson } from "../../policy/index.ts";
import { Refusal } from "./errors.ts";

export const maxBody = 64 << 10;
/** The largest report that its reader takes. */
export const maxEvidenceBody = 4 << 20;

/** One JSON text: no field twice, bounded depth and size. @throws Refusal `malformed` */
export function decodeJsonBody(bytes: Uint8Array): unknown {
  try {
    return parseJson(bytes, "body", { maxBytes: maxBody, maxDepth: 4 });
  } catch (error) {
    if (!(error instanceof IronclawError)) throw error;
    throw new Refusal("malformed", { message: error.message });
  }
}

/** What a request sent, if it is what the operation takes. @throws Refusal `malformed` with the first place that is not */
export function checkRequest<T>(schema: z.ZodType<T>, sent: unknown): T {
  const parsed = schema.safeParse(sent);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const where = issue?.path.map(String).join(".") || "body";
  throw new Refusal("malformed", { message: `${where}: ${issue?.message ?? "malformed"}` });
}
