/// <reference lib="dom" />
import * as z from "zod";
import type { Session } from "./session.ts";
import { type Judgement, type Reason, reasonSchema, resultSchema } from "./shapes.ts";

/** Why an answer did not come; each has its own advice for the viewer. */
export type FailureKind = "down" | "token" | "role" | "absent" | "limited" | "strange" | "refused";

interface FailureFields {
  /** The service's own code and hint, or `null`. */
  readonly code?: string | null;
  readonly hint?: string | null;
  readonly retryAfterSeconds?: number | null;
  /** Why evidence was refused. */
  readonly reasons?: readonly Reason[];
}

export class ServiceFailure extends Error {
  readonly kind: FailureKind;
  readonly code: string | null;
  readonly hint: string | null;
  readonly retryAfterSeconds: number | null;
  readonly reasons: readonly Reason[];

  constructor(kind: FailureKind, message: string, fields: FailureFields = {}) {
    super(message);
    this.name = "ServiceFailure";
    this.kind = kind;
    this.code = fields.code ?? null;
    this.hint = fields.hint ?? null;
    this.retryAfterSeconds = fields.retryAfterSeconds ?? null;
    this.reasons = fields.reasons ?? [];
  }
}

export interface StoredReport {
  readonly bytes: Uint8Array;
  /** As the service tells them; `null` where it does not. */
  readonly nonce: string | null;
  readonly bank: string | null;
  readonly pcrs: string | null;
}

export interface Client {
  /** @throws ServiceFailure as all methods do */
  get<T>(path: string, schema: z.ZodType<T>): Promise<T>;
  /** A stored report, and the challenge that it answers. */
  report(path: string): Promise<StoredReport>;
  /** The stored judgement of a report (GET), or a new one (POST). That it was refused is an answer, not a failure. */
  judgement(method: "GET" | "POST", path: string): Promise<Judgement>;
}

const timeoutMs = 20_000;
/** More than the largest report: an answer without end must not fill the tab. */
const maxAnswer = 16 << 20;

/** Talks to the service that sent the page, and to nobody else; the token goes into a header only. */
export function createClient(session: Session): Client {
  const call = (method: string, path: string) => request(session, method, path);
  return {
    get: async (path, schema) => read(await call("GET", path), schema),
    report: async (path) => storedReport(await call("GET", path)),
    judgement: async (method, path) => {
      try {
        return { result: await read(await call(method, path), resultSchema), reasons: [] };
      } catch (error) {
        if (!(error instanceof ServiceFailure) || error.code !== "evidence-refused") throw error;
        return { result: null, reasons: error.reasons };
      }
    },
  };
}

/** Path of a machine in the interface and in the page's own addresses. Half a surrogate pair has no encoding: such a name leads nowhere. */
export function machinePath(name: string): string {
  return `machines/${encodeURIComponent(name.toWellFormed())}`;
}

async function request(session: Session, method: string, path: string): Promise<Response> {
  const { token } = session;
  let response: Response;
  try {
    response = await fetch(`v1/${path}`, {
      method,
      headers: token === null ? {} : { authorization: `Bearer ${token}` },
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      referrerPolicy: "no-referrer",
      signal: AbortSignal.timeout(timeoutMs),
    });
  } catch {
    throw new ServiceFailure("down", "the service does not answer");
  }
  if (response.ok) return response;
  throw await failureOf(response);
}

const errorSchema = z.object({
  error: z.object({
    code: z.string(),
    message: z.string(),
    hint: z.string().optional(),
    reasons: z.array(reasonSchema).optional(),
  }),
});
const kinds: Readonly<Record<number, FailureKind>> = { 401: "token", 403: "role", 404: "absent", 429: "limited" };

async function failureOf(response: Response): Promise<ServiceFailure> {
  const kind = kinds[response.status] ?? (response.status >= 500 ? "down" : "refused");
  const wait = Number(response.headers.get("retry-after"));
  const retryAfterSeconds = Number.isFinite(wait) && wait > 0 ? Math.min(wait, 3600) : null;
  const parsed = errorSchema.safeParse(await response.json().catch(() => null));
  if (!parsed.success)
    return new ServiceFailure(kind, `the service answered ${response.status}`, { retryAfterSeconds });
  const { code, message, hint = null, reasons = [] } = parsed.data.error;
  return new ServiceFailure(kind, `${message} (${code})`, { code, hint, reasons, retryAfterSeconds });
}

async function read<T>(response: Response, schema: z.ZodType<T>): Promise<T> {
  const body = new TextDecoder().decode(await wholeBody(response));
  const parsed = schema.safeParse(parseJson(body));
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new ServiceFailure(
    "strange",
    `unexpected answer: ${issue?.path.join(".") ?? ""} ${issue?.message ?? ""}`.trim(),
  );
}

async function storedReport(response: Response): Promise<StoredReport> {
  const { headers } = response;
  const challenge = { nonce: headers.get("ironclaw-nonce"), bank: headers.get("ironclaw-bank") };
  return { ...challenge, pcrs: headers.get("ironclaw-pcrs"), bytes: await wholeBody(response) };
}

function parseJson(body: string): unknown {
  try {
    return JSON.parse(body);
  } catch {
    throw new ServiceFailure("strange", "unexpected answer: not JSON");
  }
}

async function wholeBody(response: Response): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  try {
    for await (const chunk of response.body ?? []) {
      size += chunk.length;
      if (size > maxAnswer) throw new ServiceFailure("strange", `unexpected answer: more than ${maxAnswer} bytes`);
      chunks.push(chunk);
    }
  } catch (error) {
    if (error instanceof ServiceFailure) throw error;
    throw new ServiceFailure("down", "the answer broke off");
  }
  return new Uint8Array(await new Blob(chunks as BlobPart[]).arrayBuffer());
}
