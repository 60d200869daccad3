import { randomBytes } from "node:crypto";
import { resolve } from "node:path";
import type { FastifyInstance } from "fastify";
import type { SigningKey } from "../../policy/index.ts";
import { earKeyId } from "../index.ts";
import { createApp, type TlsFiles } from "./app.ts";
import { ChallengeBook } from "./challenges.ts";
import { checkConfig, type VerifierConfig } from "./config.ts";
import { publicJwk, readBounded, readTrustDocuments, type TrustDocuments } from "./documents.ts";
import { Enrolments } from "./enrolments.ts";
import { Fleet } from "./fleet.ts";
import { listen } from "./listen.ts";
import { Metrics } from "./metrics.ts";
import { openApiDocument } from "./openapi.ts";
import { loadPage, type Page } from "./page.ts";
import { JudgePool } from "./pool.ts";
import { Slots } from "./slots.ts";
import type { VerifierStore } from "./store.ts";
import { openStore } from "./store-thread.ts";

export interface ServiceDependencies {
  /** Where relative paths of the configuration start. */
  readonly folder: string;
  /** Reads a signing key: files and tokens are not this folder's business. */
  loadKey(path: string): Promise<SigningKey>;
  readonly log: { write(line: string): void } | null;
  /** Default: the system's clock. */
  now?(): Date;
  /** Milliseconds that never go back, for what lives a short time in memory. Default: the process's own. */
  monotonic?(): number;
  /** Default: the system's generator. */
  random?(bytes: number): Uint8Array;
  /** Default: SQLite at `config.store`. */
  readonly store?: VerifierStore;
  /** Default: the page of `attest/page`. */
  readonly page?: Page;
  /** The judging threads' program; tests put in one that crashes or hangs. */
  readonly workerProgram?: URL;
}

export interface Service {
  /** For `inject`; `listen` opens it to others. */
  readonly app: FastifyInstance;
  /** Resolves with the address that was opened. @throws ServiceError `ERR_SERVICE_LISTEN` */
  listen(): Promise<string>;
  /**
   * Reads policy, releases and anchors again, after the reload before it. What does not verify changes nothing: then the old ones stay in force.
   * @throws IronclawError why not
   */
  reload(): Promise<TrustDocuments>;
  /** What time does to the machines; by itself every few seconds once it listens. */
  sweep(): Promise<void>;
  /** Takes no more requests, ends those that run, closes the store. May be called twice. */
  close(): Promise<void>;
}

const sweepSeconds = 2;

/**
 * Reads everything that the configuration names and puts the parts together. Nothing listens yet.
 * @throws ServiceError `ERR_SERVICE_CONFIG`, `ERR_SERVICE_FILE`, `ERR_SERVICE_STORE`; what `loadKey` throws
 */
export async function openVerifierService(config: VerifierConfig, given: ServiceDependencies): Promise<Service> {
  checkConfig(config);
  const at = (path: string) => resolve(given.folder, path);
  const { now = () => new Date(), random = (bytes: number) => new Uint8Array(randomBytes(bytes)) } = given;
  const { monotonic = () => performance.now() } = given;
  const key = await given.loadKey(at(config.signingKey));
  const kid = earKeyId(key.spkiPem);
  let documents = await readTrustDocuments(config, at);
  const tls = await readTls(config.tls, at);
  const complain = (problem: string) => given.log?.write(`${JSON.stringify({ level: 40, msg: problem })}\n`);
  const page = given.page ?? (await loadPage(complain));
  const store = given.store ?? openStore(at(config.store), config.retention);

  const metrics: Metrics = new Metrics({
    queueDepth: () => pool.depth,
    openChallenges: () => challenges.size,
    workers: () => pool.workers,
  });
  const pool = new JudgePool(judgementOf(documents), {
    ...{ workers: config.limits.workers, queue: config.limits.queue, judgeSeconds: config.limits.judgeSeconds },
    failed: (kind) => metrics.workerFailed(kind),
    ...(given.workerProgram === undefined ? {} : { program: given.workerProgram }),
  });
  const sources = { store, metrics, now, monotonic, random };
  const challenges = new ChallengeBook(config.challenge, sources);
  const enrolments = new Enrolments(config.enrolment, { ...sources, anchors: () => documents.endorsementAnchors });
  const fleet = new Fleet(config, { ...sources, pool, key });
  const keys = { keys: [publicJwk(key, kid)] };
  const slots = new Slots(config.limits.queue + config.limits.workers);
  const parts = { store, challenges, enrolments, fleet, pool, slots, metrics, keys, openApi: openApiDocument(), now };
  const app = createApp({ parts, roles: config.roles, limits: config.limits, tls, page, log: given.log, now });

  let timer: NodeJS.Timeout | null = null;
  let closing: Promise<void> | null = null;
  return {
    app,
    listen: async () => {
      const address = await listen(app, config.listen, at);
      timer = sweepEvery(app, () => fleet.sweep());
      return address;
    },
    // Of two, the documents of the later one are in force behind them.
    reload: oneAtATime(reload),
    sweep: () => fleet.sweep(),
    close: () => {
      closing ??= stop();
      return closing;
    },
  };

  async function reload(): Promise<TrustDocuments> {
    try {
      documents = await readTrustDocuments(config, at);
    } catch (error) {
      metrics.reload("kept");
      throw error;
    }
    pool.replaceJudgement(judgementOf(documents));
    metrics.reload("done");
    return documents;
  }

  async function stop(): Promise<void> {
    if (timer !== null) clearInterval(timer);
    // A caller that never ends its request must not keep the service up.
    const limit = setTimeout(() => {
      pool.abort();
      app.server.closeAllConnections();
    }, 1000 * config.limits.drainSeconds);
    await app.close();
    await pool.close();
    clearTimeout(limit);
    await store.close();
  }
}

/** Calls follow each other in their order, whatever becomes of each. */
function oneAtATime<T>(act: () => Promise<T>): () => Promise<T> {
  let last: Promise<unknown> = Promise.resolve();
  return () => {
    const turn = last.then(act);
    last = turn.catch(() => undefined);
    return turn;
  };
}

function judgementOf({ policy, releases }: TrustDocuments) {
  return { policy, references: releases };
}

async function readTls(tls: VerifierConfig["tls"], at: (path: string) => string): Promise<TlsFiles | null> {
  if (tls === null) return null;
  return {
    cert: await readBounded(at(tls.certificate), "TLS certificate"),
    key: await readBounded(at(tls.key), "TLS key"),
    clientCa: tls.clientCa === null ? null : await readBounded(at(tls.clientCa), "client CA"),
  };
}

/** One sweep at a time; a failure is said and tried again at the next. */
function sweepEvery(app: FastifyInstance, sweep: () => Promise<void>): NodeJS.Timeout {
  let running = false;
  return setInterval(async () => {
    if (running) return;
    running = true;
    await sweep().catch((error: unknown) =>
      app.log.error({ failure: error instanceof Error ? error.message : "unknown" }, "sweep failed"),
    );
    running = false;
  }, 1000 * sweepSeconds);
}
