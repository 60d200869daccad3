import { TLSSocket } from "node:tls";
import type { FastifyReply, FastifyRequest, RouteOptions } from "fastify";
import { checkRequest, maxBody, maxEvidenceBody } from "./bodies.ts";
import type { CredentialEntry } from "./config.ts";
import { Refusal } from "./errors.ts";
import { type Call, Failing, handlers, type Parts, Raw, spend } from "./handlers.ts";
import { pagePolicy } from "./headers.ts";
import { type Operation, type OperationId, operations } from "./operations.ts";
import type { Page } from "./page.ts";
import { identify, mayAct, type Principal, type Shown } from "./roles.ts";
import { type Visit, visitOf } from "./visit.ts";

export interface RouteSources {
  readonly parts: Parts;
  readonly roles: readonly CredentialEntry[];
  readonly page: Page;
}

/** One route for each operation of the table, and those of the page. */
export function routesOf(sources: RouteSources): readonly RouteOptions[] {
  const table = Object.entries<Operation>(operations);
  return [
    ...table.map(([id, operation]) => routeOf(sources, id as OperationId, operation)),
    ...pageRoutes(sources.page),
  ]; // the table's own keys
}

function routeOf(options: RouteSources, id: OperationId, operation: Operation): RouteOptions {
  return {
    method: operation.method,
    url: operation.path.replaceAll(/\{(\w+)\}/g, ":$1"),
    onRequest: async (request, reply) => {
      const visit = begun(request);
      visit.operation = id;
      visit.spent = spendFor(options.parts, id, request);
      visit.principal = principalOf(options.roles, request);
      requireRole(visit.principal, operation);
      if (operation.body === "evidence") visit.release = slotFor(options.parts, visit.peer, reply);
    },
    bodyLimit: operation.body === "evidence" ? maxEvidenceBody : maxBody,
    handler: (request, reply) => serve(options, id, operation, request, reply),
  };
}

/** Before the body is read. Held until the report is judged; or given up, where its body never came. @throws Refusal `busy` */
function slotFor({ slots }: Parts, peer: string, reply: FastifyReply): () => void {
  const release = slots.take(peer);
  if (release === null) throw new Refusal("busy");
  const unlessServed = () => {
    if (!served.has(reply)) release();
  };
  reply.raw.once("finish", unlessServed).once("close", unlessServed);
  return release;
}

/** Requests that came as far as their handler: they give back what they hold themselves, also when nobody waits for the answer any more. */
const served = new WeakSet<FastifyReply>();

/** Every route's hooks run behind the one that begins the visit. */
function begun(request: FastifyRequest): Visit {
  const visit = visitOf(request);
  if (visit === null) throw new TypeError("a request without its visit");
  return visit;
}

function spendFor(parts: Parts, id: OperationId, request: FastifyRequest): Visit["spent"] {
  const head = { headers: request.headers, params: request.params as Readonly<Record<string, unknown>> };
  if (id === "judgeEvidence" || id === "finishEnrolment") return spend[id](parts, head);
  return null;
}

function principalOf(roles: readonly CredentialEntry[], request: FastifyRequest): Principal {
  const site = request.headers["sec-fetch-site"];
  // A browser sends a client certificate along with whatever another site makes it ask.
  if (site !== undefined && site !== "same-origin" && site !== "none") throw new Refusal("forbidden");
  const principal = identify(roles, {
    authorization: request.headers.authorization,
    certificate: certificateOf(request),
  });
  if (principal === null) throw new Refusal("unauthenticated");
  return principal;
}

function certificateOf(request: FastifyRequest): Shown["certificate"] {
  const socket = request.raw.socket;
  if (!(socket instanceof TLSSocket)) return null;
  const shown = socket.getPeerCertificate();
  if (shown === null || shown.raw === undefined) return null;
  const commonName = shown.subject.CN;
  return {
    authorized: socket.authorized,
    der: shown.raw,
    commonName: typeof commonName === "string" ? commonName : "",
  };
}

function requireRole(principal: Principal, { role }: Operation): void {
  if (mayAct(principal.role, role)) return;
  throw new Refusal(principal.role === "none" ? "unauthenticated" : "forbidden");
}

async function serve(
  { parts }: RouteSources,
  id: OperationId,
  operation: Operation,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<unknown> {
  served.add(reply);
  try {
    return answerTo(operation, await act(parts, id, operation, request), reply);
  } finally {
    begun(request).release();
  }
}

function act(parts: Parts, id: OperationId, operation: Operation, request: FastifyRequest): Promise<unknown> {
  const { principal, peer, spent } = begun(request);
  const call = {
    principal,
    peer,
    spent,
    params: checkRequest(operation.params, request.params),
    body: bodyOf(operation, request),
  };
  const handler = handlers[id] as (parts: Parts, call: Call<OperationId>) => Promise<unknown>; // the call was checked against this operation's schemas
  return handler(parts, call as Call<OperationId>);
}

function answerTo({ answer: { status, schema } }: Operation, answer: unknown, reply: FastifyReply): FastifyReply {
  if (answer instanceof Raw)
    return reply.code(status).type(answer.type).headers(answer.headers).send(Buffer.from(answer.bytes));
  if (answer instanceof Failing) return reply.code(503).send(answer.body);
  reply.code(status);
  if (schema === null || typeof schema === "string") return reply.send();
  return reply.type("application/json; charset=utf-8").send(JSON.stringify(schema.parse(answer)));
}

function bodyOf({ body }: Operation, request: FastifyRequest): unknown {
  const sent = request.body ?? null;
  if (body === null) {
    if (sent !== null) throw new Refusal("malformed", { message: "this request has no body" });
    return null;
  }
  if (sent === null) throw new Refusal("malformed", { message: "a body is missing" });
  if ((body === "evidence") !== sent instanceof Uint8Array) throw new Refusal("media-type");
  return body === "evidence" ? sent : checkRequest(body, sent);
}

function pageRoutes(page: Page): readonly RouteOptions[] {
  return [...page].flatMap(([name, file]) =>
    (name === "index.html" ? ["/"] : [`/${name}`, `/page/${name}`]).map((url) => ({
      ...{ method: "GET", url },
      handler: async (request: FastifyRequest, reply: FastifyReply) => {
        begun(request).operation = "page";
        return reply.type(file.type).header("content-security-policy", pagePolicy).send(Buffer.from(file.bytes));
      },
    })),
  );
}
