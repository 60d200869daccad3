import { z } from "zod";
import type { EkProfileName } from "../../attest/index.ts";
import { IronclawError, parseJson, toBase64, toHex, utf8 } from "../../policy/index.ts";
import type { AuditPage } from "../audit/machine-audit.ts";
import { AgentError } from "../errors.ts";
import type { SealingService } from "./sealing.ts";

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
const id = z.number().int().nonnegative();

const request = z.discriminatedUnion("op", [
  z.strictObject({ id, op: z.literal("status") }),
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
  z.strictObject({ id, op: z.literal("order"), order: envelope }),
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
 * What the agent does for each request. Nothing here changes what the agent serves, and no answer holds a secret but the credential
 * that the asking verifier itself sealed to this TPM. What changes what the next boot may do is signed by the operator.
 */
export interface ControlService {
  readonly sealing: SealingService;
  status(): Promise<Record<string, unknown>>;
  endorsement(): Promise<MachineEndorsement>;
  activate(credentialBlob: Uint8Array, encryptedSecret: Uint8Array): Promise<Uint8Array>;
  /** Makes a report and sends it over the report port; resolves with its length in bytes. */
  challenge(challenge: { nonce: Uint8Array; bank: "sha256" | "sha384"; pcrs: readonly number[] }): Promise<number>;
  audit(from: number, limit: number): Promise<AuditPage>;
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
    case "audit":
      return { ...(await service.audit(parsed.from, parsed.limit)) };
    default:
      return serveSealing(service.sealing, parsed);
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
    case "order":
      return sealing.order(bytes(parsed.order));
    case "own":
      await sealing.own(bytes(parsed.credentialBlob), bytes(parsed.encryptedSecret));
      return {};
    default:
      return parsed satisfies never;
  }
}
