/** Who answered: the TPM itself, the kernel's or another resource manager, a layer of the library, or the connection. */
export type TpmErrorLayer =
  | "tpm"
  | "fapi"
  | "esys"
  | "sys"
  | "mu"
  | "tcti"
  | "resmgr"
  | "resmgr-tpm"
  | "driver"
  | "unknown";

// TSS2_RC_LAYER, bits 16-23 of a response code (TCG TSS 2.0 Overview, section 3.2).
const layers: ReadonlyMap<number, TpmErrorLayer> = new Map([
  [0, "tpm"],
  [6, "fapi"],
  [7, "esys"],
  [8, "sys"],
  [9, "mu"],
  [10, "tcti"],
  [11, "resmgr"],
  [12, "resmgr-tpm"],
  [13, "driver"],
]);

/** A command that the TPM, or something on the way to it, answered with an error. Carries no input of the command. */
export class TpmError extends Error {
  /** The full TSS2_RC, e.g. 0x99d. Bits 8-11 of a format-one code name the parameter, handle or session at fault. */
  readonly rc: number;
  readonly layer: TpmErrorLayer;
  /** The ESYS name of the command, e.g. `PolicyPCR`. */
  readonly command: string;

  constructor(rc: number, command: string, text: string) {
    super(`${command}: ${text} (0x${rc.toString(16)})`);
    this.name = "TpmError";
    this.rc = rc;
    this.layer = layers.get((rc >>> 16) & 0xff) ?? "unknown";
    this.command = command;
  }
}

/** Bytes that are not the structure they should be: too short, too long, or with a value that is not allowed there. */
export class TpmFormatError extends Error {
  /** The TCG's name of the structure, e.g. `TPML_PCR_SELECTION`. */
  readonly structure: string;

  constructor(structure: string, text: string) {
    super(`${structure}: ${text}`);
    this.name = "TpmFormatError";
    this.structure = structure;
  }
}
