import * as z from "zod";
import type { RefusalCode } from "./errors.ts";
import type { Role } from "./roles.ts";
import * as schemas from "./schemas.ts";

/** Media type of a report. */
export const evidenceType = "application/cmw+cbor";

export interface Operation {
  readonly method: "GET" | "POST" | "DELETE";
  /** In the form of OpenAPI. */
  readonly path: string;
  readonly role: Role;
  readonly does: string;
  readonly params: z.ZodObject;
  /** `null`: no body; "evidence": bytes of the media type `evidenceType`. */
  readonly body: z.ZodType | "evidence" | null;
  /** `null`: no content. A text is a media type whose bytes have no schema here. */
  readonly answer: { readonly status: 200 | 201 | 204; readonly schema: z.ZodType | string | null };
  /** Besides those that every operation can give. */
  readonly refusals: readonly RefusalCode[];
}

const nothing = z.strictObject({});
const machine = z.strictObject({ name: schemas.machineName });
const report = z.strictObject({ name: schemas.machineName, id: schemas.reportId });

/** The interface: what is not in this table does not exist. */
export const operations = {
  makeEnrolmentToken: {
    ...{ method: "POST", path: "/v1/enrolment-tokens", role: "operator", params: nothing },
    does: "Makes a token with which one machine of this name can enrol, once.",
    body: schemas.enrolmentTokenRequest,
    answer: { status: 201, schema: schemas.enrolmentToken },
    refusals: ["malformed", "media-type", "too-large"],
  },
  beginEnrolment: {
    ...{ method: "POST", path: "/v1/enrolments", role: "none", params: nothing },
    does: "Spends a token and gives a credential that only the TPM with this EK and AK opens.",
    body: schemas.beginRequest,
    answer: { status: 201, schema: schemas.begun },
    refusals: ["malformed", "media-type", "too-large", "token-refused", "endorsement-refused"],
  },
  finishEnrolment: {
    ...{ method: "POST", path: "/v1/enrolments/{id}", role: "none" },
    params: z.strictObject({ id: schemas.enrolmentId }),
    does: "Takes the one answer to the credential and enrols the machine.",
    body: schemas.finishRequest,
    answer: { status: 200, schema: schemas.enrolled },
    refusals: [
      ...(["malformed", "media-type", "too-large", "enrolment-over", "credential-refused"] as const),
      ...(["name-taken", "clone", "key-changed"] as const),
    ],
  },
  makeChallenge: {
    ...{ method: "POST", path: "/v1/challenges", role: "none", params: nothing },
    does: "Gives a nonce for one report of this machine. Callers without a role get one for any name.",
    body: schemas.challengeRequest,
    answer: { status: 201, schema: schemas.challengeAnswer },
    refusals: ["malformed", "media-type", "too-large", "not-found"],
  },
  judgeEvidence: {
    ...{ method: "POST", path: "/v1/evidence", role: "none", params: nothing },
    does: "Judges a report that answers the challenge whose nonce is in the header Ironclaw-Nonce, and spends the nonce.",
    body: "evidence",
    answer: { status: 200, schema: schemas.judged },
    refusals: ["malformed", "media-type", "too-large", "nonce-over", "evidence-refused", "busy", "not-judged"],
  },
  listMachines: {
    ...{ method: "GET", path: "/v1/machines", role: "viewer", params: nothing, body: null },
    does: "The fleet.",
    answer: { status: 200, schema: schemas.fleet },
    refusals: [],
  },
  showMachine: {
    ...{ method: "GET", path: "/v1/machines/{name}", role: "viewer", params: machine, body: null },
    does: "One machine: enrolment, state, last verdict, history.",
    answer: { status: 200, schema: schemas.machineDetail },
    refusals: ["malformed", "not-found"],
  },
  retireMachine: {
    ...{ method: "DELETE", path: "/v1/machines/{name}", role: "operator", params: machine, body: null },
    does: "Retires a machine; its name and its EK can be enrolled again.",
    answer: { status: 204, schema: null },
    refusals: ["malformed", "not-found"],
  },
  clearFlags: {
    ...{ method: "POST", path: "/v1/machines/{name}/flags", role: "operator", params: machine },
    does: "Takes flags away that an operator has looked at.",
    body: schemas.flagsRequest,
    answer: { status: 200, schema: schemas.machineDetail },
    refusals: ["malformed", "media-type", "too-large", "not-found"],
  },
  acceptContinuity: {
    ...{ method: "POST", path: "/v1/machines/{name}/continuity", role: "operator", params: machine },
    does: "Begins the comparison of reports anew: with nothing, or with a stored report that is true but for what it follows.",
    body: schemas.continuityRequest,
    answer: { status: 200, schema: schemas.machineDetail },
    refusals: ["malformed", "media-type", "too-large", "not-found", "evidence-refused", "busy", "not-judged"],
  },
  listReports: {
    ...{ method: "GET", path: "/v1/machines/{name}/reports", role: "viewer", params: machine, body: null },
    does: "The machine's stored reports, newest first.",
    answer: { status: 200, schema: schemas.reportRows },
    refusals: ["malformed", "not-found"],
  },
  readReport: {
    ...{ method: "GET", path: "/v1/machines/{name}/reports/{id}", role: "viewer", params: report, body: null },
    does: "A report as it came. The headers Ironclaw-Nonce, Ironclaw-Bank and Ironclaw-Pcrs have its challenge.",
    answer: { status: 200, schema: evidenceType },
    refusals: ["malformed", "not-found"],
  },
  readResult: {
    ...{ method: "GET", path: "/v1/machines/{name}/reports/{id}/result", role: "viewer", params: report, body: null },
    does: "The verdict of that time; evidence-refused with its reasons where the report did not verify.",
    answer: { status: 200, schema: schemas.resultSchema },
    refusals: ["malformed", "not-found", "evidence-refused"],
  },
  judgeAgain: {
    ...{
      method: "POST",
      path: "/v1/machines/{name}/reports/{id}/appraisal",
      role: "viewer",
      params: report,
      body: null,
    },
    does: "Judges the stored report by the present policy and releases, as of the time when it came. Changes nothing.",
    answer: { status: 200, schema: schemas.resultSchema },
    refusals: ["malformed", "not-found", "evidence-refused", "busy", "not-judged"],
  },
  readOpenApi: {
    ...{ method: "GET", path: "/v1/openapi.json", role: "none", params: nothing, body: null },
    does: "This document.",
    answer: { status: 200, schema: z.looseObject({ openapi: z.literal("3.1.0") }) },
    refusals: [],
  },
  readKeys: {
    ...{ method: "GET", path: "/v1/keys", role: "none", params: nothing, body: null },
    does: "JWK set of the key that signs results.",
    answer: { status: 200, schema: schemas.keySet },
    refusals: [],
  },
  checkHealth: {
    ...{ method: "GET", path: "/healthz", role: "none", params: nothing, body: null },
    does: "Whether store and judging threads work; status failing comes with 503.",
    answer: { status: 200, schema: schemas.health },
    refusals: [],
  },
  readMetrics: {
    ...{ method: "GET", path: "/metrics", role: "viewer", params: nothing, body: null },
    does: "Prometheus metrics.",
    answer: { status: 200, schema: "text/plain" },
    refusals: [],
  },
} as const satisfies Readonly<Record<string, Operation>>;

export type OperationId = keyof typeof operations;

/** What any operation can answer: a credential that is nobody's, another site's request, too many, a service that fails or stops. */
const commonRefusals: readonly RefusalCode[] = ["unauthenticated", "forbidden", "too-many", "internal", "closing"];

/** All codes that an operation can answer with. */
export function refusalsOf({ refusals }: Operation): readonly RefusalCode[] {
  return [...new Set([...commonRefusals, ...refusals])];
}
