import { U16_MAX, U32_MAX, unsigned } from "./bytes.ts";
import { type CommandOptions, NOTHING } from "./commands.ts";
import type { PermanentAuthority } from "./constants.ts";
import type { Session, TpmObject } from "./handles.ts";
import { SessionCommands } from "./sessions.ts";
import { encodeDigestList, encodePcrSelection, type PcrSelection } from "./structures.ts";

/** What an authorisation by secret is tied to. Default: nothing. */
export interface PolicySecretOptions extends CommandOptions {
  readonly policyRef?: Uint8Array;
  /** Ties the authorisation to one command with these parameters. */
  readonly cpHashA?: Uint8Array;
  /** `nonceTpm(policy)`: ties the authorisation to this session, and counts `expiration` from it. */
  readonly nonceTpm?: Uint8Array;
  /** Seconds; 0, the default, is for ever. A negative value also asks for a ticket. */
  readonly expiration?: number;
}

/** What PolicyNV compares, and who may read it. */
export interface PolicyNvOptions extends CommandOptions {
  /** First byte of the index's data that is compared. Default 0. */
  readonly offset?: number;
  /** One of OPERATION. */
  readonly operation: number;
  /** Who may read the index. Default `index`: its own authValue. */
  readonly authority?: "index" | "owner";
}

/** Policy commands. Each extends the digest of a policy or trial session; a policy session also checks what it can at once. */
export abstract class PolicyCommands extends SessionCommands {
  /** Needs the authorisation of a hierarchy or object. Returns the timeout and TPMT_TK_AUTH, empty unless a ticket was asked for. */
  async policySecret(
    authority: PermanentAuthority | TpmObject,
    policy: Session,
    options: PolicySecretOptions = {},
  ): Promise<{ timeout: Uint8Array; ticket: Uint8Array }> {
    const { policyRef = NOTHING, cpHashA = NOTHING, nonceTpm = NOTHING, expiration = 0 } = options;
    if (!Number.isInteger(expiration) || Math.abs(expiration) > 0x7fffffff)
      throw new TypeError(`expiration: expected a 32-bit integer, got ${expiration}`);
    const inputs = [authority, policy, nonceTpm, cpHashA, policyRef, expiration >>> 0];
    const answers = await this.run("PolicySecret", inputs, options, ["password"]);
    return { timeout: answers.bytes(0), ticket: answers.bytes(1) };
  }
  /** With `pcrDigest` the TPM refuses at once when its PCRs differ; without, it takes them as they are. */
  async policyPcr(
    policy: Session,
    selection: readonly PcrSelection[],
    pcrDigest: Uint8Array = NOTHING,
    options: CommandOptions = {},
  ): Promise<void> {
    await this.run("PolicyPCR", [policy, pcrDigest, encodePcrSelection(selection)], options);
  }
  /** Compares the index's data with `operand`. */
  async policyNv(policy: Session, index: TpmObject, operand: Uint8Array, options: PolicyNvOptions): Promise<void> {
    const { offset = 0, operation, authority = "index" } = options;
    const numbers = [unsigned("offset", offset, U16_MAX), unsigned("operation", operation, U16_MAX)];
    const inputs = [authority === "index" ? index : authority, index, policy, operand, ...numbers];
    await this.run("PolicyNV", inputs, options, ["password"]);
  }
  /** Checked when the session authorises a command of an NV index. */
  async policyNvWritten(policy: Session, written: boolean, options: CommandOptions = {}): Promise<void> {
    await this.run("PolicyNvWritten", [policy, written ? 1 : 0], options);
  }
  /** Replaces the session's digest, which must be one of `branches` (2 to 8), by that of their alternative. */
  async policyOr(policy: Session, branches: readonly Uint8Array[], options: CommandOptions = {}): Promise<void> {
    await this.run("PolicyOR", [policy, encodeDigestList(branches)], options);
  }
  /** Also asks for the object's authValue, by the session's HMAC. */
  async policyAuthValue(policy: Session, options: CommandOptions = {}): Promise<void> {
    await this.run("PolicyAuthValue", [policy], options);
  }
  /** The same policy digest as PolicyAuthValue, but the authValue is sent in clear. */
  async policyPassword(policy: Session, options: CommandOptions = {}): Promise<void> {
    await this.run("PolicyPassword", [policy], options);
  }
  /** Only this TPM_CC. */
  async policyCommandCode(policy: Session, code: number, options: CommandOptions = {}): Promise<void> {
    await this.run("PolicyCommandCode", [policy, unsigned("code", code, U32_MAX)], options);
  }
  /** Only the command whose code, Names and parameters hash to this. */
  async policyCpHash(policy: Session, cpHashA: Uint8Array, options: CommandOptions = {}): Promise<void> {
    await this.run("PolicyCpHash", [policy, cpHashA], options);
  }
  /** Only a command whose handles' Names hash to this. */
  async policyNameHash(policy: Session, nameHash: Uint8Array, options: CommandOptions = {}): Promise<void> {
    await this.run("PolicyNameHash", [policy, nameHash], options);
  }
  /** Replaces the session's digest, which must be `approved`, by one of the key's Name and `policyRef`. */
  async policyAuthorize(
    policy: Session,
    approved: Uint8Array,
    policyRef: Uint8Array,
    keyName: Uint8Array,
    ticket: Uint8Array,
    options: CommandOptions = {},
  ): Promise<void> {
    await this.run("PolicyAuthorize", [policy, approved, policyRef, keyName, ticket], options);
  }
  /** The session's policy digest as it stands. */
  async policyGetDigest(policy: Session, options: CommandOptions = {}): Promise<Uint8Array> {
    return (await this.run("PolicyGetDigest", [policy], options)).bytes(0);
  }
  /** The session as it was when started. */
  async policyRestart(policy: Session, options: CommandOptions = {}): Promise<void> {
    await this.run("PolicyRestart", [policy], options);
  }
}
