import { boundedLine } from "./printable.ts";

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

/** Characters of a message's parts. What it is about may be a list of findings, and what was found one of changes. */
const MOST_LISTED = 8000;
const MOST_SAID = 1000;

/**
 * Base of every typed error in the project. Each folder has one subclass whose `code` is a closed union.
 * Message wording: lower case, no full stop, the field's name in its specification, expected then got. What is said may be somebody else's
 * text: it is on one line, of bounded length, and without anything that a terminal acts upon.
 */
export abstract class IronclawError extends Error {
  abstract readonly code: string;
  abstract readonly exitCode: ExitCode;
  readonly expected: string | undefined;
  readonly got: string | undefined;
  readonly hint: string | undefined;

  constructor(what: string, fields: ErrorFields = {}) {
    const expected = said(fields.expected, MOST_SAID);
    const got = said(fields.got, MOST_LISTED);
    const comparison = expected === undefined ? "" : `: expected ${expected}${got === undefined ? "" : `, got ${got}`}`;
    super(
      boundedLine(what, MOST_LISTED) + comparison,
      fields.cause === undefined ? undefined : { cause: fields.cause },
    );
    this.name = new.target.name;
    this.expected = expected;
    this.got = got;
    this.hint = said(fields.hint, MOST_SAID);
  }
}

function said(text: string | undefined, most: number): string | undefined {
  return text === undefined ? undefined : boundedLine(text, most);
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
  | "ERR_POLICY_WIDENS"
  | "ERR_PROFILE_INVALID"
  | "ERR_RELEASE_MALFORMED"
  | "ERR_RELEASE_SIGNATURE"
  | "ERR_RELEASE_EXPIRED"
  | "ERR_RELEASE_NOT_YET_VALID"
  | "ERR_KEY_MALFORMED"
  | "ERR_SIGNATURE_MALFORMED";

/** A document or byte string that `policy` was asked to read is malformed or does not verify, or is refused for what it says. */
export class PolicyError extends IronclawError {
  readonly code: PolicyErrorCode;

  constructor(code: PolicyErrorCode, what: string, fields?: ErrorFields) {
    super(what, fields);
    this.code = code;
  }

  get exitCode(): 1 | 3 {
    return this.code === "ERR_POLICY_WIDENS" ? 1 : 3;
  }
}
