import { createHmac, randomBytes } from "node:crypto";
import { PROPERTY, type Session, type Tpm as Tss } from "node-tpm2-tss";
import * as z from "zod";
import {
  concatBytes,
  encodeCanonicalJson,
  equalBytes,
  fromHex,
  parseCanonicalJson,
  toHex,
  utf8,
} from "../policy/index.ts";
import { SealError } from "./errors.ts";

// FORMATS.md, section 10. With both authorisations set, root of a guest can neither delete the epoch counter nor clear the TPM.
// The endorsement authorisation stays empty: unattended unsealing uses the EK through it.

const SECRET_BYTES = 32;
const hex32 = z.string().regex(/^[0-9a-f]{64}$/);
const escrowSchema = z
  .strictObject({
    version: z.literal(1),
    ekName: z.string().regex(/^(?:[0-9a-f]{68}|[0-9a-f]{100})$/),
    secret: hex32,
    ownerAuth: hex32,
    lockoutAuth: hex32,
  })
  .refine((escrow) => isDerived(escrow), {
    path: ["secret"],
    message: "expected an ownership secret, with what follows from it",
  })
  .readonly();

function isDerived({
  secret,
  ownerAuth,
  lockoutAuth,
}: {
  readonly secret: string;
  readonly ownerAuth: string;
  readonly lockoutAuth: string;
}): boolean {
  if (!isOwnershipSecret(fromHex(secret))) return false;
  const derived = deriveOwnership(fromHex(secret));
  return toHex(derived.ownerAuth) === ownerAuth && toHex(derived.lockoutAuth) === lockoutAuth;
}

/** The operator's copy of a TPM's owner and lockout authorisation. Secret: mode 0600, offline. */
export interface Ownership {
  readonly ownerAuth: Uint8Array;
  readonly lockoutAuth: Uint8Array;
}

/** Begins every ownership secret: an agent that opens credentials for verifiers never gives such a one away. */
const SECRET_PREFIX = utf8("IRONOWN1");

/** A new ownership secret, 32 bytes, of which 24 are random. */
export function createOwnershipSecret(): Uint8Array {
  return concatBytes(SECRET_PREFIX, randomBytes(SECRET_BYTES - SECRET_PREFIX.length));
}

export function isOwnershipSecret(secret: Uint8Array): boolean {
  return secret.length === SECRET_BYTES && equalBytes(secret.subarray(0, SECRET_PREFIX.length), SECRET_PREFIX);
}

/**
 * Both authorisations from one secret, so that one credential carries them to a machine.
 * @throws SealError ERR_SEAL_INPUT for a secret that is none of `createOwnershipSecret`
 */
export function deriveOwnership(secret: Uint8Array): Ownership {
  if (!isOwnershipSecret(secret))
    throw new SealError("ERR_SEAL_INPUT", "ownership secret", { expected: "one made for that", got: "another secret" });
  const derive = (label: string) => Uint8Array.from(createHmac("sha256", secret).update(label).digest());
  return { ownerAuth: derive("ironclaw/owner/v1"), lockoutAuth: derive("ironclaw/lockout/v1") };
}

/** The operator's copy of what gives a TPM its owner. */
export interface Escrow {
  /** Hexadecimal. */
  readonly ekName: string;
  /** Of `createOwnershipSecret`. */
  readonly secret: Uint8Array;
}

/**
 * The escrow file's bytes: they hold the secret, and both authorisations for the day on which there are only a TPM's own tools.
 * @throws SealError ERR_SEAL_INPUT for a secret that is none of `createOwnershipSecret`
 */
export function encodeEscrow({ ekName, secret }: Escrow): Uint8Array {
  const { ownerAuth, lockoutAuth } = deriveOwnership(secret);
  const auths = { ownerAuth: toHex(ownerAuth), lockoutAuth: toHex(lockoutAuth) };
  const document = { version: 1 as const, ekName, secret: toHex(secret), ...auths };
  return encodeCanonicalJson(document, escrowSchema, "ERR_ENVELOPE_MALFORMED", "escrow");
}

/** @throws PolicyError ERR_ENVELOPE_MALFORMED, which does not quote the file */
export function parseEscrow(bytes: Uint8Array): Escrow {
  const { ekName, secret } = parseCanonicalJson(bytes, escrowSchema, "ERR_ENVELOPE_MALFORMED", "escrow");
  return { ekName, secret: fromHex(secret) };
}

/** TPMA_PERMANENT. */
export const PERMANENT = {
  ownerAuthSet: 1 << 0,
  endorsementAuthSet: 1 << 1,
  lockoutAuthSet: 1 << 2,
  disableClear: 1 << 8,
  inLockout: 1 << 9,
} as const;

/** TPMA_STARTUP_CLEAR. */
export const STARTUP_CLEAR = { storage: 1 << 1, endorsement: 1 << 2 } as const;

export async function readPermanent(tss: Tss): Promise<number> {
  return (await tss.properties(PROPERTY.permanent, 1)).get(PROPERTY.permanent) ?? 0;
}

/**
 * Sets owner and lockout authorisation on a TPM that has neither. The values travel encrypted in a session salted to the EK,
 * whose Name the caller has compared. A crash between the two is mended by calling it again with the same values.
 * Does not establish that a lockout authorisation which is there already is this one: a try would cost the TPM's only one.
 *
 * @throws SealError ERR_SEAL_OWNED when an authorisation is set already and is not this one; TpmError
 */
export async function takeOwnership(
  tss: Tss,
  saltKey: Parameters<Tss["readPublic"]>[0],
  own: Ownership,
): Promise<void> {
  const permanent = await readPermanent(tss);
  await using session = await tss.startAuthSession({ kind: "hmac", saltKey, decrypt: true });
  const [ownerSet, lockoutSet] = [PERMANENT.ownerAuthSet, PERMANENT.lockoutAuthSet].map(
    (bit) => (permanent & bit) !== 0,
  );
  // The owner's is set first: a lockout authorisation alone is nobody's crash of ours.
  if (lockoutSet && !ownerSet) throw owned("lockout authorisation", "an empty one, as the owner's is");
  if (ownerSet) await requireOwner(tss, session, own.ownerAuth);
  else await tss.hierarchyChangeAuth("owner", own.ownerAuth, { sessions: [session] });
  if (!lockoutSet) await tss.hierarchyChangeAuth("lockout", own.lockoutAuth, { sessions: [session] });
}

/** A wrong owner authorisation costs no dictionary-attack count; the lockout's own would, so it is not tried. */
async function requireOwner(tss: Tss, session: Session, ownerAuth: Uint8Array): Promise<void> {
  await tss.setAuth("owner", ownerAuth);
  try {
    await tss.hierarchyChangeAuth("owner", ownerAuth, { sessions: [session] });
  } catch (cause) {
    await tss.setAuth("owner", new Uint8Array());
    throw owned("owner authorisation", "an empty one, or the one of this escrow", cause);
  }
}

function owned(what: string, expected: string, cause?: unknown): SealError {
  return new SealError("ERR_SEAL_OWNED", what, {
    expected,
    got: "another",
    hint: "this TPM has an owner already: use that owner's escrow file, or clear the TPM in the firmware's set-up",
    cause,
  });
}
