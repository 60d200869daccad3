import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { buildPage, type PageFile } from "../../attest/page/build.ts";
import { pagePolicy } from "../../attest/service/headers.ts";

/** An answer of another status than 200. */
export class Refused {
  readonly status: number;
  readonly error: object;
  constructor(status: number, error: object) {
    this.status = status;
    this.error = error;
  }
}

/** What the stand-in answers to one path below `/v1/`: JSON, bytes as they are, or a refusal. */
export type Answer = unknown;

export interface PageServer {
  readonly url: string;
  /** Path below `/v1/` to its answer; a missing one is 404. Change it between requests. */
  readonly answers: Map<string, Answer>;
  /** The bearer token that counts. */
  token: string;
  /** While set, every answer of the interface has this status. */
  fault: { readonly status: number; readonly headers?: Readonly<Record<string, string>> } | null;
  /** Method and path of every request, and what it carried. */
  readonly seen: {
    readonly method: string;
    readonly path: string;
    readonly authorization: string | null;
    readonly bytes: number;
  }[];
  close(): Promise<void>;
}

let page: Promise<ReadonlyMap<string, PageFile>> | null = null;

/** Built once for a whole test run. */
export function builtPage(): Promise<ReadonlyMap<string, PageFile>> {
  page ??= buildPage();
  return page;
}

/**
 * Serves the built page, and answers made up by the test where the real service could not be brought to say them: hostile names, faults.
 */
export async function startPageServer(): Promise<PageServer> {
  const files = await builtPage();
  const server = createServer((request, response) => void answer(request, response));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  const made: PageServer = {
    url: `http://127.0.0.1:${port}/`,
    answers: new Map(),
    token: "viewer-token",
    fault: null,
    seen: [],
    close: () => closeServer(server),
  };
  const answer = async (request: IncomingMessage, response: ServerResponse) => {
    let bytes = 0;
    for await (const chunk of request) bytes += (chunk as Buffer).length;
    const path = new URL(request.url ?? "/", made.url).pathname;
    const authorization = request.headers.authorization ?? null;
    made.seen.push({ method: request.method ?? "", path, authorization, bytes });
    if (path.startsWith("/v1/")) answerInterface(made, path.slice(4), authorization, response);
    else sendFile(files.get(path === "/" ? "index.html" : path.slice(1)), response);
  };
  return made;
}

function sendFile(file: PageFile | undefined, response: ServerResponse): void {
  if (file === undefined) {
    response.writeHead(404).end();
    return;
  }
  response.writeHead(200, {
    "content-type": file.type,
    "content-security-policy": pagePolicy,
    "x-content-type-options": "nosniff",
  });
  response.end(file.bytes);
}

function answerInterface(made: PageServer, path: string, authorization: string | null, response: ServerResponse): void {
  const send = (status: number, body: Answer, headers: Readonly<Record<string, string>> = {}) => {
    const raw = body instanceof Uint8Array;
    response.writeHead(status, { "content-type": raw ? "application/cmw+cbor" : "application/json", ...headers });
    response.end(raw ? body : JSON.stringify(body));
  };
  const error = (status: number, code: string, message: string, headers?: Readonly<Record<string, string>>) =>
    send(status, { error: { code, message } }, headers);
  const found = made.answers.get(path);
  if (made.fault !== null) error(made.fault.status, "fault", "a fault of the test", made.fault.headers);
  else if (authorization !== `Bearer ${made.token}`) error(401, "unauthorized", "no or unknown credential");
  else if (found === undefined) error(404, "not-found", "no such thing");
  else if (found instanceof Refused) send(found.status, { error: found.error });
  else send(200, found);
}

function closeServer(server: Server): Promise<void> {
  server.closeAllConnections();
  return new Promise((resolve) => server.close(() => resolve()));
}
