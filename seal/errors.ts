import { type ErrorFields, IronclawError } from "../policy/index.ts";

const exitCodes = {
  /** The sealed package is malformed, or is not a package for this release root. */
  ERR_SEALED_MALFORMED: 3,
  /** A PIN, name or number that cannot be sealed. */
  ERR_SEAL_INPUT: 2,
  /** The certificate's key is not one that an EK has. */
  ERR_SEAL_EK: 3,
  /** The package's parent is not an endorsement key of this TPM. */
  ERR_SEAL_WRONG_PARENT: 1,
  /** A release that must not be signed: another policy shape, resettable, missing or impossible PCR values. */
  ERR_RELEASE_REFUSED: 1,
  /** A policy that cannot be run: what a step needs is not there. */
  ERR_SEAL_POLICY: 1,
  /** A record in the TPM's NV memory that this project did not write, or that is missing. */
  ERR_SEAL_RECORD: 3,
  /** The store cannot be read or written. */
  ERR_STORE: 4,
  /** The TPM refused a command; its answer is the cause. */
  ERR_SEAL_TPM: 4,
  /** The TPM has an owner already whose authorisation is not the one given. */
  ERR_SEAL_OWNED: 1,
  /** A new generation of a credential that is not newer, or that the next boot could not unseal. */
  ERR_RESEAL_REFUSED: 1,
  /** An operator's order that is malformed, or for another machine or state. */
  ERR_ORDER: 3,
  /** A signing key file is missing, readable by others, or of another kind. */
  ERR_KEY_FILE: 4,
  /** A signing key on a token: no such key, two of them, or the token refused. */
  ERR_KEY_TOKEN: 4,
  /** The unsealer could not be run, or its answer cannot be read. */
  ERR_UNSEALER: 4,
} as const;

export type SealErrorCode = keyof typeof exitCodes;

/** Sealing, signing a release or unsealing could not be carried out. Never carries a secret. */
export class SealError extends IronclawError {
  readonly code: SealErrorCode;

  constructor(code: SealErrorCode, what: string, fields?: ErrorFields) {
    super(what, fields);
    this.code = code;
  }

  get exitCode(): (typeof exitCodes)[SealErrorCode] {
    return exitCodes[this.code];
  }
}
