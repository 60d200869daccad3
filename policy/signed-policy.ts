import { parseEnvelope, signEnvelope, verifyEnvelope } from "./envelope.ts";
import { PolicyError } from "./errors.ts";
import type { SigningKey } from "./keys.ts";
import { type Policy, parsePolicy } from "./policy.ts";

/** DSSE payload type of a policy document that narrows the one in force. The launched policy has no signature: a release binds it. */
export const POLICY_TYPE = "application/vnd.ironclaw.policy+json";

/** Bytes of a document that still fits the control port, wrapped and in base64 twice. */
export const SIGNED_POLICY_MAX_BYTES = 55_000;

/**
 * Signs a policy document, byte for byte.
 * @param key the release key of the release under which the machines run
 * @throws PolicyError for a document that no machine would take, or that does not fit the control port
 */
export async function signPolicy(bytes: Uint8Array, key: SigningKey): Promise<Uint8Array> {
  parsePolicy(bytes);
  if (bytes.length > SIGNED_POLICY_MAX_BYTES)
    throw new PolicyError("ERR_POLICY_INVALID", "policy size", {
      ...{ expected: `at most ${SIGNED_POLICY_MAX_BYTES} bytes`, got: `${bytes.length}` },
      hint: "a document may be written without white space; one that is larger still comes with a release",
    });
  return signEnvelope(POLICY_TYPE, bytes, key);
}

/**
 * Proves that this key signed it, and reads it. Does not establish that the key is one to trust, nor that the policy narrows another.
 * @throws PolicyError ERR_ENVELOPE_MALFORMED, ERR_ENVELOPE_SIGNATURE, ERR_POLICY_MALFORMED, ERR_POLICY_INVALID
 */
export async function verifyPolicy(
  envelope: Uint8Array,
  keyPem: string,
): Promise<{ readonly policy: Policy; readonly bytes: Uint8Array }> {
  const bytes = await verifyEnvelope(parseEnvelope(envelope), POLICY_TYPE, keyPem);
  return { policy: parsePolicy(bytes), bytes };
}
