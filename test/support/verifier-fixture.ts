import { createHash, randomBytes } from "node:crypto";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type AppraisalPolicyDocument,
  type Challenge,
  defaultAppraisalPolicy,
  encodeAppraisalPolicy,
  encodeEvidence,
  type LaunchEvent,
  launchEvent,
  machineUeid,
  measureExtraData,
  parseQuoteAttest,
  predictAgentPcr,
  type QuoteAttest,
} from "../../attest/index.ts";
import {
  defaultConfig,
  openVerifierService,
  type Service,
  type ServiceDependencies,
  type VerifierConfig,
} from "../../attest/service/index.ts";
import { encodeAnchors, fromHex, type SigningKey, toHex } from "../../policy/index.ts";
import {
  createSigningKey,
  createSigningKeyFile,
  loadSigningKey,
  signDelegation,
  signRelease,
} from "../../seal/index.ts";
import { makeEvidence, makeReference, type Scene } from "./evidence-maker.ts";
import { encodeQuote } from "./quote-writer.ts";
import { makeAuthority, type SoftAuthority, type SoftTpm } from "./soft-tpm.ts";

export const VIEWER = "viewer-token-of-a-test";
export const OPERATOR = "operator-token-of-a-test";
export const bearer = (token: string) => ({ authorization: `Bearer ${token}` });
const digest = (text: string) => createHash("sha256").update(text).digest("hex");

export interface BenchOptions {
  readonly config?: (config: VerifierConfig) => VerifierConfig;
  readonly policy?: Partial<AppraisalPolicyDocument>;
  readonly dependencies?: Partial<ServiceDependencies>;
  /** One of the bench's own, if there is none. */
  readonly authority?: SoftAuthority;
  /** Build the page of `attest/page`, which takes a moment. */
  readonly realPage?: boolean;
  /** Further files of the configuration's. */
  readonly layOut?: (folder: string) => void;
}

/** A service over a folder of its own, with a clock that the test moves. */
export interface VerifierBench extends AsyncDisposable {
  readonly folder: string;
  readonly authority: SoftAuthority;
  readonly config: VerifierConfig;
  readonly lines: string[];
  service: Service;
  /** Setting it steps the system's clock; only `later` lets time pass. */
  time: Date;
  later(seconds: number): void;
  /** Closes the service and opens another over the same folder. */
  restart(): Promise<void>;
  ask(method: "GET" | "POST" | "DELETE", url: string, options?: AskOptions): Promise<Answer>;
  /** Enrols a new software TPM under this name, over the interface. */
  enrol(name: string, tpm?: SoftTpm): Promise<SoftTpm>;
  challenge(name: string): Promise<Challenge>;
  /** A report with these changes, made for the challenge. */
  report(tpm: SoftTpm, challenge: Challenge, changes?: ReportChanges): Promise<Uint8Array>;
  send(challenge: Pick<Challenge, "nonce">, report: Uint8Array, token?: string): Promise<Answer>;
  /** Challenge, report and answer in one. */
  attest(name: string, tpm: SoftTpm, changes?: ReportChanges): Promise<Answer>;
}

export interface AskOptions {
  readonly token?: string;
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
}

export interface Answer {
  readonly status: number;
  // biome-ignore lint/suspicious/noExplicitAny: tests look into answers of every shape
  readonly body: any;
  readonly text: string;
  readonly headers: Readonly<Record<string, unknown>>;
}

export interface ReportChanges extends Partial<Scene> {
  readonly clock?: Partial<QuoteAttest["clockInfo"]>;
}

interface ReleaseKeys {
  readonly root: SigningKey;
  readonly releaseKey: SigningKey;
}

export async function openVerifierBench(options: BenchOptions = {}): Promise<VerifierBench> {
  const folder = await mkdtemp(join(tmpdir(), "ironclaw-verifier-"));
  const authority = options.authority ?? makeAuthority();
  await layOutVerifier(folder, authority, options.policy ?? {});
  options.layOut?.(folder);
  const config = (options.config ?? ((same) => same))({
    ...defaultConfig,
    listen: { host: "127.0.0.1", port: 0 },
    roles: [
      { name: "vera", role: "viewer", tokenSha256: digest(VIEWER) },
      { name: "otto", role: "operator", tokenSha256: digest(OPERATOR) },
    ],
    endorsementAnchors: "endorsement.json",
    releaseAnchors: "anchors.json",
    // The clock stands still, so nobody's bucket fills again: large enough for any test that is not about it.
    limits: { ...defaultConfig.limits, workers: 1, perPeer: { perMinute: 1, burst: 100_000 } },
  });
  const lines: string[] = [];
  // Certificates that openssl makes begin now, some of them a little later; from here on only the test moves the clock.
  let time = new Date(Date.now() + 3_600_000);
  let elapsed = 0;
  const open = () =>
    openVerifierService(config, {
      folder,
      loadKey: loadSigningKey,
      log: { write: (line) => void lines.push(line) },
      now: () => time,
      monotonic: () => elapsed,
      ...(options.realPage ? {} : { page: new Map() }),
      ...options.dependencies,
    });
  const bench: VerifierBench = {
    ...{ folder, authority, config, lines },
    service: await open(),
    get time() {
      return time;
    },
    set time(to: Date) {
      time = to;
    },
    later: (seconds) => {
      time = new Date(time.getTime() + 1000 * seconds);
      elapsed += 1000 * seconds;
    },
    restart: async () => {
      await bench.service.close();
      bench.service = await open();
    },
    ask: (method, url, asked) => ask(bench.service, method, url, asked),
    enrol: async (name, tpm) => {
      const known = tpm ?? (await authority.makeTpm());
      const answer = await enrolOver(bench, name, known);
      if (answer.status !== 200) throw new Error(`enrolment: ${answer.text}`);
      return known;
    },
    challenge: async (name) =>
      challengeOf(await ask(bench.service, "POST", "/v1/challenges", { body: { machine: name } })),
    report: makeReport,
    send: (challenge, report, token) => send(bench.service, challenge, report, token),
    attest: async (name, tpm, changes) => {
      const challenge = await bench.challenge(name);
      return bench.send(challenge, await makeReport(tpm, challenge, changes), VIEWER);
    },
    [Symbol.asyncDispose]: async () => {
      await bench.service.close();
      await rm(folder, { recursive: true, force: true });
    },
  };
  return bench;
}

/** Everything that a configuration names, in `folder`. */
export async function layOutVerifier(
  folder: string,
  authority: SoftAuthority,
  policy: Partial<AppraisalPolicyDocument>,
): Promise<void> {
  await mkdir(join(folder, "references"));
  await createSigningKeyFile(join(folder, "signing.pem"));
  await writeFile(join(folder, "endorsement.json"), endorsementDocument([authority.anchor]));
  await writeFile(
    join(folder, "appraisal.json"),
    encodeAppraisalPolicy({ ...defaultAppraisalPolicy.document, ...policy }),
  );
  const keys = { root: (await createSigningKey()).key, releaseKey: (await createSigningKey()).key };
  const operator = (await createSigningKey()).key.spkiPem;
  await writeFile(
    join(folder, "anchors.json"),
    encodeAnchors({ version: 1, releaseRoot: keys.root.spkiPem, operator }),
  );
  await writeFile(join(folder, "references/first.json"), await signedReference(keys, "first"));
}

function endorsementDocument(anchors: readonly object[]): string {
  return JSON.stringify({ version: 1, anchors });
}

/** The release that honest reports of the evidence maker match. */
export async function signedReference({ root, releaseKey }: ReleaseKeys, name: string): Promise<Uint8Array> {
  const reference = makeReference();
  const events: LaunchEvent[] = reference.events.map((event) =>
    launchEvent(event.kind, event.name, fromHex(event.sha256)),
  );
  const agent = predictAgentPcr(events);
  const delegation = await signDelegation(root, {
    ...{ releaseKeyPem: releaseKey.spkiPem, credentials: ["hsm-pin"], lastEpoch: 8 },
  });
  const pcrs = {
    sha256: { ...reference.pcrs.sha256, "13": toHex(agent.sha256) },
    sha384: { ...reference.pcrs.sha384, "13": toHex(agent.sha384) },
  };
  const year = 365 * 86_400_000;
  const dates = { notBefore: day(-year), notAfter: day(year) };
  const draft = { name, image: reference.image, epoch: 1, raise: false, pcrs, events: reference.events, ...dates };
  return signRelease(draft, { releaseKey, delegation, rootKeyPem: root.spkiPem });
}

const day = (offset: number) => `${new Date(Date.now() + offset).toISOString().slice(0, 10)}T00:00:00Z`;

export async function enrolOver(bench: Pick<VerifierBench, "ask">, name: string, tpm: SoftTpm): Promise<Answer> {
  const token = await enrolmentToken(bench, name);
  const begun = await beginOver(bench, { token, name }, tpm);
  if (begun.status !== 201) return begun;
  return finishOver(bench, begun.body, tpm);
}

export async function enrolmentToken(
  bench: Pick<VerifierBench, "ask">,
  name: string,
  ttlSeconds = 600,
): Promise<string> {
  const made = await bench.ask("POST", "/v1/enrolment-tokens", { token: OPERATOR, body: { name, ttlSeconds } });
  return made.body.token;
}

export function beginOver(
  bench: Pick<VerifierBench, "ask">,
  order: { readonly token: string; readonly name: string },
  tpm: SoftTpm,
): Promise<Answer> {
  const body = { ...order, ekCertificates: [base64(tpm.ekCertificate)], akPublic: base64(tpm.ak.publicArea) };
  return bench.ask("POST", "/v1/enrolments", { body });
}

export function finishOver(
  bench: Pick<VerifierBench, "ask">,
  begun: { readonly enrolment: string; readonly credentialBlob: string; readonly encryptedSecret: string },
  tpm: SoftTpm,
): Promise<Answer> {
  const secret = tpm.activate(
    Buffer.from(begun.credentialBlob, "base64"),
    Buffer.from(begun.encryptedSecret, "base64"),
  );
  return bench.ask("POST", `/v1/enrolments/${begun.enrolment}`, { body: { secret: base64(secret) } });
}

function challengeOf({ body }: Answer): Challenge {
  return { nonce: new Uint8Array(Buffer.from(body.nonce, "base64")), bank: body.bank, pcrs: body.pcrs };
}

export async function makeReport(tpm: SoftTpm, challenge: Challenge, changes: ReportChanges = {}): Promise<Uint8Array> {
  const { clock, ...scene } = changes;
  const { nonce, bank, pcrs } = challenge;
  const claims = { nonce, ueid: machineUeid(fromHex(tpm.ekName)), ...scene.claims };
  const { evidence } = await makeEvidence({ key: tpm.ak, bank, asked: pcrs, ...scene, claims });
  const attest = parseQuoteAttest(evidence.quote);
  const quote = encodeQuote({
    ...attest,
    clockInfo: { ...attest.clockInfo, ...clock },
    extraData: measureExtraData(nonce, evidence),
    ...(scene.attest?.extraData === undefined ? {} : { extraData: scene.attest.extraData }),
  });
  return encodeEvidence({ ...evidence, quote, signature: await (scene.key ?? tpm.ak).sign(quote) });
}

async function send(
  service: Service,
  { nonce }: Pick<Challenge, "nonce">,
  report: Uint8Array,
  token?: string,
): Promise<Answer> {
  return answerOf(
    await service.app.inject({
      ...{ method: "POST", url: "/v1/evidence", payload: Buffer.from(report) },
      headers: {
        "content-type": "application/cmw+cbor",
        "ironclaw-nonce": base64(nonce),
        ...(token === undefined ? {} : bearer(token)),
      },
    }),
  );
}

export async function ask(
  service: Pick<Service, "app">,
  method: "GET" | "POST" | "DELETE",
  url: string,
  { token, body, headers = {} }: AskOptions = {},
): Promise<Answer> {
  const all = { ...(token === undefined ? {} : bearer(token)), ...headers };
  const payload = body === undefined ? {} : { payload: JSON.stringify(body) };
  const type = body === undefined ? {} : { "content-type": "application/json" };
  return answerOf(await service.app.inject({ method, url, headers: { ...type, ...all }, ...payload }));
}

interface Injected {
  readonly statusCode: number;
  readonly payload: string;
  readonly headers: Readonly<Record<string, unknown>>;
}

function answerOf({ statusCode, payload, headers }: Injected): Answer {
  const isJson = `${headers["content-type"] ?? ""}`.startsWith("application/json");
  return { status: statusCode, text: payload, headers, body: isJson && payload !== "" ? JSON.parse(payload) : null };
}

export const base64 = (bytes: Uint8Array) => Buffer.from(bytes).toString("base64");
export const randomNonce = () => new Uint8Array(randomBytes(32));
