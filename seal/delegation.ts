import {
  CREDENTIAL_NAME,
  type Delegation,
  delegatedPolicies,
  encodeDelegation,
  encodePolicyApproval,
  MAX_EPOCH,
  measurePolicy,
  type PolicyStep,
  type SigningKey,
  toBase64,
} from "../policy/index.ts";
import { SealError } from "./errors.ts";

export interface DelegationOrder {
  /** SubjectPublicKeyInfo PEM of the key that may sign releases. */
  readonly releaseKeyPem: string;
  /** Credentials that its releases may unseal. */
  readonly credentials: readonly string[];
  /** The last epoch for which it may sign: a key that is lost or stolen ends when the counter passes it. */
  readonly lastEpoch: number;
}

/**
 * The release root approves a release key. Once per release key; releases under it then need no root key.
 * @throws SealError ERR_RELEASE_REFUSED for no credential, one twice or misnamed, or an epoch out of range; PolicyError ERR_KEY_MALFORMED
 */
export async function signDelegation(root: SigningKey, order: DelegationOrder): Promise<Delegation> {
  const { releaseKeyPem, lastEpoch } = order;
  const credentials = [...order.credentials].sort();
  const distinct = credentials.length > 0 && new Set(credentials).size === credentials.length;
  if (!distinct || !credentials.every((name) => CREDENTIAL_NAME.test(name))) {
    const expected = "names of 1 to 32 of a-z, 0-9 and -, each once";
    throw new SealError("ERR_RELEASE_REFUSED", "delegation credentials", {
      expected,
      got: JSON.stringify(credentials),
    });
  }
  if (!Number.isInteger(lastEpoch) || lastEpoch < 0 || lastEpoch > MAX_EPOCH) {
    const got = `${lastEpoch}`;
    throw new SealError("ERR_RELEASE_REFUSED", "delegation lastEpoch", { expected: `0 to ${MAX_EPOCH}`, got });
  }
  const signatures = await Promise.all(
    delegatedPolicies(root.spkiPem, releaseKeyPem, { lastEpoch, credentials }).map(({ steps, policyRef }) =>
      signPolicy(root, steps, policyRef),
    ),
  );
  const [first = "", raise = ""] = signatures.slice(credentials.length);
  const delegation: Delegation = {
    lastEpoch,
    credentials: credentials.map((name, index) => ({ name, signature: signatures[index] ?? "" })),
    first,
    raise,
  };
  encodeDelegation({ version: 2, releaseKey: releaseKeyPem, delegation }); // refuses what no reader would take
  return delegation;
}

/** A key's signature, in base64, that TPM2_PolicyAuthorize accepts for these steps under this policyRef. */
export async function signPolicy(
  key: SigningKey,
  steps: readonly PolicyStep[],
  policyRef: Uint8Array,
): Promise<string> {
  return toBase64(await key.sign(encodePolicyApproval(measurePolicy(steps), policyRef)));
}
