import { type ClientRequest, request as plainRequest } from "node:http";
import { request as tlsRequest } from "node:https";
import { isIP } from "node:net";
import type * as z from "zod";
import { IronclawError, parseJson, toBase64 } from "../../policy/index.ts";
import type { Challenge, EkProfileName, Enrolment, Tier } from "../index.ts";
import { isLoopback } from "./config.ts";
import { type RefusalCode, ServiceError } from "./errors.ts";
import type { FlagName } from "./machine-state.ts";
import { evidenceType } from "./operations.ts";
import * as schemas from "./schemas.ts";

export interface ClientOptions {
  /** `https://…`, `http://` to this machine, or `unix:/path`. */
  readonly to: string;
  /** PEM of the CA that must stand behind an `https:` service; `null`: the system's. */
  readonly ca: Uint8Array | null;
  readonly timeoutSeconds?: number;
}

export interface BeginRequest {
  readonly token: string;
  readonly name: string;
  readonly ekCertificates: readonly Uint8Array[];
  readonly ekProfile: EkProfileName | null;
  readonly akPublic: Uint8Array;
}

export interface BegunEnrolment {
  readonly enrolment: string;
  readonly credentialBlob: Uint8Array;
  readonly encryptedSecret: Uint8Array;
}

/**
 * A machine's side of the interface. Every method throws ServiceError: `ERR_SERVICE_REFUSED` where the service says no (`got` is its code),
 * `ERR_SERVICE_UNREACHABLE` where nobody answers, `ERR_SERVICE_ANSWER` for an answer that is none.
 */
export interface VerifierClient {
  /** With an operator's token: one for a machine that is to enrol. */
  invite(
    machine: string,
    ttlSeconds: number,
    operatorToken: string,
  ): Promise<{ readonly token: string; readonly expires: string }>;
  challenge(machine: string): Promise<Challenge>;
  judge(nonce: Uint8Array, report: Uint8Array): Promise<{ readonly tier: Tier; readonly ear: string }>;
  beginEnrolment(order: BeginRequest): Promise<BegunEnrolment>;
  finishEnrolment(
    enrolment: string,
    secret: Uint8Array,
  ): Promise<Pick<Enrolment, "name" | "ekName" | "akName" | "assurance">>;
  /** With a viewer's or operator's token: the fleet. */
  machines(token: string): Promise<z.infer<typeof schemas.fleet>>;
  /** With an operator's token, as all that follow: its name and its EK can be enrolled again. */
  retire(machine: string, token: string): Promise<void>;
  /** Takes flags away that somebody has looked at; resolves with those that are left. */
  clearFlags(machine: string, flags: readonly FlagName[], token: string): Promise<readonly FlagName[]>;
}

const maxAnswer = 1 << 20;

/** Opens no connection yet. @throws ServiceError `ERR_SERVICE_CONFIG` for an address that is none, or that would send a token in the clear */
export function openVerifierClient(options: ClientOptions): VerifierClient {
  const connection = { ...connectionOf(options), timeout: 1000 * (options.timeoutSeconds ?? 60) };
  const ask = (method: string, path: string, headers: Headers, body: Uint8Array = new Uint8Array()) =>
    exchange(connection, { method, path, headers, body });
  const post = async <T>(path: string, schema: z.ZodType<T>, body: unknown, more: Headers = {}): Promise<T> => {
    const bytes = new TextEncoder().encode(JSON.stringify(body));
    return read(schema, await ask("POST", path, { "content-type": "application/json", ...more }, bytes));
  };
  return {
    invite: (name, ttlSeconds, operatorToken) => {
      return post("/v1/enrolment-tokens", schemas.enrolmentToken, { name, ttlSeconds }, bearer(operatorToken));
    },
    challenge: async (machine) => {
      const { nonce, bank, pcrs } = await post("/v1/challenges", schemas.challengeAnswer, { machine });
      return { nonce: bytesOf(nonce), bank, pcrs };
    },
    judge: async (nonce, report) => {
      const headers = { "content-type": evidenceType, "ironclaw-nonce": toBase64(nonce) };
      const { tier, ear } = read(schemas.judged, await ask("POST", "/v1/evidence", headers, report));
      return { tier, ear };
    },
    beginEnrolment: async ({ token, name, ekCertificates, ekProfile, akPublic }) => {
      const begun = await post("/v1/enrolments", schemas.begun, {
        ...{ token, name, ekCertificates: ekCertificates.map(toBase64), akPublic: toBase64(akPublic) },
        ...(ekProfile === null ? {} : { ekProfile }),
      });
      const { enrolment, credentialBlob, encryptedSecret } = begun;
      return { enrolment, credentialBlob: bytesOf(credentialBlob), encryptedSecret: bytesOf(encryptedSecret) };
    },
    finishEnrolment: (enrolment, secret) =>
      post(`/v1/enrolments/${enrolment}`, schemas.enrolled, { secret: toBase64(secret) }),
    machines: async (token) => read(schemas.fleet, await ask("GET", "/v1/machines", bearer(token))),
    retire: async (machine, token) => {
      const reply = await ask("DELETE", `/v1/machines/${machine}`, bearer(token));
      if (reply.status !== 204) throw refused(reply);
    },
    clearFlags: async (machine, flags, token) =>
      (await post(`/v1/machines/${machine}/flags`, schemas.machineDetail, { clear: flags }, bearer(token))).flags,
  };
}

type Headers = Readonly<Record<string, string>>;

function bearer(token: string): Headers {
  return { authorization: `Bearer ${token}` };
}

interface Connection {
  readonly start: (options: object) => ClientRequest;
  readonly target: object;
}

function connectionOf({ to, ca }: ClientOptions): Connection {
  if (to.startsWith("unix:/"))
    return { start: (options) => plainRequest(options), target: { socketPath: to.slice(5) } };
  const url = URL.canParse(to) ? new URL(to) : null;
  const host = url?.hostname.replace(/^\[|\]$/g, "") ?? "";
  const { port, protocol } = url ?? {};
  if (protocol === "https:") {
    const trust = { minVersion: "TLSv1.3", ...(ca === null ? {} : { ca: Buffer.from(ca) }) };
    return {
      start: (options) => tlsRequest(options),
      target: { host, port: port || 443, ...(isIP(host) === 0 ? { servername: host } : {}), ...trust },
    };
  }
  if (protocol === "http:" && isLoopback(host))
    return { start: (options) => plainRequest(options), target: { host, port: port || 80 } };
  throw new ServiceError("ERR_SERVICE_CONFIG", "service address", {
    expected: "https://…, http:// to this machine, or unix:/path",
    got: url === null ? "another text" : `${url.protocol}//${url.host}`,
    hint: "without TLS anybody on the way reads tokens and changes answers",
  });
}

interface Question {
  readonly method: string;
  readonly path: string;
  readonly headers: Headers;
  readonly body: Uint8Array;
}

interface Reply {
  readonly status: number;
  readonly body: Uint8Array;
}

function exchange(
  { start, target, timeout }: Connection & { readonly timeout: number },
  { method, path, headers, body }: Question,
): Promise<Reply> {
  return new Promise((resolve, reject) => {
    const fail = (got: string, cause?: unknown) =>
      reject(new ServiceError("ERR_SERVICE_UNREACHABLE", "verifier service", { expected: "an answer", got, cause }));
    const length = body.length === 0 ? {} : { "content-length": `${body.length}` };
    const request = start({ ...target, path, method, headers: { ...headers, ...length }, timeout, agent: false });
    request.on("timeout", () => request.destroy(new Error("none in time")));
    request.on("error", (cause: NodeJS.ErrnoException) => fail(cause.code ?? cause.message, cause));
    request.on("response", (response) => {
      const chunks: Uint8Array[] = [];
      let size = 0;
      response.on("data", (chunk: Buffer) => {
        size += chunk.length;
        if (size > maxAnswer) request.destroy(new Error("more than it may be"));
        else chunks.push(chunk);
      });
      response.on("error", (cause: Error) => fail(cause.message, cause));
      response.on("end", () =>
        resolve({ status: response.statusCode ?? 0, body: new Uint8Array(Buffer.concat(chunks)) }),
      );
    });
    request.end(body);
  });
}

/** Either what the schema says, or the service's own code. */
function read<T>(schema: z.ZodType<T>, reply: Reply): T {
  const { status, body } = reply;
  if (status < 200 || status >= 300) throw refused(reply);
  const parsed = schema.safeParse(parseAnswer(body, status));
  if (parsed.success) return parsed.data;
  throw strange(status);
}

function refused({ status, body }: Reply): ServiceError {
  const answer = schemas.errorSchema.safeParse(parseAnswer(body, status));
  if (!answer.success) return strange(status);
  const { code, message } = answer.data.error;
  return new ServiceError("ERR_SERVICE_REFUSED", `verifier service: ${message}`, { expected: "yes", got: code });
}

function parseAnswer(body: Uint8Array, status: number): unknown {
  try {
    return parseJson(body, "answer", { maxBytes: maxAnswer, maxDepth: 16 });
  } catch (error) {
    if (error instanceof IronclawError) throw strange(status);
    throw error;
  }
}

/** The code of a refusal, as far as one can wait it out; `null` for any other failure. */
export function refusalCodeOf(error: unknown): RefusalCode | null {
  if (!(error instanceof ServiceError) || error.code !== "ERR_SERVICE_REFUSED") return null;
  return (error.got ?? null) as RefusalCode | null; // `read` put it there, checked
}

function bytesOf(text: string): Uint8Array {
  return new Uint8Array(Buffer.from(text, "base64"));
}

function strange(status: number): ServiceError {
  return new ServiceError("ERR_SERVICE_ANSWER", "verifier service", {
    expected: "an answer of its interface",
    got: `status ${status} with another body`,
  });
}
