import type * as z from "zod";
import { fromBase64, toBase64 } from "../../policy/index.ts";
import type { ChallengeBook, OpenChallenge } from "./challenges.ts";
import type { Enrolments, OpenEnrolment } from "./enrolments.ts";
import { Refusal } from "./errors.ts";
import type { Fleet } from "./fleet.ts";
import type { Metrics } from "./metrics.ts";
import { evidenceType, type OperationId, type operations } from "./operations.ts";
import type { JudgePool } from "./pool.ts";
import { mayAct, type Principal } from "./roles.ts";
import type { Slots } from "./slots.ts";
import type { MachineRecord, StoredReport, VerifierStore } from "./store.ts";

/** What the operations work on. */
export interface Parts {
  readonly store: VerifierStore;
  readonly challenges: ChallengeBook;
  readonly enrolments: Enrolments;
  readonly fleet: Fleet;
  readonly pool: JudgePool;
  /** Of reports on their way. */
  readonly slots: Slots;
  readonly metrics: Metrics;
  readonly openApi: object;
  readonly keys: object;
  now(): Date;
}

type Table = typeof operations;
type BodyOf<O> = O extends { readonly body: infer B }
  ? B extends z.ZodType
    ? z.infer<B>
    : B extends "evidence"
      ? Uint8Array
      : null
  : never;

/** One request, checked. */
export interface Call<Id extends OperationId> {
  readonly principal: Principal;
  readonly peer: string;
  readonly params: z.infer<Table[Id]["params"]>;
  readonly body: BodyOf<Table[Id]>;
  /** What was taken away from whoever may come after, before anything else was looked at. */
  readonly spent: Id extends keyof Spent ? Spent[Id] : null;
}

/** What a request spends by being made, whatever becomes of it. */
export interface Spent {
  readonly judgeEvidence: OpenChallenge;
  readonly finishEnrolment: OpenEnrolment;
}

export interface Head {
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>;
  readonly params: Readonly<Record<string, unknown>>;
}

/** Runs on a request's head, so that a body which is malformed, too large or never comes spends it too. */
export const spend: { readonly [Id in keyof Spent]: (parts: Parts, head: Head) => Spent[Id] } = {
  judgeEvidence: ({ challenges, metrics }, { headers }) => {
    const challenge = challenges.take(nonceOf(headers["ironclaw-nonce"]));
    metrics.challenge(challenge === null ? "refused" : "answered");
    if (challenge === null) throw new Refusal("nonce-over");
    return challenge;
  },
  finishEnrolment: ({ enrolments }, { params }) => enrolments.take(`${params["id"]}`),
};

/** An answer that is no JSON, or that has another status than the operation's first. */
export class Raw {
  readonly bytes: Uint8Array | string;
  readonly type: string;
  readonly headers: Readonly<Record<string, string>>;

  constructor(bytes: Uint8Array | string, type: string, headers: Readonly<Record<string, string>> = {}) {
    this.bytes = bytes;
    this.type = type;
    this.headers = headers;
  }
}

export class Failing {
  readonly body: object;
  constructor(body: object) {
    this.body = body;
  }
}

function nonceOf(text: unknown): Uint8Array {
  const nonce = typeof text === "string" && text.length === 44 ? bytesOf(text) : null;
  if (nonce?.length === 32) return nonce;
  throw new Refusal("malformed", { message: "Ironclaw-Nonce: expected 32 bytes in base64" });
}

export type Handlers = { readonly [Id in OperationId]: (parts: Parts, call: Call<Id>) => Promise<unknown> };

/** What each operation does. Answers are checked against their schemas behind it. */
export const handlers: Handlers = {
  makeEnrolmentToken: async ({ enrolments }, { body: { name, ttlSeconds } }) => {
    const { token, expires } = await enrolments.makeToken(name, ttlSeconds);
    return { token, name, expires: expires.toISOString() };
  },
  beginEnrolment: async ({ enrolments }, { body }) => {
    const { id, credentialBlob, encryptedSecret, expires } = await enrolments.begin({
      token: body.token,
      name: body.name,
      ekCertificates: body.ekCertificates.map((certificate) => bytesOf(certificate)),
      ekProfile: body.ekProfile ?? null,
      akPublic: bytesOf(body.akPublic),
    });
    const credential = { credentialBlob: toBase64(credentialBlob), encryptedSecret: toBase64(encryptedSecret) };
    return { enrolment: id, ...credential, expires: expires.toISOString() };
  },
  finishEnrolment: async ({ enrolments }, { spent, body: { secret } }) => {
    const { name, ekName, akName, assurance } = await enrolments.finish(spent, bytesOf(secret));
    return { name, ekName, akName, assurance };
  },
  makeChallenge: async ({ challenges, store, metrics }, { principal, peer, body: { machine } }) => {
    if (mayAct(principal.role, "viewer") && (await store.machine(machine)) === null) throw new Refusal("not-found");
    const { challenge, expires } = challenges.issue(machine, peer);
    metrics.challenge("issued");
    const { nonce, bank, pcrs } = challenge;
    return { nonce: toBase64(nonce), bank, pcrs: [...pcrs], expires: expires.toISOString() };
  },
  judgeEvidence: async ({ fleet }, { principal, spent, body }) => {
    const forViewer = mayAct(principal.role, "viewer");
    const { result, ear } = await fleet.receive(spent, body, forViewer);
    const short = { tier: result.tier, machine: spent.machine, ear };
    return forViewer ? { ...short, result } : short;
  },
  listMachines: async ({ store }) => (await store.machines()).map(rowOf),
  showMachine: async ({ store }, { params: { name } }) => detailOf(store, await found(store, name)),
  retireMachine: ({ fleet }, { params: { name } }) => fleet.retire(name),
  clearFlags: async ({ fleet, store }, { params: { name }, body: { clear } }) => {
    await fleet.clearFlags(name, clear);
    return detailOf(store, await found(store, name));
  },
  acceptContinuity: async ({ fleet, store }, { params: { name }, body: { accept } }) => {
    await fleet.acceptContinuity(name, accept === "reset" ? accept : Number(accept));
    return detailOf(store, await found(store, name));
  },
  listReports: async ({ store }, { params: { name } }) => {
    const machine = await found(store, name);
    const rows = await store.reports(machine.id);
    return rows.map(({ id, at, tier, codes }) => ({ id: `${id}`, at, tier, codes: [...codes] }));
  },
  readReport: async ({ store }, { params: { name, id } }) => {
    const { evidence, challenge } = await storedReport(store, name, id);
    const headers = { "ironclaw-nonce": toBase64(challenge.nonce), "ironclaw-bank": challenge.bank };
    return new Raw(evidence, evidenceType, { ...headers, "ironclaw-pcrs": challenge.pcrs.join(",") });
  },
  readResult: async ({ store }, { params: { name, id } }) => {
    const { result, reasons } = await storedReport(store, name, id);
    if (result === null) throw new Refusal("evidence-refused", { reasons });
    return result;
  },
  judgeAgain: ({ fleet }, { params: { name, id } }) => fleet.judgeAgain(name, Number(id)),
  readOpenApi: async ({ openApi }) => openApi,
  readKeys: async ({ keys }) => keys,
  checkHealth: async ({ store, pool }) => {
    const reads = await store.check().then(
      () => true,
      () => false,
    );
    const status = { status: reads && pool.workers > 0 ? "ok" : "failing", store: reads, workers: pool.workers };
    return status.status === "ok" ? status : new Failing(status);
  },
  readMetrics: async ({ metrics, store, now }) => {
    metrics.fleet(await store.census());
    metrics.ages(await store.machines(), now());
    return new Raw(await metrics.registry.metrics(), metrics.registry.contentType);
  },
};

async function found(store: VerifierStore, name: string): Promise<MachineRecord> {
  const machine = await store.machine(name);
  if (machine === null) throw new Refusal("not-found");
  return machine;
}

async function storedReport(store: VerifierStore, name: string, id: string): Promise<StoredReport> {
  const report = await store.report((await found(store, name)).id, Number(id));
  if (report === null) throw new Refusal("not-found");
  return report;
}

function rowOf({ name, enrolment, view }: MachineRecord) {
  const { state, tier, release, launch, lastSeen, violations, flags } = view;
  const { assurance } = enrolment;
  return { name, state, tier, assurance, release, launch, lastSeen, violations, flags: [...flags] };
}

async function detailOf(store: VerifierStore, machine: MachineRecord) {
  const { id, enrolment, enrolledAt, view, lastReport } = machine;
  const { ekName, akName, assurance, ekCertificateSha256 } = enrolment;
  const report = lastReport === null ? null : await store.report(id, lastReport);
  return {
    ...rowOf(machine),
    since: view.since,
    enrolment: { ekName, akName, assurance, ekCertificateSha256, enrolledAt },
    continuity: view.continuity,
    lastReport: report === null ? null : `${report.id}`,
    result: report?.result ?? null,
    reasons: report?.reasons ?? [],
    events: await store.events(id),
  };
}

/** The schema has seen that it is base64; another spelling of the same bytes is refused here. */
function bytesOf(text: string): Uint8Array {
  try {
    return fromBase64(text);
  } catch {
    throw new Refusal("malformed", { message: "base64: expected the one encoding of its bytes" });
  }
}
