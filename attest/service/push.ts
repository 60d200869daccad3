import { setTimeout as sleep } from "node:timers/promises";
import { IronclawError } from "../../policy/index.ts";
import {
  type Challenge,
  type EkProfileName,
  ekCertificateKey,
  ekKeyOf,
  ekProfilesOfKey,
  orderChain,
  readEkProfileName,
  type Tier,
} from "../index.ts";
import { refusalCodeOf, type VerifierClient } from "./client.ts";
import { type RefusalCode, ServiceError } from "./errors.ts";

/** The machine's control port, as far as attestation needs it. */
export interface MachineControl {
  challenge(challenge: Challenge): Promise<Uint8Array>;
  endorsement(): Promise<Readonly<Record<string, unknown>>>;
  activate(credentialBlob: Uint8Array, encryptedSecret: Uint8Array): Promise<Uint8Array>;
  close(): void;
}

export type PushOutcome =
  | { readonly kind: "judged"; readonly tier: Tier; readonly ear: string }
  /** The service took the report and does not believe it. */
  | { readonly kind: "refused"; readonly code: RefusalCode }
  /** No verdict: machine or service did not answer. It is tried again sooner than the interval. */
  | { readonly kind: "failed"; readonly error: IronclawError };

export interface PushOrder {
  readonly name: string;
  readonly client: VerifierClient;
  /** Opens the port anew for each report: a machine that restarts has another. */
  openMachine(): Promise<Pick<MachineControl, "challenge" | "close">>;
}

/** One challenge, one report, one verdict. Never throws for what a machine or service does. */
export async function pushOnce({ name, client, openMachine }: PushOrder): Promise<PushOutcome> {
  try {
    const control = await openMachine();
    try {
      const challenge = await client.challenge(name);
      const report = await control.challenge(challenge);
      return { kind: "judged", ...(await client.judge(challenge.nonce, report)) };
    } finally {
      control.close();
    }
  } catch (error) {
    if (!(error instanceof IronclawError)) throw error;
    const code = refusalCodeOf(error);
    return code === "evidence-refused" ? { kind: "refused", code } : { kind: "failed", error };
  }
}

export interface PushSchedule {
  readonly intervalSeconds: number;
  readonly signal: AbortSignal;
  /** Uniform in [0, 1); spreads a fleet whose service comes back. */
  random(): number;
  told(outcome: PushOutcome, waitSeconds: number): void;
}

const firstRetrySeconds = 1;

/** Reports for ever, until the signal. A failure is tried again after a second, then two, four, up to the interval. */
export async function keepPushing(order: PushOrder, schedule: PushSchedule): Promise<void> {
  let failures = 0;
  while (!schedule.signal.aborted) {
    const outcome = await pushOnce(order);
    failures = outcome.kind === "failed" ? failures + 1 : 0;
    const wait = waitSeconds(schedule.intervalSeconds, failures, schedule.random());
    schedule.told(outcome, wait);
    await sleep(1000 * wait, undefined, { signal: schedule.signal }).catch(() => undefined);
  }
}

/** How long to wait after so many failures in a row: doubling, capped by the interval, and spread by a half. */
export function waitSeconds(intervalSeconds: number, failures: number, random: number): number {
  if (failures === 0) return intervalSeconds;
  const backOff = Math.min(intervalSeconds, firstRetrySeconds * 2 ** Math.min(failures - 1, 30));
  return backOff * (0.5 + random / 2);
}

export interface EnrolOrder {
  readonly name: string;
  readonly token: string;
  readonly client: VerifierClient;
  readonly control: Pick<MachineControl, "endorsement" | "activate">;
  /** DER of the EK's certificate; `null`: the one that its TPM has. */
  readonly ekCertificate: Uint8Array | null;
  /** DER of what stands between that and the CA, in any order. */
  readonly issuers: readonly Uint8Array[];
}

/**
 * Enrols a machine at a service: carries what machine and service say to each other, and believes neither.
 * @throws ServiceError as the client does, `ERR_SERVICE_ANSWER` for a machine that answers nonsense; AttestError for a certificate that is none; what the
 * control port throws
 */
export async function enrolAtService({ name, token, client, control, ekCertificate, issuers }: EnrolOrder) {
  const said = await control.endorsement();
  const ekProfile = readEkProfileName(said["ekProfile"]);
  const akPublic = bytes(said["akPublic"], "akPublic");
  const certificate = ekCertificate ?? certificateOf(said["ekCertificates"], ekProfile);
  const begun = await client.beginEnrolment({
    name,
    token,
    ekCertificates: orderChain(certificate, issuers),
    ekProfile,
    akPublic,
  });
  const secret = await control.activate(begun.credentialBlob, begun.encryptedSecret);
  return client.finishEnrolment(begun.enrolment, secret);
}

/** A TPM has a certificate for each of its EKs: the one whose key can have the template of the EK in use. */
function certificateOf(said: unknown, ekProfile: EkProfileName | null): Uint8Array {
  const certificates = list(said).map((text) => bytes(text, "ekCertificates"));
  const fitting = certificates.find((der) => ekProfile === null || profilesOf(der).includes(ekProfile));
  if (fitting !== undefined) return fitting;
  throw strange("ekCertificates", `one for an EK of template ${ekProfile}`, `${certificates.length} others`);
}

function profilesOf(der: Uint8Array): readonly EkProfileName[] {
  try {
    return ekProfilesOfKey(ekKeyOf(ekCertificateKey(der))).map(({ name }) => name);
  } catch (error) {
    if (error instanceof IronclawError) return []; // a certificate that cannot be read is for no EK that is known here
    throw error;
  }
}

function list(value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value;
  throw strange("ekCertificates", "an array", typeof value);
}

function bytes(value: unknown, field: string): Uint8Array {
  if (typeof value === "string" && value.length <= 1 << 16) return new Uint8Array(Buffer.from(value, "base64"));
  throw strange(field, "base64", typeof value);
}

function strange(field: string, expected: string, got: string): ServiceError {
  return new ServiceError("ERR_SERVICE_ANSWER", `machine ${field}`, { expected, got });
}
