import type { FastifyReply, FastifyRequest } from "fastify";
import { Refusal, type RefusalCode, refusals, ServiceError } from "./errors.ts";
import type { Metrics } from "./metrics.ts";
import { anonymous, mayAct } from "./roles.ts";
import { type ErrorBody, errorSchema } from "./schemas.ts";
import { visitOf } from "./visit.ts";

const frameworkCodes: Readonly<Record<string, RefusalCode>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: "too-large",
  FST_ERR_CTP_INVALID_MEDIA_TYPE: "media-type",
  FST_ERR_CTP_EMPTY_TYPE: "media-type",
};

/** Answers with a code. No stack, path or message of another program reaches a caller. */
export function refuse(metrics: Metrics, request: FastifyRequest, reply: FastifyReply, error: unknown): FastifyReply {
  const refusal = refusalOf(error, request);
  metrics.refusal(refusal.code);
  const { message: why, reasons } = refusal.detail;
  // For the operator alone: machines learn only the code.
  request.log.info({ code: refusal.code, why, reasons: reasons?.map(({ code }) => code) }, "refused");
  const { role } = visitOf(request)?.principal ?? anonymous;
  if (refusal.code === "unauthenticated") reply.header("www-authenticate", "Bearer");
  if (refusal.code === "too-many" || refusal.code === "busy") reply.header("retry-after", "5");
  const body = errorSchema.parse(errorBody(refusal, mayAct(role, "viewer")));
  return reply.code(refusal.status).type("application/json; charset=utf-8").send(JSON.stringify(body));
}

/** Whoever has no role learns the code and a sentence that is the same for everybody. */
function errorBody({ code, detail }: Refusal, mayKnow: boolean): ErrorBody {
  const { text: fixed } = refusals[code];
  if (!mayKnow) return { error: { code, message: fixed } };
  const { message = fixed, hint, reasons } = detail;
  const known = {
    ...(hint === undefined ? {} : { hint }),
    ...(reasons === undefined ? {} : { reasons: [...reasons] }),
  };
  return { error: { code, message, ...known } };
}

function refusalOf(error: unknown, request: FastifyRequest): Refusal {
  if (error instanceof Refusal) return error;
  const { code, statusCode } = (error ?? {}) as { code?: unknown; statusCode?: unknown };
  const known = typeof code === "string" ? frameworkCodes[code] : undefined;
  if (known !== undefined) return new Refusal(known);
  if (typeof statusCode === "number" && statusCode >= 400 && statusCode < 500) return new Refusal("malformed");
  if (statusCode === 503) return new Refusal("closing");
  const what =
    error instanceof ServiceError ? `${error.code} ${error.message}` : error instanceof Error ? error.name : "unknown";
  request.log.error(
    { failure: what, where: error instanceof Error ? (error.stack?.split("\n")[1]?.trim() ?? "") : "" },
    "failed",
  );
  return new Refusal("internal");
}

/** What never became a request: no HTTP, headers that are too large or too slow. */
export function refuseConnection(
  error: NodeJS.ErrnoException,
  socket: { readonly writable: boolean; end(text: string): void; destroy(): void },
): void {
  if (error.code === "ECONNRESET" || !socket.writable) {
    socket.destroy();
    return;
  }
  const status = error.code === "ERR_HTTP_REQUEST_TIMEOUT" ? "408 Request Timeout" : "400 Bad Request";
  socket.end(`HTTP/1.1 ${status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n`);
}
