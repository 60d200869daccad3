import * as z from "zod";
import type { EkProfileName } from "../../attest/index.ts";
import { IronclawError, parseJson, toBase64, toHex, utf8 } from "../../policy/index.ts";
import type { AuditPage } from "../audit/machine-audit.ts";
import type { Finding } from "../doctor/index.ts";
import { AgentError } from "../errors.ts";
import type { Restrictions } from "../restrictions/index.ts";
import { type ApprovingService, approvingRequests, serveApproving } from "./approving.ts";
import type { SealingService } from "./sealing.ts";
import { type SessionService, serveSessions, sessionRequests } from "./sessions.ts";

/** Longest request line, in bytes: a sealed package with a file of 32 KiB in it. */
export const MAX_REQUEST = 131_072;

const hex = (bytes: number) =>
  z.string().regex(new RegExp(`^[0-9a-f]{${2 * bytes}}$`), `${bytes} bytes in hexadecimal`);
const blob = z
  .string()
  .max(4_096)
  .regex(/^[A-Za-z0-9+/]*={0,2}$/, "base64");
const envelope = z
  .string()
  .max(100_000)
  .regex(/^[A-Za-z0-9+/]*={0,2}$/, "base64");
const scopeNames = z.array(z.string().max(64)).min(1).max(64);
const ownerCredential = z.strictObject({ credentialBlob: blob, encryptedSecret: blob });
const id = z.number().int().nonnegative();

const request = z.discriminatedUnion("op", [
  z.strictObject({ id, op: z.literal("status") }),
  z.strictObject({ id, op: z.literal("metrics") }),
  z.strictObject({ id, op: z.literal("endorsement") }),
  z.strictObject({ id, op: z.literal("activate"), credentialBlob: blob, encryptedSecret: blob }),
  z.strictObject({
    id,
    op: z.literal("challenge"),
    nonce: hex(32),
    bank: z.enum(["sha256", "sha384"]),
    pcrs: z
      .array(z.number().int().min(0).max(23))
      .min(1)
      .refine((pcrs) => pcrs.every((pcr, index) => pcr > (pcrs[index - 1] ?? -1)), "ascending, each once"),
  }),
  z.strictObject({
    id,
    op: z.literal("audit"),
    from: z.number().int().nonnegative(),
    limit: z.number().int().min(1).max(500),
  }),
  z.strictObject({ id, op: z.literal("check") }),
  z.strictObject({ id, op: z.literal("records") }),
  z.strictObject({ id, op: z.literal("reseal"), package: envelope }),
  z.strictObject({ id, op: z.literal("abort-reseal"), name: z.string().max(64) }),
  ...approvingRequests,
  ...sessionRequests,
  z.strictObject({ id, op: z.literal("doctor") }),
  z.strictObject({ id, op: z.literal("order"), order: envelope, owner: ownerCredential.optional() }),
  z
    .strictObject({ id, op: z.literal("freeze"), all: z.literal(true).optional(), scopes: scopeNames.optional() })
    .refine(({ all, scopes }) => (all === undefined) !== (scopes === undefined), "either all or scopes"),
  z.strictObject({ id, op: z.literal("freeze-status") }),
  z.strictObject({ id, op: z.literal("narrow"), policy: envelope }),
  z.strictObject({ id, op: z.literal("own"), credentialBlob: blob, encryptedSecret: blob }),
]);

export type ControlRequest = z.infer<typeof request>;

/** What an enrolment begins with. Nothing of it is believed by whoever enrols: certificates, and a proof by TPM2_ActivateCredential. */
export interface MachineEndorsement {
  readonly ekCertificates: readonly Uint8Array[];
  /** Template of the EK that `activate` uses: a certificate does not say it. */
  readonly ekProfile: EkProfileName;
  readonly akPublic: Uint8Array;
  readonly akName: Uint8Array;
}

/**
 * What the agent does for each request. Nothing here makes the agent serve more; `freeze` and `narrow` take away. No answer holds a secret but the credential
 * that the asking verifier itself sealed to this TPM. What changes what the next boot may do is signed by the operator.
 */
export interface ControlService {
  readonly sealing: SealingService;
  readonly approvals: () => ApprovingService;
  readonly sessions: SessionService;
  readonly restrictions: Pick<Restrictions, "freeze" | "status" | "narrow">;
  status(): Promise<Record<string, unknown>>;
  /** In the Prometheus text format. */
  metrics(): Promise<string>;
  endorsement(): Promise<MachineEndorsement>;
  activate(credentialBlob: Uint8Array, encryptedSecret: Uint8Array): Promise<Uint8Array>;
  /** Makes a report and sends it over the report port; resolves with its length in bytes. */
  challenge(challenge: { nonce: Uint8Array; bank: "sha256" | "sha384"; pcrs: readonly number[] }): Promise<number>;
  audit(from: number, limit: number): Promise<AuditPage>;
  /** What a look at the machine finds. Never a secret, and no try at TPM or token is spent. */
  doctor(): Promise<readonly Finding[]>;
}

/** @throws AgentError ERR_CONTROL_MALFORMED */
export function parseControlRequest(line: string): ControlRequest {
  const result = request.safeParse(parseJson(utf8(line), "control request", { maxBytes: MAX_REQUEST, maxDepth: 4 }));
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  throw new AgentError(
    "ERR_CONTROL_MALFORMED",
    `control request ${issue?.path.join(".") ?? ""}: ${issue?.message ?? "malformed"}`,
  );
}

/** Answer one line. Never rejects: what goes wrong is an answer with a code, and the next line is read as usual (I10). */
export async function answerControlLine(service: ControlService, line: string): Promise<string> {
  let requestId: number | null = null;
  try {
    const parsed = parseControlRequest(line);
    requestId = parsed.id;
    return JSON.stringify({ id: requestId, ok: true, ...(await serveRequest(service, parsed)) });
  } catch (error) {
    const code = error instanceof IronclawError ? error.code : "ERR_INTERNAL";
    const message = error instanceof Error ? error.message : "unknown failure";
    const hint = error instanceof IronclawError && error.hint !== undefined ? { hint: error.hint } : {};
    return JSON.stringify({ id: requestId, ok: false, error: { code, message, ...hint } });
  }
}

async function serveRequest(service: ControlService, parsed: ControlRequest): Promise<Record<string, unknown>> {
  switch (parsed.op) {
    case "status":
      return service.status();
    case "metrics":
      return { text: await service.metrics() };
    case "endorsement": {
      const { ekCertificates, ekProfile, akPublic, akName } = await service.endorsement();
      const keys = { ekProfile, akPublic: toBase64(akPublic), akName: toHex(akName) };
      return { ekCertificates: ekCertificates.map(toBase64), ...keys };
    }
    case "activate": {
      const secret = await service.activate(
        Buffer.from(parsed.credentialBlob, "base64"),
        Buffer.from(parsed.encryptedSecret, "base64"),
      );
      return { secret: toBase64(secret) };
    }
    case "challenge":
      return {
        length: await service.challenge({
          nonce: Buffer.from(parsed.nonce, "hex"),
          bank: parsed.bank,
          pcrs: parsed.pcrs,
        }),
      };
    case "doctor":
      return { findings: await service.doctor() };
    case "sessions":
    case "end-session":
      return serveSessions(service.sessions, parsed);
    case "audit":
      return { ...(await service.audit(parsed.from, parsed.limit)) };
    case "pending":
    case "approve":
      return serveApproving(service.approvals(), parsed);
    case "freeze":
    case "freeze-status":
    case "narrow":
      return serveRestriction(service.restrictions, parsed);
    default:
      return serveSealing(service.sealing, parsed);
  }
}

type RestrictionRequest = Extract<ControlRequest, { op: "freeze" | "freeze-status" | "narrow" }>;

async function serveRestriction(
  restrictions: ControlService["restrictions"],
  parsed: RestrictionRequest,
): Promise<Record<string, unknown>> {
  switch (parsed.op) {
    case "freeze":
      return {
        ...(await restrictions.freeze(
          parsed.scopes === undefined ? { kind: "all" } : { kind: "scopes", scopes: parsed.scopes },
        )),
      };
    case "freeze-status":
      return { ...(await restrictions.status()) };
    case "narrow":
      return { ...(await restrictions.narrow(new Uint8Array(Buffer.from(parsed.policy, "base64")))) };
  }
}

type SealingRequest = Extract<
  ControlRequest,
  { op: "check" | "records" | "reseal" | "abort-reseal" | "order" | "own" }
>;

async function serveSealing(sealing: SealingService, parsed: SealingRequest): Promise<Record<string, unknown>> {
  const bytes = (text: string) => new Uint8Array(Buffer.from(text, "base64"));
  switch (parsed.op) {
    case "check":
      return { credentials: await sealing.check() };
    case "records":
      return sealing.records();
    case "reseal":
      return sealing.reseal(bytes(parsed.package));
    case "abort-reseal":
      await sealing.abortReseal(parsed.name);
      return {};
    case "order": {
      const { order, owner } = parsed;
      if (owner === undefined) return sealing.order(bytes(order), null);
      return sealing.order(bytes(order), {
        credentialBlob: bytes(owner.credentialBlob),
        encryptedSecret: bytes(owner.encryptedSecret),
      });
    }
    case "own":
      await sealing.own(bytes(parsed.credentialBlob), bytes(parsed.encryptedSecret));
      return {};
    default:
      return parsed satisfies never;
  }
}
