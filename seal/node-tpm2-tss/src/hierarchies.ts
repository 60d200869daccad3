import { U32_MAX, unsigned } from "./bytes.ts";
import type { CommandOptions } from "./commands.ts";
import type { PermanentAuthority } from "./constants.ts";
import { NvCommands } from "./nv.ts";

/** The lockout against guessing authValues. */
export interface DictionaryAttackParameters {
  /** Failed tries until the TPM is locked out; 0 locks it out at once. */
  readonly maxTries: number;
  /** Seconds after which one failed try is forgotten; 0 switches the protection off. */
  readonly recoveryTime: number;
  /** Seconds for which a wrong lockout authValue closes the lockout hierarchy; 0: until the next reset. */
  readonly lockoutRecovery: number;
}

/** The hierarchies' own commands. Each is authorised by the hierarchy it names. */
export abstract class HierarchyCommands extends NvCommands {
  /** ESYS then knows the new authValue. */
  async hierarchyChangeAuth(
    hierarchy: Exclude<PermanentAuthority, "null">,
    newAuth: Uint8Array,
    options: CommandOptions = {},
  ): Promise<void> {
    await this.run("HierarchyChangeAuth", [hierarchy, newAuth], options, ["password"]);
  }
  /**
   * TPM2_Clear: deletes the owner's and endorsement's objects and NV indices, makes a new owner seed, and empties the
   * authValues of owner, endorsement and lockout. The endorsement seed stays. Dispose handles of such objects before: the TPM
   * gives their numbers to the next ones.
   */
  async clear(authority: "lockout" | "platform", options: CommandOptions = {}): Promise<void> {
    await this.run("Clear", [authority], options, ["password"]);
  }
  /** Lockout may disable Clear, only platform enables it again. */
  async clearControl(authority: "lockout" | "platform", disable: boolean, options: CommandOptions = {}): Promise<void> {
    await this.run("ClearControl", [authority, disable ? 1 : 0], options, ["password"]);
  }
  /** Forgets all failed tries. */
  async dictionaryAttackLockReset(options: CommandOptions = {}): Promise<void> {
    await this.run("DictionaryAttackLockReset", [], options, ["password"]);
  }
  /** Sets all three. */
  async dictionaryAttackParameters(
    parameters: DictionaryAttackParameters,
    options: CommandOptions = {},
  ): Promise<void> {
    const inputs = [
      unsigned("maxTries", parameters.maxTries, U32_MAX),
      unsigned("recoveryTime", parameters.recoveryTime, U32_MAX),
      unsigned("lockoutRecovery", parameters.lockoutRecovery, U32_MAX),
    ];
    await this.run("DictionaryAttackParameters", inputs, options, ["password"]);
  }
}
