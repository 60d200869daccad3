import { type ErrorFields, IronclawError } from "../policy/index.ts";

/** Codes of everything that builds an image or runs a virtual machine. */
export type ImageErrorCode =
  | "ERR_IMAGE_TOOL"
  | "ERR_IMAGE_PACKAGE"
  | "ERR_IMAGE_SOURCE"
  | "ERR_IMAGE_MALFORMED"
  | "ERR_IMAGE_PLACE"
  | "ERR_VM_START"
  | "ERR_VM_TIMEOUT"
  | "ERR_VM_EXITED"
  | "ERR_VM_TPM"
  | "ERR_VM_PORT"
  | "ERR_VM_CONTROL"
  | "ERR_VM_REFUSED"
  | "ERR_VM_DEVICE"
  | "ERR_HOST_MALFORMED";

const EXIT_CODES: Readonly<Partial<Record<ImageErrorCode, 1 | 3>>> = {
  ERR_IMAGE_MALFORMED: 3,
  ERR_HOST_MALFORMED: 3,
  ERR_VM_DEVICE: 1,
};

/** The image cannot be built, or the virtual machine cannot be run, on this machine as it is. */
export class ImageError extends IronclawError {
  readonly code: ImageErrorCode;
  readonly exitCode: 1 | 3 | 4;

  constructor(code: ImageErrorCode, what: string, fields?: ErrorFields) {
    super(what, fields);
    this.code = code;
    this.exitCode = EXIT_CODES[code] ?? 4;
  }
}

/** For the programs of this folder: one line (and a hint) for a person, and the error's exit code. Rethrows the rest. */
export function reportFailure(error: unknown): void {
  if (!(error instanceof ImageError)) throw error;
  console.error(error.message + (error.hint === undefined ? "" : `\nhint: ${error.hint}`));
  process.exitCode = error.exitCode;
}
