import { type ErrorFields, type ExitCode, IronclawError } from "../../policy/index.ts";
import type { Reason } from "../index.ts";

export type ServiceErrorCode =
  | "ERR_SERVICE_CONFIG"
  | "ERR_SERVICE_FILE"
  | "ERR_SERVICE_STORE"
  | "ERR_SERVICE_LISTEN"
  | "ERR_SERVICE_ANSWER"
  | "ERR_SERVICE_REFUSED"
  | "ERR_SERVICE_UNREACHABLE"
  | "ERR_WORKER_TIMEOUT"
  | "ERR_WORKER_FAILED"
  | "ERR_WORKER_BUSY"
  | "ERR_WORKER_CLOSED";

const malformed: ReadonlySet<ServiceErrorCode> = new Set<ServiceErrorCode>([
  "ERR_SERVICE_CONFIG",
  "ERR_SERVICE_ANSWER",
]);

/** The service cannot start, work or be talked to. Callers over HTTP see a {@link Refusal} instead, never this. */
export class ServiceError extends IronclawError {
  readonly code: ServiceErrorCode;
  readonly exitCode: ExitCode;

  constructor(code: ServiceErrorCode, what: string, fields?: ErrorFields) {
    super(what, fields);
    this.code = code;
    this.exitCode = code === "ERR_SERVICE_REFUSED" ? 1 : malformed.has(code) ? 3 : 4;
  }
}

/** What a caller is told when the answer is no: the status of each code, and all that a caller without a role reads about it. */
export const refusals = {
  malformed: { status: 400, text: "the request is not one of this interface" },
  unauthenticated: { status: 401, text: "a credential is needed, and this is none" },
  "token-refused": { status: 401, text: "the enrolment token is not one, or not one any more" },
  forbidden: { status: 403, text: "not with this role" },
  "not-found": { status: 404, text: "nothing by that name" },
  "name-taken": { status: 409, text: "the name belongs to another TPM" },
  clone: { status: 409, text: "this TPM is enrolled under another name" },
  "key-changed": { status: 409, text: "this machine is enrolled with another attestation key" },
  "nonce-over": { status: 410, text: "the nonce was used, has expired, or was never given out" },
  "enrolment-over": { status: 410, text: "the enrolment was answered, has expired, or was never begun" },
  "too-large": { status: 413, text: "the body is too large" },
  "media-type": { status: 415, text: "the body is of another media type" },
  "evidence-refused": { status: 422, text: "the evidence does not verify" },
  "endorsement-refused": { status: 422, text: "the endorsement does not verify" },
  "credential-refused": { status: 422, text: "the answer to the credential is another one" },
  "too-many": { status: 429, text: "too many requests, or too many open challenges" },
  internal: { status: 500, text: "the service failed" },
  busy: { status: 503, text: "the service is busy; try again" },
  "not-judged": { status: 503, text: "the evidence could not be judged in time" },
  closing: { status: 503, text: "the service is stopping" },
} as const satisfies Readonly<Record<string, { readonly status: number; readonly text: string }>>;

export type RefusalCode = keyof typeof refusals;
export const refusalCodes = Object.keys(refusals) as readonly RefusalCode[]; // the keys are the type

export interface RefusalDetail {
  /** For viewers and operators only. Never a secret. */
  readonly message?: string;
  readonly hint?: string;
  readonly reasons?: readonly Reason[];
}

/** A documented "no" of the interface. The detail reaches viewers and operators; everybody else learns the code. */
export class Refusal extends Error {
  readonly code: RefusalCode;
  readonly detail: RefusalDetail;

  constructor(code: RefusalCode, detail: RefusalDetail = {}) {
    super(refusals[code].text);
    this.code = code;
    this.detail = detail;
  }

  get status(): number {
    return refusals[this.code].status;
  }
}
