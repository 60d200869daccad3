import fastify, {
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  type FastifyServerOptions,
  LogController,
} from "fastify";
import { decodeJsonBody, maxBody, maxEvidenceBody } from "./bodies.ts";
import type { CredentialEntry, VerifierConfig } from "./config.ts";
import { Refusal } from "./errors.ts";
import type { Parts } from "./handlers.ts";
import { securityHeaders, strictTransport } from "./headers.ts";
import { PeerLimits, peerOf } from "./limits.ts";
import { evidenceType } from "./operations.ts";
import type { Page } from "./page.ts";
import { refuse, refuseConnection } from "./refuse.ts";
import { anonymous } from "./roles.ts";
import { routesOf } from "./routes.ts";
import { beginVisit, visitOf } from "./visit.ts";

export interface TlsFiles {
  readonly cert: Uint8Array;
  readonly key: Uint8Array;
  readonly clientCa: Uint8Array | null;
}

export interface AppOptions {
  readonly parts: Parts;
  readonly roles: readonly CredentialEntry[];
  readonly limits: VerifierConfig["limits"];
  readonly tls: TlsFiles | null;
  readonly page: Page;
  /** JSON lines; no secret, token or nonce is ever in one. */
  readonly log: { write(line: string): void } | null;
  now(): Date;
}

/** The interface over HTTP: who asks, how often, what may be asked, and that an answer is what it says. Opens no socket. */
export function createApp(options: AppOptions): FastifyInstance {
  const app: FastifyInstance = fastify(serverOptions(options));
  app.server.maxConnections = options.limits.connections;
  const peers = new PeerLimits(options.limits.perPeer, options.limits.peers);
  app.removeAllContentTypeParsers();
  app.addContentTypeParser(
    "application/json",
    { parseAs: "buffer", bodyLimit: maxBody },
    async (_: unknown, body: unknown) => decodeJsonBody(new Uint8Array(body as Buffer)), // `parseAs` says so
  );
  app.addContentTypeParser(
    evidenceType,
    { parseAs: "buffer", bodyLimit: maxEvidenceBody },
    async (_: unknown, body: unknown) => body,
  );
  app.addHook("onRequest", async (request, reply) => {
    const peer = peerOf(request.socket.remoteAddress);
    beginVisit(request, peer);
    reply.headers(options.tls === null ? securityHeaders : { ...securityHeaders, ...strictTransport });
    if (!peers.admit(peer, options.now().getTime())) throw new Refusal("too-many");
  });
  let closing = false;
  app.addHook("preClose", async () => {
    closing = true;
  });
  app.addHook("onSend", async (_, reply, payload) => {
    // Or the connection of a request that was still running would stay open behind it, and the service with it.
    if (closing) reply.header("connection", "close");
    return payload;
  });
  app.addHook("onResponse", async (request, reply) => report(options, request, reply));
  app.setErrorHandler((error, request, reply) => refuse(options.parts.metrics, request, reply, error));
  app.setNotFoundHandler((request, reply) => refuse(options.parts.metrics, request, reply, new Refusal("not-found")));
  for (const route of routesOf(options)) app.route(route);
  return app;
}

function serverOptions({ limits, tls, log, parts }: AppOptions): FastifyServerOptions {
  const headersTimeout = Math.min(10_000, 1000 * limits.requestSeconds);
  const server = { connectionsCheckingInterval: 1000, headersTimeout, maxHeaderSize: 16 << 10 };
  return {
    // Which of the two it is decides the type of the server, and nothing here depends on it.
    ...((tls === null ? { http: server } : { https: { ...server, ...tlsOptions(tls) } }) as object),
    requestTimeout: 1000 * limits.requestSeconds,
    keepAliveTimeout: 30_000,
    bodyLimit: maxBody,
    requestIdHeader: false,
    exposeHeadRoutes: false,
    forceCloseConnections: "idle",
    logController: new LogController({ disableRequestLogging: true }),
    // Requests are not described: their paths and headers have names, ids and nonces in them.
    logger:
      log === null
        ? false
        : { level: "info", stream: log, base: null, serializers: { req: nothing, res: nothing, err: messageOnly } },
    clientErrorHandler: refuseConnection,
    // A path that is none of HTTP's never comes to a hook.
    frameworkErrors: (_: unknown, request: FastifyRequest, reply: FastifyReply) => {
      refuse(parts.metrics, request, reply.headers(securityHeaders), new Refusal("malformed"));
    },
  };
}

const nothing = () => ({});
const messageOnly = (error: Error) => ({ type: error.name, message: error.message, stack: "" });

function tlsOptions({ cert, key, clientCa }: TlsFiles) {
  const own = { cert: Buffer.from(cert), key: Buffer.from(key), minVersion: "TLSv1.3" as const };
  // Machines have no certificate: one that is shown is judged with the roles, not by the handshake.
  return clientCa === null ? own : { ...own, ca: Buffer.from(clientCa), requestCert: true, rejectUnauthorized: false };
}

const unseen = { operation: "none", principal: anonymous, startedAt: performance.now() };

/** One line for each request, and the metrics. */
function report({ parts }: AppOptions, request: FastifyRequest, reply: FastifyReply): void {
  const { operation, principal, startedAt } = visitOf(request) ?? unseen;
  parts.metrics.request(operation, reply.statusCode);
  const ms = Math.round(performance.now() - startedAt);
  request.log.info({ operation, status: reply.statusCode, role: principal.role, by: principal.name, ms }, "answered");
}
