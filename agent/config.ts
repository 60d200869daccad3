import * as z from "zod";
import { parseJson } from "../policy/index.ts";
import { AgentError } from "./errors.ts";

const absolutePath = z.string().regex(/^\/[^\0]*$/, "an absolute path");

const schema = z.strictObject({
  version: z.literal(1),
  /** `installed`: a package on an ordinary system, whose reports say so and never pass for those of an image. */
  system: z.enum(["image", "installed"]).default("image"),
  /** The PCR that the agent extends. Never a resettable one (16, 23) and none that firmware or kernel use. */
  agentPcr: z.literal(13),
  /** TCTI of the TPM, with its transport named: libtss2's default search is never used. */
  tcti: z.string().min(1),
  cabinet: absolutePath,
  /** Directory of the measured programs: shim, unsealer, profiles and native add-ons. */
  programs: absolutePath,
  scopes: absolutePath,
  auditLog: absolutePath,
  /** Whether the directory of `auditLog` is the state volume, whose key is the sealed credential `state`. */
  stateVolume: z.boolean(),
  /** File or raw device of the store; null keeps nothing from boot to boot. */
  store: absolutePath.nullable(),
  /** The kind of the attestation key: RSA for verifiers that know nothing else. Another kind is another key, to be enrolled anew. */
  attestationKey: z.enum(["p256", "rsa2048"]).default("p256"),
  firmwareLog: absolutePath,
  pciDevices: absolutePath,
  /** A kernel without USB has no such directory. */
  usbDevices: absolutePath,
  controlPort: absolutePath,
  reportPort: absolutePath,
});

/** The fleet-constant part of the agent's configuration: it is measured, so it holds no machine's name or address. */
export type AgentConfig = z.infer<typeof schema>;

/** @throws AgentError ERR_CONFIG_INVALID naming every field that is wrong, missing or unknown */
export function parseConfig(bytes: Uint8Array): AgentConfig {
  const result = schema.safeParse(parseJson(bytes, "agent configuration", { maxBytes: 65_536, maxDepth: 4 }));
  if (result.success) return result.data;
  const findings = result.error.issues.map((issue) => `${issue.path.join(".") || "document"}: ${issue.message}`);
  throw new AgentError("ERR_CONFIG_INVALID", `agent configuration: ${findings.join("; ")}`);
}
