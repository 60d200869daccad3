import { loadBinding } from "./binding.ts";
import { Connection } from "./connection.ts";
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
  private constructor(connection: Connection) {
    super(connection);
  }

  /** Connects. The TPM must have been started (firmware, kernel or emulator does it), else only `startup` succeeds. */
  static async open({ tcti, nativeDirectory }: TpmOptions): Promise<Tpm> {
    if (!/^[a-z0-9_-]+:[^\0]+$/.test(tcti))
      throw new TypeError("tcti: expected name:configuration, e.g. device:/dev/tpmrm0");
    const connection = new Connection(loadBinding(nativeDirectory));
    await connection.run({ command: "Open", inputs: [new TextEncoder().encode(tcti)] });
    return new Tpm(connection);
  }

  /** Flushes every handle still held, then disconnects. */
  close(): Promise<void> {
    return this.connection.close();
  }
  /** `close`. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
