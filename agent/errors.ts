import { type ErrorFields, type ExitCode, IronclawError } from "../policy/index.ts";

/**
 * Codes of the agent's errors.
 *
 * - `ERR_SHIM_PROTOCOL`: the shim sent bytes that the protocol does not allow; the connection is closed
 * - `ERR_SHIM_GONE`: the shim ended, or its connection was closed
 * - `ERR_SHIM_TIMEOUT`: no answer in time; the connection is closed
 * - `ERR_SHIM_REFUSED`: the shim or the library behind it answered with a CK_RV other than CKR_OK (see `rv`)
 * - `ERR_TOKEN_STOPPED`: the token is no longer served: a violation, or no shim left that is logged in to it
 * - `ERR_KEY_GONE`: a key that no token has (any longer): it came in by unwrap, and the shim that had it ended
 * - `ERR_WITHHELD`: what waited for a shim to be replaced is not allowed any more by then: the token is not asked
 * - `ERR_KEY_MISMATCH`: a key that came in by unwrap is not the private half of the public key that the policy gives
 * - `ERR_SPAWNER`: the spawner answered with a failure or not at all
 * - `ERR_STATE_VOLUME`: the state volume cannot be opened (see `state`)
 * - `ERR_CONTROL_MALFORMED`: a line on the control port cannot be read
 * - `ERR_CONFIG_INVALID`: the agent's configuration file cannot be used
 * - `ERR_CABINET_UNREADABLE`: the cabinet, or a document in it, cannot be read from its device
 * - `ERR_AUDIT_WRITE`: a decision record could not be written
 * - `ERR_AUDIT_MALFORMED`: an audit log does not follow its format
 * - `ERR_AUDIT_ROLLED_BACK`: an audit log ends before a record that is known to have been in it
 * - `ERR_RPC_MALFORMED`: a workload's message cannot be read
 * - `ERR_FOREIGN_SENDER`: a connection is in other hands than those of the process and program that connected, or carries descriptors
 * - `ERR_LAUNCH`: the launch sequence cannot go on
 * - `ERR_APPROVAL`: a request for approval is not there, or not what its approver wants to approve
 * - `ERR_FREEZE`: a scope that cannot be frozen by itself, or more narrowings than a boot takes
 * - `ERR_NATIVE`: a system call made for the agent by its native addon failed
 * - `ERR_ENVIRONMENT`: a file, device or setting that the agent needs is missing
 */
export type AgentErrorCode =
  | "ERR_SHIM_PROTOCOL"
  | "ERR_SHIM_GONE"
  | "ERR_SHIM_TIMEOUT"
  | "ERR_SHIM_REFUSED"
  | "ERR_TOKEN_STOPPED"
  | "ERR_KEY_GONE"
  | "ERR_WITHHELD"
  | "ERR_KEY_MISMATCH"
  | "ERR_SPAWNER"
  | "ERR_STATE_VOLUME"
  | "ERR_CONTROL_MALFORMED"
  | "ERR_CONFIG_INVALID"
  | "ERR_CABINET_UNREADABLE"
  | "ERR_AUDIT_WRITE"
  | "ERR_AUDIT_MALFORMED"
  | "ERR_AUDIT_ROLLED_BACK"
  | "ERR_RPC_MALFORMED"
  | "ERR_FOREIGN_SENDER"
  | "ERR_LAUNCH"
  | "ERR_APPROVAL"
  | "ERR_FREEZE"
  | "ERR_NATIVE"
  | "ERR_ENVIRONMENT";

const EXIT_CODES: Readonly<Record<AgentErrorCode, ExitCode>> = {
  ERR_SHIM_PROTOCOL: 3,
  ERR_SHIM_GONE: 4,
  ERR_SHIM_TIMEOUT: 4,
  ERR_SHIM_REFUSED: 1,
  ERR_TOKEN_STOPPED: 1,
  ERR_KEY_GONE: 1,
  ERR_WITHHELD: 1,
  ERR_KEY_MISMATCH: 1,
  ERR_SPAWNER: 4,
  ERR_STATE_VOLUME: 4,
  ERR_CONTROL_MALFORMED: 3,
  ERR_CONFIG_INVALID: 3,
  ERR_CABINET_UNREADABLE: 4,
  ERR_AUDIT_WRITE: 4,
  ERR_AUDIT_MALFORMED: 3,
  ERR_AUDIT_ROLLED_BACK: 3,
  ERR_RPC_MALFORMED: 3,
  ERR_FOREIGN_SENDER: 3,
  ERR_LAUNCH: 1,
  ERR_APPROVAL: 1,
  ERR_FREEZE: 1,
  ERR_NATIVE: 4,
  ERR_ENVIRONMENT: 4,
};

/** What can be wrong with the state volume, in the spawner's words (SPAWNER.md, OPEN_STATE). */
export const STATE_PROBLEMS = [
  "state-missing",
  "state-blank",
  "state-truncated",
  "state-damaged",
  "state-foreign",
  "state-key",
  "state-kernel",
] as const;

/** `state-full`: there is no room for the little that every launch writes. */
export type StateProblem = (typeof STATE_PROBLEMS)[number] | "state-full";

export interface AgentErrorFields extends ErrorFields {
  /** The CK_RV behind `ERR_SHIM_REFUSED`. */
  readonly rv?: bigint;
  /** What is wrong, with `ERR_STATE_VOLUME`. */
  readonly state?: StateProblem;
}

/** Whatever goes wrong in the running guest service. `exitCode` follows from `code`. */
export class AgentError extends IronclawError {
  readonly code: AgentErrorCode;
  readonly exitCode: ExitCode;
  /** The CK_RV behind `ERR_SHIM_REFUSED`, otherwise undefined. */
  readonly rv: bigint | undefined;
  /** What is wrong, with `ERR_STATE_VOLUME`, otherwise undefined. */
  readonly state: StateProblem | undefined;

  constructor(code: AgentErrorCode, what: string, fields: AgentErrorFields = {}) {
    super(what, fields);
    this.code = code;
    this.exitCode = EXIT_CODES[code];
    this.rv = fields.rv;
    this.state = fields.state;
  }
}
