/** Exit codes of the `ironclaw` command: 1 refused, 2 usage, 3 malformed or unverifiable input, 4 environment. */
export type ExitCode = 1 | 2 | 3 | 4;

export interface ErrorFields {
  /** What the specification or policy asked for. Never a secret. */
  readonly expected?: string;
  /** What was found instead. Never a secret. */
  readonly got?: string;
  /** One line of advice for the person who reads the message. */
  readonly hint?: string;
  readonly cause?: unknown;
}

/**
 * Base of every typed error in the project. Each folder has one subclass whose `code` is a closed union.
 * Message wording: lower case, no full stop, the field's name in its specification, expected then got.
 */
export abstract class IronclawError extends Error {
  abstract readonly code: string;
  abstract readonly exitCode: ExitCode;
  readonly expected: string | undefined;
  readonly got: string | undefined;
  readonly hint: string | undefined;

  constructor(what: string, fields: ErrorFields = {}) {
    const comparison =
      fields.expected === undefined
        ? ""
        : `: expected ${fields.expected}${fields.got === undefined ? "" : `, got ${fields.got}`}`;
    super(what + comparison, fields.cause === undefined ? undefined : { cause: fields.cause });
    this.name = new.target.name;
    this.expected = fields.expected;
    this.got = fields.got;
    this.hint = fields.hint;
  }
}

export type PolicyErrorCode =
  | "ERR_BYTES_TRUNCATED"
  | "ERR_BYTES_TRAILING"
  | "ERR_BYTES_VALUE"
  | "ERR_CBOR_MALFORMED"
  | "ERR_CABINET_MALFORMED"
  | "ERR_CABINET_CHECKSUM"
  | "ERR_ENVELOPE_MALFORMED"
  | "ERR_ENVELOPE_SIGNATURE"
  | "ERR_POLICY_MALFORMED"
  | "ERR_POLICY_INVALID"
  | "ERR_PROFILE_INVALID"
  | "ERR_RELEASE_MALFORMED"
  | "ERR_RELEASE_SIGNATURE"
  | "ERR_RELEASE_EXPIRED"
  | "ERR_RELEASE_NOT_YET_VALID"
  | "ERR_KEY_MALFORMED"
  | "ERR_SIGNATURE_MALFORMED";

/** A document or byte string that `policy` was asked to read is malformed or does not verify. */
export class PolicyError extends IronclawError {
  readonly code: PolicyErrorCode;
  readonly exitCode = 3;

  constructor(code: PolicyErrorCode, what: string, fields?: ErrorFields) {
    super(what, fields);
    this.code = code;
  }
}
