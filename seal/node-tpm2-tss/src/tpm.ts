import { loadBinding } from "./binding.ts";
import { Connection } from "./connection.ts";
import type { TpmError } from "./errors.ts";
import { HierarchyCommands } from "./hierarchies.ts";

/** How to reach a TPM. */
export interface TpmOptions {
  /** TCTI configuration `name:value`, e.g. `device:/dev/tpmrm0`. Never searched for: a default could be another process's TPM. */
  readonly tcti: string;
  /** Directory that holds tpm2_tss.node. */
  readonly nativeDirectory: string;
}

/**
 * Commands of one TPM, named as in ESYS. Structures cross as the TCG marshals them (TPMT_PUBLIC, TPMT_SIGNATURE,
 * TPMT_TK_VERIFIED without a TPM2B size). Every method throws TpmError when the command fails, TpmFormatError when the TPM
 * answers what is no answer, and TypeError, before anything is sent, for arguments that cannot be right. Nothing here judges
 * what the TPM says: signatures, Names and certificates are the caller's to verify.
 */
export class Tpm extends HierarchyCommands implements AsyncDisposable {
  readonly #options: TpmOptions;
  #closed = false;

  private constructor(connection: Connection, options: TpmOptions) {
    super(connection);
    this.#options = options;
  }

  /** Connects. The TPM must have been started (firmware, kernel or emulator does it), else only `startup` succeeds. */
  static async open(options: TpmOptions): Promise<Tpm> {
    const { tcti, nativeDirectory } = options;
    if (!/^[a-z0-9_-]+:[^\0]+$/.test(tcti))
      throw new TypeError("tcti: expected name:configuration, e.g. device:/dev/tpmrm0");
    const connection = new Connection(loadBinding(nativeDirectory));
    await connection.run({ command: "Open", inputs: [new TextEncoder().encode(tcti)] });
    return new Tpm(connection, options);
  }

  /**
   * Resolves with the error of the command after which ESYS takes no other on this connection: one that was not sent whole, or
   * whose answer was lost or was no response. Whether the TPM carried it out is not known. Every later command ends in `esys`
   * 0x70007 and was not sent.
   */
  get lost(): Promise<TpmError> {
    return this.connection.lost;
  }

  /**
   * Puts a new connection to the same TPM in the place of this one. Nothing is repeated, and handles and sessions that were
   * made before are of no use any more. Where this rejects everything stays as it was, and it may be called again.
   * @param prepare makes on the new connection what has to be there first; nobody else uses it yet
   */
  async reopen(prepare: (fresh: Tpm) => Promise<void> = async () => {}): Promise<void> {
    await this.connection.close();
    const fresh = await Tpm.open(this.#options);
    try {
      await prepare(fresh);
      if (this.#closed) throw new TypeError("reopen: the connection was closed for good");
    } catch (cause) {
      await fresh.close();
      throw cause;
    }
    this.connection = fresh.connection;
  }

  /** Flushes every handle still held, then disconnects. */
  close(): Promise<void> {
    this.#closed = true;
    return this.connection.close();
  }
  /** `close`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
